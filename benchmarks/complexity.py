"""Table 20: parameters, operations, memory and latency of MACNN, the paper's and ours.

``python -m benchmarks.complexity`` counts MACNN with every attention and two heads, and every layer
alone over channels and sizes, at batch 1 on the eager path (`benchmarks.count` says how). It writes
complexity.csv, complexity-layers.csv and a plot per layer. Latency is section 3.2's: batch 1, 100
warm-up and 1000 timed runs, synchronised, on the path that the layers choose, with the peak memory
on CUDA; ``--no-latency`` leaves both out. The paper's numbers are table20.csv; they cannot follow
from its Table 1, since in them an added layer lowers the counts.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.count import counts
from benchmarks.figures import bars, exact, grid, legend, lines, save
from benchmarks.harness import (
    Case,
    Row,
    Settings,
    configure,
    double,
    measure,
    parser,
    peak_megabytes,
    progress,
    show,
    spread,
)
from examples.provenance import read_csv, write_csv
from examples.ser.grid.names import name as in_words
from examples.ser.model.macnn import ATTENTION, MACNN
from icasa import CA, CBAM, ECA, ICA, ICASA, SA, SE, DepthwiseSeparableConv

PAPER = Path(__file__).parent / "table20.csv"
CLASSES = 4
HEADS = ("fusion", "flatten")
LAYERS: dict[str, Any] = {
    "ICA": ICA,
    "SA": SA,
    "ICASA": ICASA,
    "CA": CA,
    "SE": SE,
    "ECA": ECA,
    "CBAM": CBAM,
    "DepthwiseSeparableConv": DepthwiseSeparableConv,
}
CHANNELS = (16, 32, 64, 128, 256, 512, 1024)
SIZES = ((7, 7), (14, 14), (28, 28), (56, 56), (19, 100))
QUICK_CHANNELS, QUICK_SIZES = (16, 64, 256), ((7, 7), (19, 100))
COUNTS = ("parameters", "MACs", "FLOPs, all operations", "saved for backward, bytes")
LABELS = ("parameters", "MACs", "FLOPs, all operations", "saved for backward (MB)")


def paper() -> dict[str, Row]:
    """Table 20 of the paper: attention -> columns."""
    return {
        row["attention"]: {f"paper {k}": v for k, v in row.items() if k != "attention"}
        for row in read_csv(PAPER)
    }


def build(attention: str, head: str, seed: int) -> nn.Module:
    """MACNN in eval, its layers on the path that they choose."""
    torch.manual_seed(seed)
    return MACNN(CLASSES, attention=attention, head=head).eval()


@torch.no_grad()
def latencies(models: Mapping[str, nn.Module], settings: Settings) -> dict[str, Row]:
    """Return latency columns by model: section 3.2's runs, the models in turn."""
    x = torch.randn(1, 1, 39, 200, device=settings.device)
    cases = {
        name: Case(lambda model=model: (model(x),), (double(model)(x.double()),))
        for name, model in models.items()
    }
    warmup, rounds = (3, settings.rounds) if settings.quick else (100, 1000)
    times = measure(cases, settings.device, rounds=rounds, warmup=warmup, block=0)
    return {
        name: spread("latency (ms)", 1e3 * t.seconds)
        | {"peak memory (MB)": peak_megabytes(cases[name].run, settings.device)}
        for name, t in times.items()
    }


def networks(settings: Settings, *, latency: bool) -> list[Row]:
    """MACNN with each attention and head: the paper's row, our counts, the latency."""
    attentions = ("none", "sa", "ica", "icasa") if settings.quick else tuple(ATTENTION)
    theirs = paper()
    blank = dict.fromkeys(theirs["none"], "")
    rows = []
    for head in HEADS:
        progress(f"complexity: MACNN with head {head}")
        models = {name: build(name, head, settings.seed) for name in attentions}
        counted = {name: counts(m, torch.randn(1, 1, 39, 200)) for name, m in models.items()}
        models = {name: model.to(settings.device) for name, model in models.items()}
        timed = latencies(models, settings) if latency else {}
        for name in attentions:
            row: Row = {"attention": name, "head": head} | theirs.get(name, blank) | counted[name]
            rows.append(row | timed.get(name, {}) | settings.provenance)
    return rows


