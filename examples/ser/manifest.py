r"""Write the manifest of a folder of clips whose names say speaker and class.

    python -m examples.ser.manifest emodb/wav --out emodb/corpus.csv --male 03 10 --female 08 \
        --pattern '(?P<speaker>\d\d)\w\d\d(?P<label>[A-Z])\w$' --rename W=anger F=happiness

The pattern is a regular expression that is searched in the path of each clip below the folder,
without its suffix. Its groups are columns: speaker and label, perhaps session, gender or fold. A
clip whose name it does not match is an error, so that none is left out unseen; macOS files (._*)
are ignored.
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from examples.errors import UserError, user_errors
from examples.provenance import write_csv
from examples.ser.data.corpora import CorpusError, few, is_hidden

SUFFIXES = {".wav", ".flac"}
NEEDED = {"speaker", "label"}
COLUMNS = NEEDED | {"session", "gender", "fold"}


def list_clips(root: Path) -> list[Path]:
    """Return the WAV and FLAC files below a folder, sorted."""
    if not root.is_dir():
        raise UserError(f"expected a folder of clips, got {root}; check the path")
    files = [p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if clips := [path for path in files if not is_hidden(path)]:
        return clips
    raise UserError(f"expected WAV or FLAC files below {root}, got none; convert the clips first")


def make_rows(args: argparse.Namespace) -> list[dict[str, str]]:
    """Return a row per clip.

    Raises:
        CorpusError: names that the pattern does not match.
    """
    genders = dict.fromkeys(args.male, "male") | dict.fromkeys(args.female, "female")
    rows, problems = [], []
    for path in list_clips(args.root):
        found = args.pattern.search(path.relative_to(args.root).with_suffix("").as_posix())
        if not found:
            problems.append(f"{path}: expected a name that --pattern matches, got another; correct")
            continue
        row = {"path": Path(os.path.relpath(path, args.out.parent)).as_posix()}
        row |= {name: value or "" for name, value in found.groupdict().items()}
        row["label"] = args.rename.get(row["label"], row["label"])
        rows.append({"gender": genders.get(row["speaker"], "")} | row)
    if problems:
        hint = "Correct --pattern, or move these files out of the folder."
        raise CorpusError(args.root.name, problems, hint)
    if unknown := sorted({*genders} - {row["speaker"] for row in rows}):
        raise UserError(f"expected speakers of the names, got {few(unknown)}; correct the genders")
    return rows


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(
        description="Write the manifest of a folder of clips whose names say speaker and class."
    )
    parser.add_argument("root", type=Path, help="folder of WAV or FLAC files, at any depth")
    parser.add_argument("--pattern", required=True, help="with (?P<speaker>...) and (?P<label>...)")
    parser.add_argument("--rename", nargs="+", default=[], metavar="CODE=LABEL")
    parser.add_argument("--male", nargs="+", default=[], metavar="SPEAKER")
    parser.add_argument("--female", nargs="+", default=[], metavar="SPEAKER")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV")
    args = parser.parse_args(argv)
    try:
        args.pattern = re.compile(args.pattern)
    except re.error as error:
        parser.error(f"expected a regular expression as --pattern, got {error}; correct it")
    groups = {*args.pattern.groupindex}
    if not groups >= NEEDED or not groups <= COLUMNS:
        parser.error(
            f"expected groups speaker and label in --pattern, perhaps session, gender or fold, got "
            f"{', '.join(sorted(groups)) or 'none'}; write (?P<speaker>...)"
        )
    if wrong := [pair for pair in args.rename if "=" not in pair]:
        parser.error(f"expected --rename CODE=LABEL, got {wrong[0]}; write, say, W=anger")
    args.rename = dict(pair.split("=", 1) for pair in args.rename)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Write the manifest and say what it lists."""
    args = parse(argv)
    rows = make_rows(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(args.out, rows)
    labels = Counter(row["label"] for row in rows)
    print(f"{args.out}: {len(rows)} clips of {len({row['speaker'] for row in rows})} speakers")
    print(", ".join(f"{label} {number}" for label, number in sorted(labels.items())))
    if args.rename and (plain := sorted({*labels} - {*args.rename.values()})):
        print(f"note: {few(plain)} without a --rename; give one, or leave them out by --labels")
    if hidden := sum(is_hidden(path) for path in args.root.rglob("*")):
        print(f"note: {hidden} macOS files (._*, .DS_Store) ignored")
    print(f"next: python -m examples.ser.check {args.out}")


if __name__ == "__main__":
    with user_errors():
        main()
