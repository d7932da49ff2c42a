"""RAVDESS speech: 1440 clips of 24 actors, and our six folds of the names.

``python -m examples.ser.data.ravdess`` prints folds/ravdess.csv, from the naming rule alone.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from examples.ser.data.corpora import Corpus, CorpusError, Utterance, few, is_hidden

RAVDESS_LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS_FOLDS = Path(__file__).parent / "folds" / "ravdess.csv"
RAVDESS_FIELDS = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
RAVDESS_CODES = ((3, 3), (1, 1), (1, 8), (1, 2), (1, 2), (1, 2), (1, 24))  # first and last, speech


def ravdess_rows() -> Iterator[dict[str, str]]:
    """Yield the 1440 manifest rows (id, label, speaker, gender, fold), from the naming rule alone.

    Odd actors are men, even ones women; fold k tests actors 4k + 1 to 4k + 4, two men, two women.
    The paper does not give which actors form a fold.
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

    Checks names, counts and duplicates; the audio is checked where it is read.

    Raises:
        CorpusError: there is no RAVDESS clip at all.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(
            "ravdess", [f"{root}: expected a folder, got none; unpack the archive there"]
        )
    with RAVDESS_FOLDS.open(newline="", encoding="utf-8") as file:
        manifest = {row["id"]: row for row in csv.DictReader(file)}
    clips: dict[str, Utterance] = {}
    problems = []
    files = (path for path in root.rglob("*") if not path.is_dir())
    copies, songs = defaultdict(list), defaultdict(list)
    hidden = 0
    for path in sorted(files, key=lambda path: (len(path.parts), path)):
        # The folder that an archive unpacks to holds Actor_XX.
        archive = path.parent.parent if path.parent != root else root
        if is_hidden(path):
            hidden += 1
        elif re.fullmatch(r"0[123]-02(-\d\d){5}", path.stem, re.ASCII):
            songs[archive].append(path)
        elif fault := _ravdess_name_fault(path):
            problems.append(f"{path}: {fault}")
        elif path.stem in clips:
            copies[archive].append(f"{path} of {clips[path.stem].path}")
        else:
            row = manifest[path.stem]
            clips[path.stem] = Utterance(
                path.stem, path, row["label"], row["speaker"], row["gender"], fold=int(row["fold"])
            )
    for archive, names in copies.items():
        found = f"{len(names)} that are copies of others, {few(names, 1)}"
        problems.append(f"{archive}: expected each clip once, got {found}; remove the copies")
    for archive, paths in songs.items():
        found = f"{len(paths)} sung ones, {few([path.name for path in paths], 1)}"
        problems.append(f"{archive}: expected spoken clips 03-01-*, got {found}; move them out")
    if not clips:
        expected = "expected Actor_01 to Actor_24 with WAV or FLAC clips 03-01-*"
        problems.append(f"{root}: {expected}, got no RAVDESS speech clip; check the path")
        raise CorpusError("ravdess", problems)
    problems += _ravdess_missing(manifest, clips)
    utterances = tuple(clips[key] for key in sorted(clips))
    notes = (f"{hidden} macOS files (._*, .DS_Store) ignored",) * bool(hidden)
    return Corpus("ravdess", RAVDESS_LABELS, utterances, notes, tuple(problems))


def _ravdess_name_fault(path: Path) -> str:
    """Return what is wrong with a file's name and folder, with a hint; empty if nothing is."""
    is_clip = re.fullmatch(r"\d\d(-\d\d){6}", path.stem, re.ASCII)
    if path.suffix.lower() not in {".wav", ".flac"} or not is_clip:
        return "expected a clip 03-01-*.wav or .flac, got a stray file; move it out of the folder"
    codes = path.stem.split("-")
    for field, (first, last), code in zip(RAVDESS_FIELDS, RAVDESS_CODES, codes, strict=True):
        if not first <= int(code) <= last:
            expected = f"{first:02}" if first == last else f"{first:02} to {last:02}"
            return f"expected {field} code {expected}, got {code}; move it out or correct its name"
    if codes[2:4] == ["01", "02"]:
        return "expected intensity 01 for neutral, got 02; move it out or correct its name"
    if path.parent.name != f"Actor_{codes[6]}":
        return f"expected in Actor_{codes[6]} by its name, got {path.parent.name}; move it there"
    return "" if path.is_file() else "expected a file, got a broken link; copy the clip again"


def _ravdess_missing(manifest: Iterable[str], clips: Iterable[str]) -> list[str]:
    """Return one line per actor whose 60 clips are not all there."""
    missing = sorted(set(manifest) - set(clips), key=lambda clip: (clip[-2:], clip))
    problems = []
    for actor, group in itertools.groupby(missing, key=lambda clip: clip[-2:]):
        ids = list(group)
        found = f"got {60 - len(ids)}, missing {few(ids)}"
        problems.append(f"Actor_{actor}: expected 60 clips, {found}; unpack again")
    return problems


if __name__ == "__main__":
    columns = ("id", "label", "speaker", "gender", "fold")
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ravdess_rows())
