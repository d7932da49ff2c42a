"""Corpora: which clips there are, who speaks, what is felt, and who is tested when.

A loader reads names and tables, never audio, and lists every problem that it meets in
`Corpus.problems`. `features.load_frames` reads the audio once, adds the problems found there, and
raises them all together as one `CorpusError`, or (``skip_bad=True``) goes on without those clips
and says so in `Corpus.notes`. `split` refuses a corpus with problems that nobody has settled.

``python -m examples.ser.data.corpora`` prints folds/ravdess.csv again, from the naming rule alone.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.model_selection import GroupKFold

RAVDESS_LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS_FOLDS = Path(__file__).parent / "folds" / "ravdess.csv"
RAVDESS_FIELDS = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
RAVDESS_CODES = ((3, 3), (1, 1), (1, 8), (1, 2), (1, 2), (1, 2), (1, 24))  # first and last, speech
MANIFEST_COLUMNS = ("path", "label", "speaker")
GENDERS = {"": "", "m": "male", "male": "male", "f": "female", "female": "female"}


class CorpusError(ValueError):
    """Everything that is wrong with a corpus, in one list: file, what is wrong, the mend."""

    def __init__(self, name: str, problems: Sequence[str], mend: str = "") -> None:
        self.problems = tuple(problems)
        lines = [f"corpus {name}: {len(self.problems)} problem(s)"]
        lines += [f"  - {problem}" for problem in self.problems]
        super().__init__("\n".join(lines + [mend] * bool(mend)))


@dataclass(frozen=True)
class Utterance:
    """One clip. `gender` is "male", "female" or "" (unknown); `fold` is its test fold."""

    id: str
    path: Path
    label: str
    speaker: str
    gender: str = ""
    session: str = ""
    fold: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Clips with their classes in order.

    `notes` say what deviates and is harmless, or was skipped; `problems` are not settled yet.
    """

    name: str
    labels: tuple[str, ...]
    utterances: tuple[Utterance, ...]
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers, sorted; `Segments.speaker` indexes this."""
        return tuple(sorted({u.speaker for u in self.utterances}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The test folds, sorted."""
        return tuple(sorted({u.fold for u in self.utterances if u.fold is not None}))

    def settle(self, found: Sequence[str], bad: Iterable[str], *, skip_bad: bool) -> Corpus:
        """Raise all problems, with those `found` in the audio; or leave the `bad` ids out.

        Raises:
            CorpusError: there are problems and ``skip_bad`` is off, or no clip is left.
        """
        problems = (*self.problems, *found)
        if problems and not skip_bad:
            mend = "Mend these, or pass skip_bad=True (--skip-bad) to go on without them."
            raise CorpusError(self.name, problems, mend)
        dropped = set(bad)
        kept = tuple(u for u in self.utterances if u.id not in dropped)
        if not kept:
            raise CorpusError(self.name, (*problems, "no usable clip is left"))
        skipped = tuple(f"skipped: {problem}" for problem in problems)
        return replace(self, utterances=kept, notes=self.notes + skipped, problems=())