def layers(settings: Settings) -> list[Row]:
    """Each layer alone over channels and sizes."""
    channels, sizes = (QUICK_CHANNELS, QUICK_SIZES) if settings.quick else (CHANNELS, SIZES)
    rows = []
    for name, layer in LAYERS.items():
        progress(f"complexity: {name}")
        for width in channels:
            torch.manual_seed(settings.seed)
            model = layer(width)
            for height, length in sizes:
                row: Row = {"layer": name, "channels": width, "size": f"{height}x{length}"}
                row |= counts(model, torch.randn(1, width, height, length))
                rows.append(row | settings.provenance | {"device": "cpu"})
    return rows


def curves(rows: Sequence[Row], by: str, column: str) -> dict[str, tuple[list, list]]:
    """Values of a column over channels, a curve per value of `by`."""
    scale = 1e-6 if column.endswith("bytes") else 1
    return {
        name: (
            [r["channels"] for r in rows if r[by] == name],
            [scale * r[column] for r in rows if r[by] == name],
        )
        for name in dict.fromkeys(r[by] for r in rows)
    }


def draw_layers(rows: Sequence[Row], out: Path) -> None:
    """Write a picture per layer, a curve per size, and one of all layers at the first size."""
    size = "28x28" if any(r["size"] == "28x28" for r in rows) else rows[0]["size"]
    for name, layer in LAYERS.items():
        page = layer.__module__.rsplit(".", 1)[1]  # its API page has the same name
        chosen = [r for r in rows if r["layer"] == name]
        draw_costs(chosen, "size", f"{name}, batch 1", out / f"complexity-{page}.png")
    together = [r for r in rows if r["size"] == size]
    draw_costs(together, "layer", f"all layers at {size}, batch 1", out / "complexity-layers.png")


def draw_costs(rows: Sequence[Row], by: str, title: str, path: Path) -> None:
    """Four costs over channels, a curve per value of `by`."""
    figure, panels = grid(2, 2)
    for axes, column, label in zip(panels.flat, COUNTS, LABELS, strict=True):
        drawn = curves(rows, by, column)
        if any(max(y) for _, y in drawn.values()):
            lines(axes, drawn)
            axes.set(xlabel="channels C", ylabel=label)
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, f"no {label}", transform=axes.transAxes, ha="center")
    legend(figure, panels.flat[0])
    figure.suptitle(title)
    save(figure, path)


def draw_table(rows: Sequence[Row], path: Path) -> None:
    """Table 20 and our counts, for the four networks that it has."""
    theirs = paper()
    figure, panels = grid(1, 2)
    columns = (("parameters (M)", "parameters", 1e6), ("MACs (G)", "MACs", 1e9))
    for axes, (label, ours, unit) in zip(panels.flat, columns, strict=True):
        values = {"paper, Table 20": [exact(float(r[f"paper {label}"])) for r in theirs.values()]}
        for head in HEADS:
            by_name = {r["attention"]: r[ours] / unit for r in rows if r["head"] == head}
            values[f"counted, head {head}"] = [exact(by_name[key]) for key in theirs]
        bars(axes, [in_words(key) for key in theirs], values, label="%.2f")
        axes.set(ylabel=label)
        axes.tick_params(axis="x", labelsize=9)
    legend(figure, panels.flat[0])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write both tables and their pictures."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("--no-latency", action="store_true", help="count only, without a clock")
    args = flags.parse_args(argv)
    settings = configure(args, "complexity", argv)
    table = networks(settings, latency=not args.no_latency)
    write_csv(settings.out / "complexity.csv", table)
    draw_table(table, settings.out / "complexity.png")
    timed = () if args.no_latency else ("latency (ms)",)
    show(table, ("attention", "head", *COUNTS, *timed), settings.out / "complexity.csv")
    alone = layers(settings)
    write_csv(settings.out / "complexity-layers.csv", alone)
    draw_layers(alone, settings.out)
    show(alone, ("layer", "channels", "size", *COUNTS), settings.out / "complexity-layers.csv")


if __name__ == "__main__":
    main()
