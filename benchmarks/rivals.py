"""Every layer beside every other code that computes it, layer by layer and format by format.

The others are our own eager form, the structure of the official repositories, installable packages
(the extra `rivals`; one that cannot be imported is named and left out), and torch.compile of these.
``python -m benchmarks.rivals`` times one cell after another, a cell being a layer, a shape, a
memory format, a type and a pass. All variants of a cell take turns; a row has the time of a variant
over that of ours in the same round, so that we lead where it is above 1. Rows come cell by cell:
with the same ``--out`` a run that was stopped goes on. Cells of another commit are measured again.
"""

import copy
import functools
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.baselines import OFFICIAL, Official
from benchmarks.figures import bars, grid, legend, save, spread_of
from benchmarks.harness import (
    Case,
    Row,
    Settings,
    configure,
    gradients,
    measure,
    parser,
    progress,
    show,
    spread,
    use_path,
)
from benchmarks.layers import LAYERS, floor, randomised, references
from examples.provenance import read_csv, write_csv

SHAPES = ((1, 64, 56, 56), (32, 32, 19, 100), (32, 64, 56, 56), (8, 256, 14, 14))
QUICK = ((2, 32, 7, 9),)
FORMATS = {"planes": torch.contiguous_format, "channels_last": torch.channels_last}
# Type of the map and of the parameters. "autocast" is a bfloat16 map, as a convolution before gives
# it, and float32 parameters.
TYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "autocast": (torch.bfloat16, torch.float32),
}
PASSES = ("forward", "forward+backward")
TITLES = dict(zip(PASSES, ("forward pass", "training step"), strict=True))
# A package, where its class is, and its arguments from the channels: with the widths of ours.
PACKAGES: dict[str, dict[str, tuple[str, str, Callable[[int], dict[str, Any]]]]] = {
    "timm": {
        "SE": ("timm.layers", "SEModule", lambda c: {"channels": c}),
        "ECA": ("timm.layers", "EcaModule", lambda c: {"channels": c}),
        "CBAM": ("timm.layers.cbam", "CbamModule", lambda c: {"channels": c}),
        "CA": ("timm.layers.coord_attn", "CoordAttn", lambda c: {"channels": c}),
    },
    "fightingcv-attention": {
        "SE": (
            "fightingcv_attention.attention.SEAttention",
            "SEAttention",
            lambda c: {"channel": c},
        ),
        "ECA": ("fightingcv_attention.attention.ECAAttention", "ECAAttention", lambda c: {}),
        "CBAM": (
            "fightingcv_attention.attention.CBAM",
            "CBAMBlock",
            lambda c: {"channel": c, "kernel_size": 7},
        ),
        "CA": (
            "fightingcv_attention.attention.CoordAttention",
            "CoordAtt",
            lambda c: {"inp": c, "oup": c},
        ),
        "SA": (
            "fightingcv_attention.attention.ShuffleAttention",
            "ShuffleAttention",
            lambda c: {"channel": c},
        ),
    },
    "channel-attention": {
        "SE": (
            "channel_attention",
            "SEAttention",
            lambda c: {"n_dims": 2, "n_channels": c, "reduction": 16},
        ),
        "ECA": ("channel_attention", "EfficientChannelAttention", lambda c: {"n_dims": 2}),
        "CBAM": (
            "channel_attention",
            "ConvBlockAttention",
            lambda c: {"n_dims": 2, "n_channels": c, "reduction": 16},
        ),
    },
}
FILE = "rivals.csv"
KEYS = ("layer", "shape", "format", "dtype", "pass")
RATIO = "time / ours"


class Cell(NamedTuple):
    """What is measured in turn."""

    layer: str
    shape: tuple[int, ...]
    format: str
    dtype: str
    which: str  # of PASSES

    @property
    def key(self) -> Row:
        """Its columns."""
        names = (self.layer, "x".join(map(str, self.shape)), self.format, self.dtype, self.which)
        return dict(zip(KEYS, names, strict=True))


