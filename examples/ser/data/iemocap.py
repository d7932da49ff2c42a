"""IEMOCAP: the four classes of Table 2 from the full release, one fold per session.

The release has its own licence (sail.usc.edu/iemocap) and is not part of this repository.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from examples.ser.data.corpora import GENDERS, Corpus, CorpusError, Utterance, few

IEMOCAP_LABELS = ("neutral", "happy", "sad", "angry")
IEMOCAP_COUNTS = {  # turns by part and emotion; together they are Table 2's 5531
    "impro": {"neu": 1099, "hap": 284, "exc": 663, "sad": 608, "ang": 289},
    "script": {"neu": 609, "hap": 311, "exc": 378, "sad": 476, "ang": 814},
}
CLASSES = {"neu": "neutral", "sad": "sad", "ang": "angry"}
PARTS = {"all": ("impro", "script"), "impro": ("impro",), "script": ("script",)}
HAPPY = {"both": ("hap", "exc"), "happiness": ("hap",), "excitement": ("exc",)}
EMOTIONS = ("ang", "dis", "exc", "fea", "fru", "hap", "neu", "oth", "sad", "sur", "xxx")
TURN_LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\w+)\t(\w+)\t\[[\d.]+, [\d.]+, [\d.]+\]\s*")


def load_iemocap(root: str | Path, *, part: str = "all", happy: str = "both") -> Corpus:
    """Load IEMOCAP as it unpacks: Session1 to Session5 at `root` or in its IEMOCAP_full_release.

    The last field of a turn's name (F000, M000) gives speaker and gender; its prefix names the
    dialogue, in which both speak. A fold is a session: it tests one woman and one man. Names,
    labels and counts are checked here, the audio where it is read; macOS files ._* are ignored.
    Counts other than the published ones are a problem, not a note: a score on other turns is not
    comparable with the paper's.

    Args:
        root: the folder.
        part: "all" (Table 2), "impro" (as section 3.1 says) or "script".
        happy: the emotions in the class happy: "both" (Table 2), "happiness" or "excitement".

    Raises:
        ValueError: another `part` or `happy`.
        CorpusError: there is no turn to use at all.
    """
    for option, value, known in (("part", part, PARTS), ("happy", happy, HAPPY)):
        if value not in known:
            raise ValueError(f"expected {option} among {', '.join(known)}, got {value!r}")
    # DIFF: section 3.1 speaks of the impro part alone, but the 5531 turns of Table 2 are both
    # parts, with excitement counted as happy: that by default.
    name = "-".join(["iemocap", *(v for v in (part, happy) if v not in {"all", "both"})])
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(name, [f"{root}: expected a folder, got none; unpack the archive there"])
    if (root / "IEMOCAP_full_release").is_dir():
        root = root / "IEMOCAP_full_release"
    turns, problems = _read_turns(root)
    turns = {t: emotion for t, emotion in turns.items() if any(p in t for p in PARTS[part])}
    classes = CLASSES | dict.fromkeys(HAPPY[happy], "happy")
    chosen = {turn: classes[turns[turn]] for turn in sorted(turns) if turns[turn] in classes}
    clips = [_utterance(root, turn, label) for turn, label in chosen.items()]
    there = tuple(clip for clip in clips if clip.path.is_file())
    counts = Counter(turns.values())
    problems += _count_faults(counts, part, classes) + _missing_faults(clips, {c.id for c in there})
    if not there:
        expected = "expected Session1 to Session5 with dialog/EmoEvaluation and sentences/wav"
        problems.append(f"{root}: {expected}, got no turn to use; check the path")
        raise CorpusError(name, problems)
    left = ", ".join(f"{emotion} {counts[emotion]}" for emotion in sorted({*counts} - {*classes}))
    notes = ("one fold per session", f"turns of other emotions left out: {left or 'none'}")
    return Corpus(name, IEMOCAP_LABELS, there, notes, tuple(problems))


def _read_turns(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return every turn with its emotion, in all evaluation files, and their problems."""
    turns: dict[str, str] = {}
    problems = []
    for session in range(1, 6):
        folder = root / f"Session{session}" / "dialog" / "EmoEvaluation"
        files = [path for path in sorted(folder.glob("*.txt")) if not path.name.startswith("._")]
        if not files:
            problems.append(f"{folder}: expected *.txt, got no evaluation file; unpack again")
        for file in files:
            dialogue = rf"(?=Ses0{session}[FM]_(impro|script)){re.escape(file.stem)}"
            # Any byte is valid latin-1; only the raters' comments go beyond ASCII.
            lines = file.read_text(encoding="latin-1").split("\n")
            for number, line in enumerate(lines, 1):
                if not line.startswith("["):
                    continue  # the header, a blank, or one rater's own judgement
                match = TURN_LINE.fullmatch(line)
                turn, emotion = match.groups() if match else ("", "")
                if fault := _turn_fault(turn, emotion, dialogue, turns):
                    problems.append(f"{file}, line {number}: {fault}")
                else:
                    turns[turn] = emotion
    return turns, problems


def _turn_fault(turn: str, emotion: str, dialogue: str, turns: Container[str]) -> str:
    """Return what is wrong with the line of a turn, with a hint; empty if nothing is."""
    if not turn:
        expected = "expected [start - end], turn, emotion, [v, a, d] with tabs between"
        return f"{expected}, got another line; unpack the file again"
    if not re.fullmatch(rf"{dialogue}_[FM]\w{{3}}", turn):
        return f"expected turns of this dialogue, got {turn} of another; unpack the file again"
    if emotion not in EMOTIONS:
        return f"{turn}: expected an emotion of {', '.join(EMOTIONS)}, got {emotion!r}; correct it"
    return f"duplicate turn {turn}; remove one of the two lines" if turn in turns else ""


def _count_faults(counts: Mapping[str, int], part: str, emotions: Iterable[str]) -> list[str]:
    """Return one line that names each emotion whose turns are not as many as published."""
    published = {e: sum(IEMOCAP_COUNTS[p][e] for p in PARTS[part]) for e in emotions}
    odd = [f"{e} {counts[e]} of {n}" for e, n in published.items() if counts[e] != n]
    hint = "unpack the archive again, or do not compare with published scores"
    return [f"expected the published turns, got {', '.join(odd)}; {hint}"] if odd else []


def _missing_faults(clips: Sequence[Utterance], there: Container[str]) -> list[str]:
    """Return one line per dialogue whose wavs are not all there."""
    problems = []
    for folder, group in itertools.groupby(clips, key=lambda clip: clip.path.parent):
        turns = list(group)
        if ids := [clip.id for clip in turns if clip.id not in there]:
            found = f"expected {len(turns)} wavs, got {len(turns) - len(ids)}"
            problems.append(f"{folder}: {found}, missing {few(ids)}; unpack again")
    return problems


def _utterance(root: Path, turn: str, label: str) -> Utterance:
    """Read path, speaker, gender, session and fold from the name of a turn."""
    dialogue, _, last = turn.rpartition("_")
    session = f"Session{turn[4]}"
    return Utterance(
        id=turn,
        path=root / session / "sentences" / "wav" / dialogue / f"{turn}.wav",
        label=label,
        speaker=f"{session}_{last[0]}",
        gender=GENDERS[last[0].lower()],
        session=session,
        fold=int(turn[4]) - 1,
    )
