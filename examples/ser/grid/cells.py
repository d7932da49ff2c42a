"""Cells of the grid: the training runs behind the paper's tables, their names and files."""

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.atomic import write_atomic
from examples.errors import UserError
from examples.ser.run.flags import PRESETS

RESULTS = Path(__file__).parents[1] / "results"
GRID = RESULTS / "grid"
STUDIED = Path(__file__).parents[2] / "study" / "results" / "cells"
FOLDS = {"ravdess": range(6), "iemocap": range(5)}
ATTENTIONS = ("none", "sa", "ica", "icasa", "eca", "cbam", "se", "ca")
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
ALPHAS = (1, 2, 3, 5)
AUGMENT = ("crop", "spec-augment", "mixup")  # of Table 9
FORMS = {  # of docs/study.md: what might do better than ICASA and AAM as published
    "icasa-faded": ["--attention", "icasa", "--icasa-form", "faded"],
    "icasa-bounded": ["--attention", "icasa", "--icasa-form", "bounded"],
    "icasa-last": ["--attention", "icasa", "--icasa-form", "last"],
    "none+aam-harder": ["--attention", "none", "--aam", "--alpha", "-2"],
    "none+aam-embedding": ["--attention", "none", "--aam", "--representation", "embedding"],
    "none+aam-same-class": [
        "--attention", "none", "--aam", "--pairing", "same-class", "--across-speakers",
    ],
}  # fmt: skip
VARIANTS = {
    **{name: ["--attention", name] for name in (*ATTENTIONS, "icasa-aligned")},
    **{f"{name}+aam": ["--attention", name, "--aam"] for name in ATTENTIONS},
    "none+aam-unweighted": ["--attention", "none", "--aam", "--alpha", "0"],
    "none+aam-random": ["--attention", "none", "--aam", "--pairing", "random"],
    "none+aam-across-speakers": ["--attention", "none", "--aam", "--across-speakers"],
    **FORMS,
    **{f"none+aam-T{t}": ["--attention", "none", "--aam", "--threshold", f"{t}"]
       for t in THRESHOLDS if t != 0.7},
    **{f"none+aam-alpha{a}": ["--attention", "none", "--aam", "--alpha", f"{a}"]
       for a in ALPHAS if a != 2},
    **{f"none{aam}+{name}": ["--attention", "none", "--augment", name, *["--aam"] * bool(aam)]
       for aam in ("", "+aam") for name in AUGMENT},
    "none-stride0.4": ["--attention", "none", "--train-stride", "0.4"],
}  # fmt: skip
SPEAKER, LEAKY = ("speaker",), ("leaky-utterance", "leaky-segment")
LAYERS = ("none+aam", "eca+aam", "cbam+aam", "se+aam", "ca+aam", "icasa+aam")
OURS = ("none", "icasa+aam")  # the paper's baseline, and AAM-ICASA-MACNN
# Table -> (variants, protocols). Tables 13 to 19 are made from the same predictions.
TABLES = {
    "6": (("none+aam", *(v for v in VARIANTS if "-T" in v)), SPEAKER),
    "7": (("none+aam", *(v for v in VARIANTS if "-alpha" in v)), SPEAKER),
    "8": (("none", "none+aam-unweighted", "none+aam-random", "none+aam"), SPEAKER),
    # SPA, which Table 9 also combines with AAM, was never published: no cell can stand for it.
    "9": (("none", "none+aam", *(v for v in VARIANTS if v.split("+")[-1] in AUGMENT)), SPEAKER),
    "10": (("none+aam", "sa+aam", "ica+aam", "icasa+aam"), SPEAKER),
    "11": (LAYERS, SPEAKER),  # of IEMOCAP; RAVDESS has them in Table 12
    "12": (LAYERS, SPEAKER),
    "13-19": (OURS, SPEAKER),
    "protocol": ((*OURS, "none-stride0.4"), SPEAKER + LEAKY),
    "separate": (
        ("none", "icasa", "none+aam", "icasa+aam"),
        SPEAKER,
    ),  # each part alone
    "layers": ((*ATTENTIONS, "icasa-aligned"), SPEAKER),  # of docs/study.md, as the next
    "layers-2d": (ATTENTIONS, SPEAKER),
    "forms": (("none", *FORMS), SPEAKER),
    "augmentation": (
        ("none", "none+aam", "none+aam-random", "none+aam-unweighted", "none+mixup",
         "none+spec-augment", "none+crop", "none+aam+mixup", "none+aam+spec-augment",
         "none+aam-across-speakers"),
        SPEAKER,
    ),
}  # fmt: skip
STUDY = {  # of TABLES: sets of docs/study.md, with their preset and their seeds
    "layers": ("strong", (1, 2, 3, 4, 5)),
    "layers-2d": ("plane", (1, 2, 3)),
    "augmentation": ("strong", (1, 2, 3)),
    "forms": ("strong", (1, 2, 3)),
}
SEED = 987654
CORPUS = r"\w+(?:-(?:impro|script))?"
NAME = (
    rf"(?P<corpus>{CORPUS})-(?P<protocol>speaker|leaky-\w+)-(?P<variant>.+)"
    r"-(?P<preset>[a-z]+)(?P<epochs>\d+)-(?P<precision>32-true|bf16-mixed)-seed(?P<seed>\d+)-fold(?P<fold>\d+)"
)


