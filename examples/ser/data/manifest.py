"""Any corpus of short clips, named by a CSV file."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from examples.ser.data.corpora import GENDERS, Corpus, CorpusError, Utterance, is_hidden
from examples.ser.data.splits import spread_speakers

MANIFEST_COLUMNS = ("path", "label", "speaker")
_EMPTY = "expected a table of clips, got an empty file; write a header and a row per clip"


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
    hidden = sum(is_hidden(row["path"]) for row in rows)
    for row in rows:
        if is_hidden(row["path"]):
            continue
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
    notes += (f"{hidden} macOS files (._*, .DS_Store) ignored",) * bool(hidden)
    problems += [f"{csv_path}: {line}" for line in crossing]
    if not clips and problems:
        raise CorpusError(name, problems)
    if (number := len({clip.fold for clip in clips})) < 2:
        short = f"expected two folds or more, got {number}; list clips of two speakers or more"
        raise CorpusError(name, [*problems, f"{csv_path}: {short}"])
    return Corpus(name, classes, clips, notes, tuple(problems))


def _read_rows(csv_path: Path) -> list[dict[str, str]]:
    """Read the rows of a manifest with their line numbers; strip the cells."""
    text, fault = _read_text(csv_path)
    # Strict, or a quote that is not closed would hide all rows that follow.
    reader = csv.DictReader(io.StringIO(text, ""), restkey="(more)", restval="", strict=True)
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    try:
        columns = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = columns
        for row in reader:
            rows.append(row | {"line": str(reader.line_num)})
    except csv.Error as error:
        line = int(rows[-1]["line"]) + 1 if rows else 1 + bool(columns)
        fault = f"line {line}: expected quotes in pairs, got {error}; close the quote opened there"
    if fault:
        pass
    elif missing := [column for column in MANIFEST_COLUMNS if column not in columns]:
        fault = _header_fault(columns, missing)
    elif twice := [name for name, number in Counter(columns).items() if name and number > 1]:
        fault = f"expected each column once, got {', '.join(twice)} more often; remove the others"
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


def _read_text(csv_path: Path) -> tuple[str, str]:
    """Return the text of a manifest, or what is wrong with it, with a hint."""
    try:
        content = csv_path.read_bytes()
    except OSError as error:
        return "", f"expected a readable CSV, got {error.strerror}; check the path"
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        return "", "expected UTF-8, got UTF-16; save it as CSV UTF-8"
    try:
        return content.decode("utf-8-sig"), "" if content.strip() else _EMPTY
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"0x{content[error.start]:02x}"
        return "", f"line {line}: expected UTF-8, got byte {byte}; save it as CSV UTF-8"


def _header_fault(columns: Sequence[str], missing: Sequence[str]) -> str:
    """Return what is wrong with the names of the columns, with a hint."""
    hint = f"add {', '.join(missing)}"
    if {*missing} <= {column.lower() for column in columns}:
        hint = "write the names of the columns in lower case"
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(columns) == 1 and mark in columns[0]:
            hint = f"write commas between the columns, not {name}"
    shown = ", ".join(columns).replace("\t", "<tab>")
    return f"expected columns {', '.join(MANIFEST_COLUMNS)}, got {shown}; {hint}"


def _row_fault(row: dict[str, str], path: Path, classes: Sequence[str]) -> str:
    """Return what is wrong with a row, with a hint; empty if nothing is."""
    if empty := [column for column in MANIFEST_COLUMNS if not row[column]]:
        return f"expected a {' and a '.join(empty)}, got an empty cell; fill it in"
    if fault := _path_fault(row["path"], path):
        return fault
    if row["label"] not in classes:
        return f"{path}: expected a label of {', '.join(classes)}, got {row['label']!r}; correct it"
    if row.get("gender", "").lower() not in GENDERS:
        return f"{path}: expected gender male, female or none, got {row['gender']!r}; correct it"
    if row.get("fold") and not re.fullmatch(r"\d{1,9}", row["fold"], re.ASCII):
        decimal = re.fullmatch(r"(\d+)\.0*", row["fold"], re.ASCII)
        hint = "write whole numbers, without the decimal point" if decimal else "correct it"
        return f"{path}: expected a fold 0, 1, ..., got {row['fold']!r}; {hint}"
    return ""


def _path_fault(cell: str, path: Path) -> str:
    """Return what is wrong with the path of a clip, with a hint; empty if it is a file."""
    try:
        if path.is_file():
            return ""
    except OSError as error:  # a name of more than 255 bytes, say
        return f"expected a usable path, got {cell[:60]}... ({error.strerror}); shorten the name"
    if "\\" in cell:
        return f"expected a file, got none at {path}; write / for the backslashes of the path"
    return f"expected a file, got none at {path}; paths are relative to the CSV"


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
    speakers = len({u.speaker for u in clips})
    if not column and min(folds, speakers) > 1:
        clips = spread_speakers(clips, min(folds, speakers))
        notes = (f"{speakers} speakers spread over {min(folds, speakers)} folds",)
    return clips, notes, problems