def cells(shapes: Sequence[tuple[int, ...]], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells whose name layer/shape/format/dtype/pass matches any pattern, or all."""
    every = itertools.starmap(Cell, itertools.product(LAYERS, shapes, FORMATS, TYPES, PASSES))
    chosen = [
        cell
        for cell in every
        if not patterns or any(fnmatchcase("/".join(cell.key.values()), p) for p in patterns)
    ]
    if not chosen:
        example = "SE/32x64x56x56/planes/float32/forward"
        raise ValueError(f"expected a pattern of cells such as {example}, got {list(patterns)}")
    return chosen


@functools.cache
def imported(package: str, module: str, name: str) -> Any:
    """Return a class of a package, or None where it cannot be imported, which is said once."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, OSError, RuntimeError) as error:  # a wheel for another torch fails so
        progress(f"{package} is left out: {type(error).__name__}: {error}")
        return None


def packaged(layer: str, channels: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layer of each package that has it and can be imported."""
    for package, classes in PACKAGES.items():
        if layer in classes:
            module, name, arguments = classes[layer]
            if cls := imported(package, module, name):
                yield package, cls(**arguments(channels))


def variants(cell: Cell, settings: Settings, compiles: bool) -> dict[str, nn.Module]:
    """Return ours and the others, all in the type of the cell and off their initial values."""
    train, channels = cell.which != "forward", cell.shape[1]
    ours = randomised(LAYERS[cell.layer](channels), settings.seed)
    made: dict[str, nn.Module] = {"ours": ours, "own eager": use_path(copy.deepcopy(ours), False)}
    if cell.layer in OFFICIAL:
        made["official structure"] = Official(use_path(copy.deepcopy(ours), False))
    for package, module in packaged(cell.layer, channels):
        made[package] = randomised(module, settings.seed)
    if compiles:
        torch.compiler.reset()
        for name in [name for name in made if name != "ours"]:
            made[f"compiled {name}"] = torch.compile(copy.deepcopy(made[name]), dynamic=False)
    _, kind = TYPES[cell.dtype]
    return {name: m.to(settings.device, kind).train(train) for name, m in made.items()}


def cases(
    cell: Cell, made: Mapping[str, nn.Module], x: torch.Tensor, settings: Settings
) -> dict[str, Case]:
    """Return a call of each variant, with what it gives in float64 by its own plain code."""
    train, found = cell.which != "forward", {}
    for name, module in made.items():
        generator = torch.Generator().manual_seed(settings.seed)
        plain = name.removeprefix("compiled ")
        try:
            cotangent, expected = references(made[plain], x, train, generator)
        except RuntimeError as error:
            if plain not in PACKAGES:
                raise
            progress(f"{name} is left out, as it does not compute this cell: {error}")
            continue
        call = partial(gradients, module, x, cotangent) if train else lambda m=module: (m(x),)
        if cell.dtype == "autocast":
            call = partial(under_autocast, x.device.type, call)
        found[name] = Case(call, expected)
    return found


def under_autocast(
    device: str, call: Callable[[], Sequence[torch.Tensor]]
) -> Sequence[torch.Tensor]:
    """Call in an autocast of its own, as each step of training is; it keeps casted parameters."""
    with torch.autocast(device, dtype=torch.bfloat16):
        return call()


def measure_cell(cell: Cell, settings: Settings, compiles: bool) -> Iterator[Row]:
    """Yield a row for each variant of a cell, and for the floor of memory."""
    generator = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(cell.shape, generator=generator, dtype=torch.float64).to(TYPES[cell.dtype][0])
    x = x.to(settings.device, memory_format=FORMATS[cell.format])
    # PyTorch sums gradients in the type, which may lose half of one in bfloat16; the float32 cell
    # shows that the same code is right.
    train, tolerance = cell.which != "forward", 1e-3 if cell.dtype == "float32" else 1.0
    with torch.set_grad_enabled(train):
        timed = cases(cell, variants(cell, settings, compiles), x, settings)
        timed["floor"] = floor(x)._replace(expected=floor(x).run())
        times = measure(timed, x.device, rounds=settings.rounds, tolerance=tolerance)
    for name, (seconds, error) in times.items():
        row = cell.key | {"variant": name} | spread("ms", 1e3 * seconds)
        row |= spread(RATIO, seconds / times["ours"].seconds)
        yield row | {"error": float(f"{error:.2g}")} | settings.provenance | {"dtype": cell.dtype}


def run(settings: Settings, chosen: Sequence[Cell], compiles: bool) -> list[Row]:
    """Measure the cells that the file has not from this commit, and write it after each."""
    path = settings.out / FILE
    rows: list[Row] = []
    if path.exists():
        rows = [r for r in read_csv(path) if r["commit"] == settings.provenance["commit"]]
    done = {tuple(row[k] for k in KEYS) for row in rows}
    missing = [cell for cell in chosen if tuple(cell.key.values()) not in done]
    for i, cell in enumerate(missing):
        progress(f"{i + 1}/{len(missing)} {'/'.join(cell.key.values())}")
        rows += measure_cell(cell, settings, compiles)
        write_csv(path, rows)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Of each float32 cell the fastest other code's time over that of ours."""
    rows = [r for r in rows if r["dtype"] == "float32" and r["variant"] not in ("ours", "floor")]
    figure, panels = grid(len(PASSES), len(FORMATS))
    for (i, which), (j, layout) in itertools.product(enumerate(PASSES), enumerate(FORMATS)):
        fastest: dict[tuple[str, str], Row] = {}
        for row in rows:
            cell = row["layer"], row["shape"]
            if (row["pass"], row["format"]) == (which, layout) and (
                cell not in fastest or float(row[RATIO]) < float(fastest[cell][RATIO])
            ):
                fastest[cell] = row
        names, shapes = (list(dict.fromkeys(r[key] for r in rows)) for key in ("layer", "shape"))
        bars(
            panels[i, j],
            names,
            {
                shape.replace("x", " x "): [
                    spread_of(fastest[name, shape], RATIO) if (name, shape) in fastest else None
                    for name in names
                ]
                for shape in shapes
            },
        )
        panels[i, j].axhline(1, color="black", linewidth=1)
        panels[i, j].set(
            title=f"{'contiguous' if layout == 'planes' else layout}, {TITLES[which]}",
            ylabel="fastest other code / icasa",
        )
    legend(figure, panels[0, 0])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and the plot, and print the ratios."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("patterns", nargs="*", help="layer/shape/format/dtype/pass (default: all)")
    flags.add_argument("--no-compile", action="store_true", help="leave torch.compile out: minutes")
    args = flags.parse_args(argv)
    settings = configure(args, "rivals", argv)
    chosen = cells(QUICK if settings.quick else SHAPES, args.patterns)
    rows = run(settings, chosen, not args.no_compile)
    draw(rows, settings.out / "rivals.png")
    show(rows, (*KEYS, "variant", "ms", RATIO, f"{RATIO} p20", "error"), settings.out / FILE)


if __name__ == "__main__":
    main()
