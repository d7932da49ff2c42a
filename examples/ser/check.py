"""Check a corpus before anything is trained: its problems, its size by class and fold, pictures.

    python -m examples.ser.check corpus.csv
    python -m examples.ser.check path/to/ravdess

Give a manifest, or the folder of RAVDESS or IEMOCAP. The frames that the check extracts stay in the
cache, where a training with the same --features finds them.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from examples.errors import UserError, user_errors
from examples.provenance import Row
from examples.ser.data.corpora import Corpus, Utterance, few, grouped
from examples.ser.data.feature_cache import Frames
from examples.ser.data.features import FEATURES, FRAMES_PER_S, MFCC_39
from examples.ser.data.load import read
from examples.ser.data.splits import describe, split
from examples.ser.run.figures import draw_corpus
from examples.ser.run.flags import add_choices

UNEQUAL = 3  # the largest class has so many times the clips of the smallest
GENDERS = ("female", "male", "unknown")


def find_source(path: Path) -> str:
    """Return the flag of a corpus: "manifest", "ravdess" or "iemocap"."""
    if path.is_file():
        return "manifest"
    if not path.is_dir():
        raise UserError(f"expected a manifest or a folder, got {path}; check the path")
    for source, folder in (("iemocap", "Session1"), ("ravdess", "Actor_*")):
        if any(found for depth in ("", "*/", "*/*/") for found in path.glob(depth + folder)):
            return source
    raise UserError(
        f"expected a manifest, or the folder of RAVDESS (Actor_01) or IEMOCAP (Session1), got "
        f"{path}; write the manifest of another corpus by examples.ser.manifest, or by hand"
    )


def table(corpus: Corpus, frames: Frames) -> list[Row]:
    """Return clips, seconds and speakers by gender: of each class, each fold and all."""
    clips = corpus.utterances
    parts: dict[str, Callable[[Utterance], bool]] = {
        **{label: lambda u, label=label: u.label == label for label in corpus.labels},  # type: ignore[misc]
        **{f"fold {fold}": lambda u, fold=fold: u.fold == fold for fold in corpus.folds},  # type: ignore[misc]
        "all": lambda _: True,
    }
    return [
        {"": name} | _row([u for u in clips if mine(u)], frames) for name, mine in parts.items()
    ]


def _row(clips: Sequence[Utterance], frames: Frames) -> Row:
    genders = Counter(gender for _, gender in {(u.speaker, u.gender or "unknown") for u in clips})
    seconds = sum(frames[u.id].shape[1] for u in clips) / FRAMES_PER_S
    row: Row = {"clips": len(clips), "seconds": round(seconds)}
    return row | {"speakers": genders.total()} | {gender: genders[gender] for gender in GENDERS}


def show(rows: Sequence[Row]) -> str:
    """Return rows as text in columns."""
    cells = [[*rows[0]], *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells
    )


def odd(corpus: Corpus) -> list[str]:
    """Return what a researcher should know before training, with a hint each."""
    return [*_odd_classes(corpus), *_odd_genders(corpus), *_odd_folds(corpus)]


def _odd_classes(corpus: Corpus) -> Iterable[str]:
    speakers = defaultdict(set)
    for u in corpus.utterances:
        speakers[u.label].add(u.speaker)
    for label in corpus.labels:
        if len(speakers[label]) < 2:
            yield (
                f"class {label}: expected two speakers or more, got {len(speakers[label])}; "
                "no fold can both train and test it: leave it out by --labels"
            )
    sizes = Counter(u.label for u in corpus.utterances).most_common()
    (most, n), (least, m) = sizes[0], sizes[-1]
    if n >= UNEQUAL * m:
        yield (
            f"classes of unequal size: {most} has {n} clips, {least} {m}; read UA rather than WA, "
            "and try --class-weights balanced"
        )


def _odd_genders(corpus: Corpus) -> Iterable[str]:
    gender = {u.speaker: u.gender for u in corpus.utterances}
    unknown = sorted(speaker for speaker, known in gender.items() if not known)
    if unknown and len(unknown) < len(gender):
        yield f"{len(unknown)} speakers without gender: {few(unknown)}; fill in the column"
    if {"male", "female"} <= {*gender.values()}:
        for fold in corpus.folds:
            here = {u.gender for u in corpus.utterances if u.fold == fold}
            if len(here) == 1 and len({u.speaker for u in corpus.utterances if u.fold == fold}) > 1:
                yield (
                    f"fold {fold}: expected both genders, got {here.pop() or 'unknown'} alone; "
                    "balance the folds, or let --folds N do it"
                )


def can_validate(corpus: Corpus, fold: int) -> bool:
    """Whether a fold leaves enough speakers to take a validation pair from."""
    return len({u.speaker for u in corpus.utterances if u.fold != fold}) >= 3


def _odd_folds(corpus: Corpus) -> Iterable[str]:
    for fold in corpus.folds:
        missing = [*corpus.labels]
        for u in corpus.utterances:
            if u.fold == fold and u.label in missing:
                missing.remove(u.label)
        if missing:
            yield f"fold {fold}: no test clip of {few(missing)}; give it more speakers by --folds N"
    for fold in corpus.folds:
        if not can_validate(corpus, fold):
            yield f"fold {fold}: expected 3 training speakers or more, got fewer; --no-validation"
            continue
        parts = split(corpus, fold, validation=True)
        for side in (parts.validation, parts.train):
            name = "validation" if side is parts.validation else "training"
            labels = {u.label for u in side}
            if len(labels) < len(corpus.labels):
                gone = few([label for label in corpus.labels if label not in labels])
                hint = "more speakers per fold, or --no-validation"
                yield f"fold {fold}: the {name} speakers have no clip of {gone}; give {hint}"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, metavar="MANIFEST_OR_ROOT")
    add_choices(parser)
    parser.add_argument("--features", choices=FEATURES, default=MFCC_39.name)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, default=Path("runs/check"), help="for the pictures")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    args = parser.parse_args(argv)
    found = find_source(args.path)
    for source in ("ravdess", "iemocap", "manifest", "packed"):
        setattr(args, source, args.path if source == found else None)
    args.part, args.happy = "all", "both"
    return args


def main(argv: Sequence[str] | None = None) -> list[str]:
    """Print the table and what is odd, draw the pictures; return what is odd."""
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    corpus, frames = read(args, features=FEATURES[args.features])
    for note in grouped(corpus.notes):
        print(f"note: {note}")
    print(f"\n{corpus.name}\n{show(table(corpus, frames))}\n")
    for fold in corpus.folds:
        lines = describe(split(corpus, fold, can_validate(corpus, fold)).sides(), corpus.labels)
        print("\n  ".join([f"fold {fold}", *lines]))
    found = odd(corpus)
    print("\nodd:" if found else "\nnothing odd")
    for line in grouped(found):
        print(f"  - {line}")
    path = args.out / "corpus.png"
    draw_corpus(corpus, {k: v.shape[1] / FRAMES_PER_S for k, v in frames.items()}, path)
    print(f"\npicture: {path}")
    return found


if __name__ == "__main__":
    with user_errors("the cache has nothing of a reading that was stopped; give the command again"):
        main()