def ravdess_rows() -> Iterator[dict[str, str]]:
    """Yield the 1440 manifest rows (id, label, speaker, gender, fold), from the naming rule alone.

    Odd actors are men, even ones women; fold k tests actors 4k + 1 to 4k + 4, two men, two women.
    Which actors the paper put together is not given.
    """
    codes = itertools.product(range(1, 25), range(1, 9), (1, 2), (1, 2), (1, 2))
    for actor, emotion, intensity, statement, repetition in codes:
        if emotion == 1 and intensity == 2:
            continue  # neutral has no strong intensity: 60 clips per actor, not 64
        yield {
            "id": f"03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}",
            "label": RAVDESS_LABELS[emotion - 1],
            "speaker": f"Actor_{actor:02}",
            "gender": "male" if actor % 2 else "female",
            "fold": str((actor - 1) // 4),
        }


def load_ravdess(root: str | Path) -> Corpus:
    """Load RAVDESS speech as its archive unpacks: Actor_XX/*.wav (or .flac), at `root` or deeper.

    Names, counts and duplicates are checked here, the audio where it is read. Raises CorpusError
    at once when there is no RAVDESS clip at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError("ravdess", [f"{root}: is no folder; unpack the archive and name that"])
    with RAVDESS_FOLDS.open(newline="", encoding="utf-8") as file:
        manifest = {row["id"]: row for row in csv.DictReader(file)}
    clips: dict[str, Utterance] = {}
    problems = []
    files = (path for path in root.rglob("*") if not path.is_dir())
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        if fault := _ravdess_name_fault(path):
            problems.append(f"{path}: {fault}")
        elif path.stem in clips:
            first = clips[path.stem].path
            problems.append(f"{path}: duplicated id, also {first}; remove one of the two copies")
        else:
            row = manifest[path.stem]
            clips[path.stem] = Utterance(
                path.stem, path, row["label"], row["speaker"], row["gender"], fold=int(row["fold"])
            )
    if not clips:
        mend = "wanted Actor_01 to Actor_24 with WAV or FLAC clips 03-01-*; check the path"
        raise CorpusError("ravdess", [*problems, f"{root}: no RAVDESS speech clip; {mend}"])
    problems += _ravdess_missing(manifest, clips)
    utterances = tuple(clips[key] for key in sorted(clips))
    return Corpus("ravdess", RAVDESS_LABELS, utterances, problems=tuple(problems))


def _ravdess_name_fault(path: Path) -> str:
    """Say what is wrong with a file's name and place, with the mend; empty if nothing is."""
    is_clip = re.fullmatch(r"\d\d(-\d\d){6}", path.stem, re.ASCII)
    if path.suffix.lower() not in {".wav", ".flac"} or not is_clip:
        return "stray file, no RAVDESS clip (03-01-*.wav or .flac); move it out of the tree"
    codes = path.stem.split("-")
    for field, (first, last), code in zip(RAVDESS_FIELDS, RAVDESS_CODES, codes, strict=True):
        if not first <= int(code) <= last:
            wanted = f"{first:02}" if first == last else f"{first:02} to {last:02}"
            return f"unknown {field} code {code}, wanted {wanted}; move it out or correct its name"
    if codes[2:4] == ["01", "02"]:
        return "neutral at intensity 02, wanted 01; move it out or correct its name"
    if path.parent.name != f"Actor_{codes[6]}":
        return f"lies in {path.parent.name}, but its name says Actor_{codes[6]}; move it there"
    return "" if path.is_file() else "missing file, a broken link; copy the clip again"


def _ravdess_missing(manifest: Iterable[str], clips: Iterable[str]) -> list[str]:
    """Return one line per actor whose 60 clips are not all there."""
    missing = sorted(set(manifest) - set(clips), key=lambda clip: (clip[-2:], clip))
    problems = []
    for actor, group in itertools.groupby(missing, key=lambda clip: clip[-2:]):
        ids = list(group)
        named = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
        problems.append(
            f"Actor_{actor}: {60 - len(ids)} of 60 clips, missing {named}; unpack again"
        )
    return problems


def load_manifest(
    csv_path: str | Path, *, labels: Sequence[str] | None = None, folds: int = 5
) -> Corpus:
    """Load any corpus named by a CSV: columns path, label, speaker; maybe session, gender, fold.

    Paths are relative to the CSV. Folds: the `fold` column; else one fold per session; else the
    speakers spread over `folds` folds. The corpus is named by a `corpus` column, else by the
    CSV's folder. Classes are `labels` in that order, else the sorted labels of the CSV. Raises
    CorpusError at once when the CSV lacks a column or leaves nothing to train and test on.
    """
    csv_path = Path(csv_path)
    rows = _read_rows(csv_path)
    name = rows[0].get("corpus") or csv_path.resolve().parent.name
    classes = tuple(labels) if labels else tuple(sorted({row["label"] for row in rows} - {""}))
    utterances: dict[Path, Utterance] = {}
    problems = []
    for row in rows:
        path = csv_path.parent / row["path"]
        if fault := _row_fault(row, path, classes):
            problems.append(f"{csv_path}, line {row['line']}: {fault}")
        elif path.resolve() in utterances:
            fault = f"duplicated id {row['path']}; remove one of the two rows"
            problems.append(f"{csv_path}, line {row['line']}: {fault}")
        else:
            utterances[path.resolve()] = Utterance(
                id=Path(row["path"]).as_posix(),
                path=path,
                label=row["label"],
                speaker=row["speaker"],
                gender=GENDERS[row.get("gender", "").lower()],
                session=row.get("session", ""),
                fold=int(row["fold"]) if row.get("fold") else None,
            )
    clips, notes, crossing = _with_folds(tuple(utterances.values()), folds)
    problems += [f"{csv_path}: {line}" for line in crossing]
    if len({clip.fold for clip in clips}) < 2:
        few = f"{csv_path}: no two folds to test and train on; name clips of two speakers or more"
        raise CorpusError(name, [*problems, few])
    return Corpus(name, classes, clips, notes, tuple(problems))


def _read_rows(csv_path: Path) -> list[dict[str, str]]:
    """Read the rows of a manifest, with their line numbers; blanks around cells are removed."""
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="(more)", restval="")
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [row | {"line": str(reader.line_num)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(csv_path.name, [f"{csv_path}: no readable CSV ({error})"]) from error
    if missing := [column for column in MANIFEST_COLUMNS if column not in columns]:
        wanted = f"wanted {', '.join(MANIFEST_COLUMNS)}, came {', '.join(columns)}"
        fault = f"missing column {', '.join(missing)}; {wanted}"
    elif ragged := ", ".join(row["line"] for row in rows if "(more)" in row):
        fault = f"more cells than columns in line {ragged}; quote cells that hold a comma"
    elif not rows:
        fault = "no row under its header; name the clips"
    else:
        return [{key: value.strip() for key, value in row.items()} for row in rows]
    raise CorpusError(csv_path.name, [f"{csv_path}: {fault}"])


def _row_fault(row: dict[str, str], path: Path, classes: Sequence[str]) -> str:
    """Say what is wrong with a row, with the mend; empty if nothing is."""
    if empty := [column for column in MANIFEST_COLUMNS if not row[column]]:
        return f"empty {', '.join(empty)}; fill it in"
    if not path.is_file():
        return f"missing file {path}; paths are relative to the CSV"
    if row["label"] not in classes:
        return f"{path}: unknown label {row['label']!r}; wanted one of {', '.join(classes)}"
    if row.get("gender", "").lower() not in GENDERS:
        return f"{path}: unknown gender {row['gender']!r}; wanted male, female or nothing"
    if row.get("fold") and not re.fullmatch(r"\d+", row["fold"], re.ASCII):
        return f"{path}: fold {row['fold']!r} is no whole number from 0; correct it"
    return ""


def _with_folds(
    clips: tuple[Utterance, ...], folds: int
) -> tuple[tuple[Utterance, ...], tuple[str, ...], list[str]]:
    """Give each clip its fold; return the clips that fit, notes, and problems for the others."""
    notes: tuple[str, ...] = ()
    problems = []
    column = "session" if len({u.session for u in clips}) > 1 else ""
    column = "fold" if any(u.fold is not None for u in clips) else column
    if column:
        empty = [u for u in clips if getattr(u, column) in {None, ""}]
        problems = [f"{u.id}: no {column}, where others have one; fill it in" for u in empty]
        clips = tuple(u for u in clips if u not in empty)
    if column == "session":
        sessions = sorted({u.session for u in clips})
        clips = tuple(replace(u, fold=sessions.index(u.session)) for u in clips)
        notes = (f"one fold per session: {', '.join(sessions)}",)
    for what in ("fold", "gender"):
        values = Counter(who for who, _ in {(u.speaker, getattr(u, what)) for u in clips})
        torn = sorted(who for who, number in values.items() if number > 1)
        mend = f"give all its rows one {what}, and two persons two names"
        problems += [
            f"speaker {who} (all its clips) has {values[who]} {what}s; {mend}" for who in torn
        ]
        clips = tuple(u for u in clips if u.speaker not in torn)
    number = min(folds, len({u.speaker for u in clips}))
    if not column and number > 1:
        parts = GroupKFold(number).split(clips, groups=[u.speaker for u in clips])
        fold_of = {index: fold for fold, (_, test) in enumerate(parts) for index in test.tolist()}
        notes = (f"{len({u.speaker for u in clips})} speakers spread over {number} folds",)
        clips = tuple(replace(u, fold=fold_of[index]) for index, u in enumerate(clips))
    return clips, notes, problems


if __name__ == "__main__":
    columns = ("id", "label", "speaker", "gender", "fold")
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ravdess_rows())
