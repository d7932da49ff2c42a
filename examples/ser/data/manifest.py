"""Any corpus of short clips, named by a CSV file."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sklearn.model_selection import GroupKFold

from examples.ser.data.corpora import GENDERS, Corpus, CorpusError, Utterance

MANIFEST_COLUMNS = ("path", "label", "speaker")


def load_manifest(
    csv_path: str | Path, *, labels: Sequence[str] | None = None, folds: int = 5
) -> Corpus:
    """Load a corpus from a CSV with columns path, label, speaker; optional session, gender, fold.

    Args:
        csv_path: the CSV; its paths are relative to it. A `corpus` column names the corpus, else
            the CSV's folder does.
        labels: classes in order; by default the sorted labels of the CSV.
        folds: over how many folds the speakers are spread, where there is neither a `fold` column
            nor one of sessions (one fold per session).

    Raises:
        CorpusError: the CSV lacks a column, or leaves nothing to train and test on.
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
            fault = f"duplicate id {row['path']}; remove one of the two rows"
            problems.append(f"{csv_path}, line {row['line']}: {fault}")
        else:
            utterances[path.resolve()] = Utterance(
                id=_clip_id(path, csv_path.parent),
                path=path,
                label=row["label"],
                speaker=row["speaker"],
                gender=GENDERS[row.get("gender", "").lower()],
                session=row.get("session", ""),
                fold=int(row["fold"]) if row.get("fold") else None,
            )
    clips, notes, crossing = _with_folds(tuple(utterances.values()), folds)
    problems += [f"{csv_path}: {line}" for line in crossing]
    if (number := len({clip.fold for clip in clips})) < 2:
        few = f"expected two folds or more, got {number}; list clips of two speakers or more"
        raise CorpusError(name, [*problems, f"{csv_path}: {few}"])
    return Corpus(name, classes, clips, notes, tuple(problems))


def _read_rows(csv_path: Path) -> list[dict[str, str]]:
    """Read the rows of a manifest with their line numbers; strip the cells."""
    try:
        with csv_path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="(more)", restval="")
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [row | {"line": str(reader.line_num)} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(
            csv_path.name, [f"{csv_path}: expected a readable CSV, got {error}; check it"]
        ) from error
    if missing := [column for column in MANIFEST_COLUMNS if column not in columns]:
        expected = f"expected columns {', '.join(MANIFEST_COLUMNS)}"
        fault = f"{expected}, got {', '.join(columns)}; add {', '.join(missing)}"
    elif ragged := ", ".join(row["line"] for row in rows if "(more)" in row):
        fault = f"expected a cell per column, got more in line {ragged}; quote cells with a comma"
    elif not rows:
        fault = "expected a row per clip, got none; list the clips under the header"
    else:
        return [{key: value.strip() for key, value in row.items()} for row in rows]
    raise CorpusError(csv_path.name, [f"{csv_path}: {fault}"])


def _clip_id(path: Path, folder: Path) -> str:
    """Return the path from `folder` on, the same however the manifest spells it.

    Spellings differ by "." and "..", by being absolute, and in the Unicode form of their letters.
    """
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return unicodedata.normalize("NFC", relative)


def _row_fault(row: dict[str, str], path: Path, classes: Sequence[str]) -> str:
    """Return what is wrong with a row, with a hint; empty if nothing is."""
    if empty := [column for column in MANIFEST_COLUMNS if not row[column]]:
        return f"expected a {' and a '.join(empty)}, got an empty cell; fill it in"
    if not path.is_file():
        return f"expected a file at {path}, got none; paths are relative to the CSV"
    if row["label"] not in classes:
        return f"{path}: expected a label of {', '.join(classes)}, got {row['label']!r}; correct it"
    if row.get("gender", "").lower() not in GENDERS:
        return f"{path}: expected gender male, female or none, got {row['gender']!r}; correct it"
    if row.get("fold") and not re.fullmatch(r"\d+", row["fold"], re.ASCII):
        return f"{path}: expected a fold 0, 1, ..., got {row['fold']!r}; correct it"
    return ""


def _with_folds(
    clips: tuple[Utterance, ...], folds: int
) -> tuple[tuple[Utterance, ...], tuple[str, ...], list[str]]:
    """Assign folds; return the consistent clips, notes, and problems with the others."""
    notes: tuple[str, ...] = ()
    problems = []
    column = "session" if len({u.session for u in clips}) > 1 else ""
    column = "fold" if any(u.fold is not None for u in clips) else column
    if column:
        empty = [u for u in clips if getattr(u, column) in {None, ""}]
        problems = [f"{u.id}: expected a {column}, got none; fill it in" for u in empty]
        clips = tuple(u for u in clips if u not in empty)
    if column == "session":
        sessions = sorted({u.session for u in clips})
        clips = tuple(replace(u, fold=sessions.index(u.session)) for u in clips)
        notes = (f"one fold per session: {', '.join(sessions)}",)
    for what in ("fold", "gender"):
        values = Counter(who for who, _ in {(u.speaker, getattr(u, what)) for u in clips})
        crossing = sorted(who for who, number in values.items() if number > 1)
        hint = f"give all rows of one person the same {what}, and two persons two names"
        problems += [
            f"speaker {who} (all clips): expected one {what}, got {values[who]}; {hint}"
            for who in crossing
        ]
        clips = tuple(u for u in clips if u.speaker not in crossing)
    number = min(folds, len({u.speaker for u in clips}))
    if not column and number > 1:
        parts = GroupKFold(number).split(clips, groups=[u.speaker for u in clips])
        fold_of = {index: fold for fold, (_, test) in enumerate(parts) for index in test.tolist()}
        notes = (f"{len({u.speaker for u in clips})} speakers spread over {number} folds",)
        clips = tuple(replace(u, fold=fold_of[index]) for index, u in enumerate(clips))
    return clips, notes, problems
