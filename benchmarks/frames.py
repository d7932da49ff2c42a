"""How much of a layer's call is Python of ours: frames entered, and how often the file changes.

``python -m benchmarks.frames`` counts one call of each layer on the CPU and writes frames.csv. Each
function of the package that is entered counts as a frame; those of PyTorch do not. A file change
is a frame whose file is another one than that of the frame before. Counts depend on the version of
CPython, as 3.12 has no frames for comprehensions, and not on the machine or its load.
"""

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import icasa
from benchmarks.harness import Row, Settings, configure, parser, show
from examples.provenance import write_csv

CHANNELS, SHAPE = 64, (1, 64, 7, 7)
LAYERS: tuple[Callable[[int], nn.Module], ...] = (icasa.ICA, icasa.SA, icasa.ICASA)
PACKAGE = str(Path(icasa.__file__).parent)
FILE = "frames.csv"


def frames(call: Callable[[], Any]) -> list[str]:
    """Return the file of every frame of ours that `call` enters, in their order."""
    files: list[str] = []

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            files.append(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return files


def count(layer: nn.Module, training: bool) -> Row:
    """Return the columns of one row, for a layer that has been called before."""
    layer.train(training)
    x = torch.randn(SHAPE, requires_grad=training)
    with torch.set_grad_enabled(training):
        layer(x)
        files = frames(lambda: layer(x))
    changes = sum(a != b for a, b in pairwise(files))
    return {
        "layer": f"{type(layer).__name__}({CHANNELS})",
        "call": "training, forward" if training else "evaluation",
        "backend": icasa.backend(),
        "frames": len(files),
        "file changes": changes,
    }


def run(settings: Settings) -> list[Row]:
    """Return the rows, and write them."""
    rows = [
        count(layer(CHANNELS), training) | settings.provenance
        for layer in LAYERS
        for training in (False, True)
    ]
    write_csv(settings.out / FILE, rows)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and print them."""
    argv = sys.argv[1:] if argv is None else argv
    settings = configure(parser(__doc__).parse_args(argv), "frames", argv)
    columns = ("layer", "call", "backend", "frames", "file changes")
    show(run(settings), columns, settings.out / FILE)


if __name__ == "__main__":
    main()