@dataclass(frozen=True)
class Cell:
    """One training run of the grid."""

    corpus: str
    protocol: str
    variant: str
    fold: int
    seed: int
    preset: str
    epochs: int
    precision: str

    @property
    def name(self) -> str:
        """Name of its folder and file."""
        what = f"{self.corpus}-{self.protocol}-{self.variant}-{self.budget}"
        return f"{what}-seed{self.seed}-fold{self.fold}"

    @property
    def budget(self) -> str:
        """Name of preset, epochs and precision."""
        return f"{self.preset}{self.epochs}-{self.precision}"

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Return what all folds and seeds of one experiment have in common."""
        return self.corpus, self.protocol, self.budget, self.variant

    @property
    def base_corpus(self) -> str:
        """Name of the corpus, without the part of it that is used."""
        return self.corpus.partition("-")[0]

    @property
    def is_paper_model(self) -> bool:
        """Whether the cell trains the paper's model, with any budget."""
        return self.preset not in {"strong", "plane"}

    @classmethod
    def parse(cls, name: str) -> "Cell":
        """Return the cell of a name."""
        if not (found := re.fullmatch(NAME, name)):
            raise UserError(
                f"expected the name of a cell, CORPUS-PROTOCOL-VARIANT-BUDGET-seedN-foldN, got "
                f"{name!r}; move the file out of the folder of the cells"
            )
        parts = found.groupdict()
        return cls(**parts | {key: int(parts[key]) for key in ("epochs", "seed", "fold")})

    def flags(self) -> list[str]:
        """Return the flags of `examples.ser.train` for this cell."""
        flags = ["--protocol", self.protocol, "--fold", str(self.fold), "--seed", str(self.seed)]
        flags += [f"--{self.preset}", "--epochs", str(self.epochs), "--precision", self.precision]
        variant = list(VARIANTS[self.variant])
        if "--augment" in variant:  # beside the preset's own
            after = variant.index("--augment") + 1
            variant[after:after] = PRESETS[self.preset].get("augment", [])
        return [*flags, "--no-validation", *variant]


def corpus_in_names(name: str) -> str:
    """Return a corpus's name as the names of its cells have it."""
    short = name[:60]  # a file's name ends at 255 bytes
    return short if re.fullmatch(CORPUS, short) else re.sub(r"\W", "_", short)


def write_cell(content: bytes, target: Path) -> None:
    """Write the file of a cell whole, without a time stamp: equal content, equal bytes."""
    with write_atomic(target) as file:
        file.write(gzip.compress(content, mtime=0))


def read_cells(folder: Path) -> dict[Path, tuple[Cell, dict[str, Any]]]:
    """Read every finished cell: its file, the cell, and its record.

    Raises:
        UserError: a file has another name, or cannot be read.
    """
    return {
        path: (Cell.parse(path.name.removesuffix(".json.gz")), read_record(path))
        for path in sorted(folder.glob("*.json.gz"))
    }


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a finished cell."""
    try:
        record = json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(
            f"expected the file of a finished cell, got {path}, which cannot be read ({error}); "
            "remove it, and examples.ser.reproduce trains the cell again"
        ) from error
    return dict(record)
