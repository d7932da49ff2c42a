"""IEMOCAP: the four classes of Table 2 from the full release, one fold per session.

The release has a licence of its own (sail.usc.edu/iemocap) and is not part of this repository.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from examples.ser.data.corpora import GENDERS, Corpus, CorpusError, Utterance

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

    Speaker and gender are told by the last field of a turn's name (F000, M000): its prefix names
    the dialogue, in which both speak. A fold is a session: it tests one woman and one man. Names,
    labels and counts are checked here, the audio where it is read; macOS junk (._*) is ignored.
    Counts other than the published ones are a problem and no note: a score on other turns cannot
    stand beside the paper's.

    Args:
        root: the folder.
        part: "all" (Table 2), "impro" (the text of section 3.1) or "script".
        happy: the emotions in the class happy: "both" (Table 2), "happiness" or "excitement".

    Raises:
        ValueError: `part` or `happy` is none of these.
        CorpusError: there is no turn to use at all.
    """
    for option, value, known in (("part", part, PARTS), ("happy", happy, HAPPY)):
        if value not in known:
            raise ValueError(f"{option} must be among {', '.join(known)}; got {value!r}")
    # DIFF: section 3.1 speaks of the impro part alone, but the 5531 turns of Table 2 are both
    # parts, with excitement counted as happy: that by default.
    name = "-".join(["iemocap", *(v for v in (part, happy) if v not in {"all", "both"})])
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(name, [f"{root}: is no folder; unpack the archive and name that"])
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
        mend = "wanted Session1 to Session5 with dialog/EmoEvaluation and sentences/wav"
        raise CorpusError(name, [*problems, f"{root}: no turn to use; {mend}; check the path"])
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
            problems.append(f"{folder}: no evaluation file *.txt; unpack the archive again")
        for file in files:
            dialogue = rf"(?=Ses0{session}[FM]_(impro|script)){re.escape(file.stem)}"
            # Any byte is latin-1: what is beyond ASCII stands in the raters' comments.
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
    """Say what is wrong with the line of a turn, with the mend; empty if nothing is."""
    if not turn:
        wanted = "wanted [start - end], turn, emotion, [v, a, d] with tabs between"
        return f"unreadable, {wanted}; unpack the file again"
    if not re.fullmatch(rf"{dialogue}_[FM]\w{{3}}", turn):
        return f"turn {turn} belongs to another session or dialogue; unpack the file again"
    if emotion not in EMOTIONS:
        return f"unknown emotion {emotion!r} of {turn}; wanted one of {', '.join(EMOTIONS)}"
    return f"duplicated turn {turn}; remove one of the two lines" if turn in turns else ""


def _count_faults(counts: Mapping[str, int], part: str, emotions: Iterable[str]) -> list[str]:
    """Return one line that names each emotion whose turns are not as many as published."""
    wanted = {e: sum(IEMOCAP_COUNTS[p][e] for p in PARTS[part]) for e in emotions}
    odd = [f"{e} {counts[e]} of {number}" for e, number in wanted.items() if counts[e] != number]
    mend = "unpack the archive again, or do not compare with published scores"
    return [f"turns not as many as published: {', '.join(odd)}; {mend}"] if odd else []


def _missing_faults(clips: Sequence[Utterance], there: Container[str]) -> list[str]:
    """Return one line per dialogue whose wavs are not all there."""
    problems = []
    for folder, group in itertools.groupby(clips, key=lambda clip: clip.path.parent):
        turns = list(group)
        if ids := [clip.id for clip in turns if clip.id not in there]:
            named = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
            number = f"{len(turns) - len(ids)} of {len(turns)} wavs"
            problems.append(f"{folder}: {number}, missing {named}; unpack again")
    return problems


def _utterance(root: Path, turn: str, label: str) -> Utterance:
    """Read the place, speaker, gender, session and fold of a turn off its name."""
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
