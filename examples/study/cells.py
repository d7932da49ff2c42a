"""The study's families (docs/study.md): which cells they are, and what the cells answered."""

import gzip
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from examples.ser.grid.cells import STUDY, TABLES
from examples.study.paired import Outcomes, Row

EXAMPLES = Path(__file__).parents[1]


class Family(NamedTuple):
    """Comparisons that share a base, a measure and Holm's correction.

    ``pattern`` names the prediction files under ``examples/``; the first variant is the base.
    Where a variant stands for others, ``stands_for`` says for which in which fold.
    """

    name: str
    pattern: str
    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    measure: str
    margin: float
    stands_for: Mapping[str, Mapping[int, str]] | None = None


Files = dict[tuple[str, int], list[Path]]  # (variant, seed) -> its file of every fold
SPEECH = "study/results/cells/ravdess-speaker-{variant}-%s-32-true-seed{seed}-fold{fold}.json.gz"
IMAGES = "vision/results/cells/cifar-10-jpeg-20k-resnet8-15epochs-{variant}-seed{seed}.json.gz"
LAYERS = ("none", "se", "eca", "cbam", "ca", "sa", "ica", "icasa")
FOLDS = tuple(range(6))
FAMILIES = (
    Family("speech-1d-layers", SPEECH % "strong30", (*LAYERS, "icasa-aligned"),
           STUDY["layers"][1], FOLDS, "UA", 2.0),
    Family("speech-1d-augmentation", SPEECH % "strong30", TABLES["augmentation"][0],
           STUDY["augmentation"][1], FOLDS, "UA", 2.0),
    Family("speech-2d-layers", SPEECH % "plane30", LAYERS, STUDY["layers-2d"][1], FOLDS, "UA", 2.0),
    Family("images-layers", IMAGES, LAYERS, (1, 2, 3), (0,), "accuracy", 1.0),
    Family("images-aligned", IMAGES, ("none", "sa-aligned", "icasa-aligned"), (1, 2, 3), (0,),
           "accuracy", 1.0),
)  # fmt: skip


def paths(family: Family, root: Path) -> Files:
    """Return the files of every variant and seed, one per fold."""

    def path(variant: str, seed: int, fold: int) -> Path:
        name = (family.stands_for or {}).get(variant, {}).get(fold, variant)
        return root / family.pattern.format(variant=name, seed=seed, fold=fold)

    return {
        (variant, seed): [path(variant, seed, fold) for fold in family.folds]
        for variant, seed in itertools.product(family.variants, family.seeds)
    }


def is_whole(family: Family, files: Files) -> bool:
    """Print how many of a family's cells are there and which are missing; return if none is."""
    every = [path for some in files.values() for path in some]
    found = sum(path.exists() for path in every)
    if found == len(every):
        print(f"{family.name}: all {found} cells are there")
        return True
    print(f"{family.name}: {found} of {len(every)} cells are there, not analysed before all are")
    seeds = defaultdict(list)
    for seed in family.seeds:
        seeds[missing(family, files, seed)].append(str(seed))
    for said, some in seeds.items():
        print(f"  seed{'s' * (len(some) > 1)} {' '.join(some)}: {said}")
    return False


def missing(family: Family, files: Files, seed: int) -> str:
    """Say in short which cells of a seed are missing: the variants, by the folds they lack."""
    lacking = defaultdict(list)
    for variant in family.variants:
        of_fold = zip(family.folds, files[variant, seed], strict=True)
        lacking[tuple(fold for fold, path in of_fold if not path.exists())].append(variant)
    complete = lacking.pop((), [])
    if not lacking:
        return "nothing is missing"
    parts = []
    for folds, variants in lacking.items():
        alone = len(lacking) == 1 and not complete
        who = "every variant" if alone else ", ".join(variants)
        fold = f"fold{'s' * (len(folds) > 1)} {' '.join(map(str, folds))} of "
        parts.append(who if folds == family.folds else fold + who)
    return f"missing {'; '.join(parts)}"


def read(path: Path) -> dict[str, Any]:
    """Read one prediction file."""
    return json.loads(gzip.decompress(path.read_bytes()))


def answers(record: dict[str, Any]) -> Iterator[tuple[str, str, str, bool]]:
    """Give unit, group, label and whether the answer of the last epoch was right."""
    labels = record["labels"]
    if "images" in record:
        columns = (record["images"][key] for key in ("id", "label", "predicted"))
        for name, label, predicted in zip(*columns, strict=True):
            yield name, name, labels[label], label == predicted
    else:
        for clip in record["utterances"]:
            predicted = labels[int(np.argmax(clip["last"]))]
            yield clip["id"], clip["speaker"], clip["label"], clip["label"] == predicted


def outcomes(family: Family, variant: str, files: Files) -> Outcomes:
    """Join the folds of every seed of one variant."""
    right, keys = [], None
    for seed in family.seeds:
        rows = sorted(
            (*row, fold)
            for path, fold in zip(files[variant, seed], family.folds, strict=True)
            for row in answers(read(path))
        )
        unit, group, label, correct, fold = (np.array(part) for part in zip(*rows, strict=True))
        if len(np.unique(unit)) < len(unit):
            raise SystemExit(f"{variant}, seed {seed}: expected every unit once, got some twice")
        these = (label, group, fold, unit)
        keys = keys or these
        if not all(map(np.array_equal, keys, these)):
            raise SystemExit(f"{variant}: expected the same units for every seed, got others")
        right.append(correct)
    return Outcomes(np.array(right), *keys, family.seeds)


def facts(files: Files, variant: str) -> Row:
    """Return what a row says of its runs: parameters, commits, threads and versions."""
    runs = [read(path)["run"] for (name, _), some in files.items() if name == variant
            for path in some]  # fmt: skip
    return {
        key: " ".join(dict.fromkeys(str(run.get(key, "")) for run in runs))
        for key in ("parameters", "commit", "threads", "device", "torch", "numpy")
    }


def check_commits(family: Family, files: Files, *, any_commit: bool = False) -> str:
    """Return the commits of a family's cells.

    Raises:
        SystemExit: they are several, or of a changed checkout (not with ``any_commit``).
    """
    seen = (facts(files, variant)["commit"] for variant in family.variants)
    commits = " ".join(dict.fromkeys(word for some in seen for word in some.split()))
    if not any_commit and (" " in commits or "-dirty" in commits):
        raise SystemExit(f"{family.name}: expected cells of one clean commit, got {commits}")
    return commits
