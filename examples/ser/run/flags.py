"""Flags of a training run: corpus, features, model, augmentation, optimisation."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.ser.data.features import FEATURES
from examples.ser.data.iemocap import HAPPY, PARTS
from examples.ser.data.splits import PROTOCOLS
from examples.ser.data.standardize import Standardizer
from examples.ser.model.macnn import ATTENTION, CHANNELS, HEADS, MACNN, PADDING
from examples.ser.model.plane import PlaneCNN, PlaneResNet
from examples.ser.model.tdnn import FORMS, TDNN

PRESETS: dict[str, dict[str, Any]] = {
    # Section 3.2 to the letter: constant rate, no validation, last epoch.
    "paper": {"schedule": "constant", "validation": False},
    # What the paper lacks: a decaying rate, and validation speakers to select the epoch by.
    "recommended": {"schedule": "cosine", "validation": True},
    # For a CPU: one cycle of few epochs, no validation, last epoch.
    "onecycle": {
        "schedule": "onecycle",
        "validation": False,
        "epochs": 12,
        "lr": 3e-3,
        "label_smoothing": 0.1,
    },
    # Not the paper's: features of whole clips, standardised by speaker, and a network for them.
    "strong": {
        "features": "prosody",
        "normalize": "speaker",
        "train_stride": 1.6,
        "test_stride": 0.8,
        "network": "tdnn",
        "augment": ["jitter"],
        "schedule": "onecycle",
        "validation": False,
        "epochs": 30,
        "lr": 2e-3,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "weight_decay": 0.05,
    },
    # Two-dimensional maps on log-mel (docs/study.md); `examples.ser.plane` says network and rate.
    "plane": {
        "features": "log-mel",
        "normalize": "speaker",
        "train_stride": 1.6,
        "test_stride": 0.8,
        "network": "plane-cnn",
        "schedule": "onecycle",
        "validation": False,
        "epochs": 30,
        "lr": 1e-3,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "weight_decay": 0.05,
    },
}
NETWORKS = ("macnn", "tdnn", "plane-cnn", "plane-cnn-rows", "plane-resnet")
DEFAULTS = {  # of the flags that a preset does not set
    "features": "mfcc",
    "normalize": "train",
    "train_stride": 1.0,
    "test_stride": 0.4,
    "network": "macnn",
    "augment": [],
    "epochs": 60,
    "lr": 1e-3,
    "label_smoothing": 0.0,
    "optimizer": "adam",
    "weight_decay": 1e-6,
}
AUGMENT = ("jitter", "crop", "spec-augment", "mixup")
REPRESENTATIONS = ("mean", "flat", "embedding")  # the last is the network's own
PAIRINGS = ("similar", "balanced", "same-class", "random")
CLASS_WEIGHTS = ("none", "balanced")
RANGES = {  # of flags that may be not positive
    "label_smoothing": (0, 1),
    "threshold": (-1, 1),
    "weight_decay": (0, math.inf),
    "seed": (0, 2**31),
    "threads": (1, math.inf),
}
SCHEDULES = ("constant", "cosine", "onecycle")
# Flags that may differ when a run is resumed: where things are, and how they are computed, which
# changes the last bits alone (--device, --threads: in the row). The data are compared by digests.
NOT_IN_CONFIG = (
    "out",
    "ravdess",
    "iemocap",
    "packed",
    "manifest",
    "cache",
    "device",
    "threads",
    "quiet",
)


def config(args: argparse.Namespace) -> dict[str, str]:
    """Return the flags that a run must have in common with the checkpoint that it resumes."""
    return {key: str(value) for key, value in vars(args).items() if key not in NOT_IN_CONFIG}


def default_config(preset: str) -> dict[str, str]:
    """Return the `config` of a run with no flag but its preset."""
    return config(parse(["--manifest", "-", "--out", "-", f"--{preset}"]))


def fold_number(text: str) -> int | str:
    """Return the number of folds, or "speaker" for one fold per speaker."""
    if text == "speaker":
        return text
    if not (text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError(f"expected 2 or more, or 'speaker', got {text!r}")
    return int(text)


def add_corpus(parser: argparse.ArgumentParser) -> Any:
    """Add the flags of `load.read`, and return their group."""
    group = parser.add_argument_group("corpus")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--ravdess", type=Path, metavar="ROOT", help="folder with Actor_01..24")
    which.add_argument("--iemocap", type=Path, metavar="ROOT", help="folder with Session1..5")
    which.add_argument("--packed", type=Path, metavar="NPZ", help="of examples.ser.packed")
    which.add_argument("--manifest", type=Path, metavar="CSV", help="path,label,speaker[,fold...]")
    group.add_argument("--part", choices=PARTS, default="all", help="of IEMOCAP")
    group.add_argument("--happy", choices=HAPPY, default="both", help="emotions in the class happy")
    add_choices(group)
    group.add_argument("--cache", type=Path, default=Path("runs/cache"), help="of the features")
    group.add_argument("--quiet", action="store_true", help="no progress bars")
    return group


def add_choices(group: Any) -> None:
    """Add the flags that choose clips, classes and folds of a corpus."""
    group.add_argument("--labels", nargs="+", help="classes in order; others are left out")
    group.add_argument("--folds", type=fold_number, help="spread the speakers anew: N, or speaker")
    group.add_argument("--telephone", action="store_true", help="take clips from 8 kHz on")
    group.add_argument("--skip-bad", action="store_true", help="leave bad clips out, with a note")


def network(args: argparse.Namespace, num_classes: int) -> MACNN | TDNN | PlaneCNN | PlaneResNet:
    """Return the network that the flags describe, untrained."""
    if args.network == "plane-resnet":
        return PlaneResNet(num_classes, attention=args.attention)
    if args.network.startswith("plane-cnn"):
        return PlaneCNN(
            num_classes, FEATURES[args.features].rows, attention=args.attention,
            keep_rows=args.network == "plane-cnn-rows",
        )  # fmt: skip
    if args.network == "tdnn":
        return TDNN(
            num_classes, FEATURES[args.features].rows, attention=args.attention,
            icasa_form=args.icasa_form,
        )  # fmt: skip
    return MACNN(
        num_classes, attention=args.attention, places=args.places, head=args.head,
        padding=args.padding,
    )  # fmt: skip


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the flags; a preset sets those that are not given."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.ser.train",
        usage="%(prog)s --manifest CSV --out DIR [flags: see --help]",
        description="Train MACNN on one fold of a corpus.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    group = add_corpus(parser)
    group.add_argument(
        "--protocol", choices=PROTOCOLS, default="speaker", help="what the folds keep apart"
    )
    group.add_argument("--fold", type=int, default=0, help="the fold to test on")
    group = parser.add_argument_group("features")
    group.add_argument("--features", choices=FEATURES, help="default: mfcc, or the preset's")
    group.add_argument("--normalize", choices=Standardizer.MODES, help="default: train")
    group.add_argument("--tail", choices=("pad", "drop"), default="pad", help="last window")
    group.add_argument("--train-stride", type=float, help="seconds; default: 1.0")
    group.add_argument("--test-stride", type=float, help="seconds; default: 0.4")
    group = parser.add_argument_group("model")
    group.add_argument("--network", choices=NETWORKS, help="default: macnn")
    group.add_argument("--attention", choices=ATTENTION, default="icasa")
    group.add_argument("--icasa-form", choices=FORMS, default="published", help="in the tdnn")
    group = parser.add_argument_group("MACNN")
    group.add_argument("--places", nargs="+", choices=CHANNELS, default=list(CHANNELS))
    group.add_argument("--head", choices=HEADS, default="fusion")
    group.add_argument("--padding", choices=PADDING, default="macnn")
    group = parser.add_argument_group("AAM")
    group.add_argument("--aam", action="store_true", help="train with Adaptive Acoustic Mixup")
    group.add_argument("--threshold", type=float, default=0.7, help="T of Eq. 1")
    group.add_argument("--alpha", type=float, default=2.0, help="alpha of Eq. 3; 0: no weighting")
    group.add_argument(
        "--representation", choices=REPRESENTATIONS, default="mean", help="r of Eq. 1"
    )
    group.add_argument("--pairing", choices=PAIRINGS, default="similar")
    apart = group.add_mutually_exclusive_group()
    apart.add_argument("--across-utterances", action="store_true", help="no pair within a clip")
    apart.add_argument("--across-speakers", action="store_true", help="no pair within a speaker")
    group = parser.add_argument_group("other augmentation, before AAM")
    group.add_argument("--augment", nargs="+", choices=AUGMENT, help="default: none")
    group = parser.add_argument_group("optimisation")
    preset = group.add_mutually_exclusive_group()
    for name, values in PRESETS.items():
        preset.add_argument(
            f"--{name}", dest="preset", action="store_const", const=name, default="recommended",
            help=", ".join(f"{key}={value}" for key, value in values.items()),
        )  # fmt: skip
    group.add_argument("--epochs", type=int, help="default: 60, or the preset's")
    group.add_argument("--batch-size", type=int, default=32, help="over all processes")
    group.add_argument("--lr", type=float, help="the highest; default: 1e-3, or the preset's")
    group.add_argument("--label-smoothing", type=float, help="default: 0, or the preset's")
    group.add_argument("--class-weights", choices=CLASS_WEIGHTS, default="none", help="of the loss")
    group.add_argument("--optimizer", choices=("adam", "adamw"), help="default: adam")
    group.add_argument("--weight-decay", type=float, help="default: 1e-6, or the preset's")
    group.add_argument("--schedule", choices=SCHEDULES, help="of the learning rate")
    group.add_argument("--validation", action=argparse.BooleanOptionalAction, help="by speakers")
    group.add_argument(
        "--score", choices=("test", "validation"), default="test", help="what predictions are of"
    )
    group.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    group.add_argument("--seed", type=int, default=987654)
    group = parser.add_argument_group("run")
    group.add_argument("--out", type=Path, required=True, help="folder of this run")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--threads", type=int, help="CPU threads; changes the last bits")
    args = parser.parse_args(argv)
    for key, value in (DEFAULTS | PRESETS[args.preset]).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    for key in ("epochs", "batch_size", "lr"):
        if not getattr(args, key) > 0:
            flag = f"--{key.replace('_', '-')}"
            parser.error(f"expected {flag} above 0, got {getattr(args, key)}; raise it")
    for key, (low, high) in RANGES.items():
        if getattr(args, key) is not None and not low <= getattr(args, key) <= high:
            bounds = f"from {low} to {high}" if high < math.inf else f"of {low} or more"
            flag = f"--{key.replace('_', '-')}"
            parser.error(f"expected {flag} {bounds}, got {getattr(args, key)}; correct it")
    for key in ("places", "head", "padding"):
        if args.network != "macnn" and getattr(args, key) != parser.get_default(key):
            parser.error(
                f"expected --network macnn with --{key}, got {args.network}; leave one out"
            )
    if args.icasa_form != "published" and (args.network, args.attention) != ("tdnn", "icasa"):
        parser.error(
            f"expected --network tdnn --attention icasa with --icasa-form, got {args.network} and "
            f"{args.attention}; leave --icasa-form out"
        )
    if args.representation == "embedding" and not args.aam:
        parser.error("expected --aam with --representation embedding, got it alone; add --aam")
    for key in ("across_speakers", "across_utterances"):
        if getattr(args, key) and not args.aam:
            flag = f"--{key.replace('_', '-')}"
            parser.error(f"expected --aam with {flag}, got {flag} alone; add --aam")
    if args.score == "validation" and not args.validation:
        parser.error(
            "expected --validation with --score validation, got --no-validation; add --validation"
        )
    if args.validation and args.protocol != "speaker":
        parser.error(
            f"expected --protocol speaker with --validation, got {args.protocol}; "
            "add --no-validation"
        )
    return args
