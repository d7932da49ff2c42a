"""AAM in a training step: what it costs, and what sharing the forward saves.

``python -m benchmarks.aam_step`` times a MACNN step without AAM, with `aam_loss` (difficulties from
the forward that training makes anyway) and with Algorithm 1's own pass for them, and writes
aam_step.csv. No row is written unless each step agrees with itself in float64, and both AAM steps
give the same loss on a model whose BatchNorms are frozen.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.figures import bars, grid, legend, save, spread_of
from benchmarks.harness import (
    Case,
    Row,
    Settings,
    configure,
    double,
    measure,
    parser,
    progress,
    show,
    spread,
    verify,
)
from examples.provenance import write_csv
from examples.ser.grid.names import name as in_words
from examples.ser.model.macnn import MACNN
from icasa import AAM, aam_loss, soft_cross_entropy

CLASSES = 8
ATTENTIONS = ("none", "icasa")
BATCHES = (32, 128)
SEGMENT = (1, 39, 200)
PARTNERED = 0.97  # quantile as threshold: most samples of a batch of 32 then find a partner
FILE = "aam_step.csv"
KEYS = ("attention", "batch")
RATIOS = ("recomputed / shared", "shared / plain")


def plain(model: MACNN, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of a step without AAM."""
    return soft_cross_entropy(model(x), y)


def shared(model: MACNN, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of a step whose one forward of the originals also gives difficulties."""
    return aam_loss(model, aam, x, y, generator=torch.Generator(x.device).manual_seed(0)).loss


def recomputed(model: MACNN, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of Algorithm 1 as written: a pass for difficulties, then one over all."""
    with torch.no_grad():
        difficulty = soft_cross_entropy(model(x), y, reduction="none")
    generator = torch.Generator(x.device).manual_seed(0)
    x_aug, y_aug = aam(x, y, difficulty, generator=generator)
    return soft_cross_entropy(model(x_aug), y_aug)


STEPS = {"plain": plain, "shared": shared, "recomputed": recomputed}


def train_step(name: str, model: MACNN, aam: AAM, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward; returns the loss and the gradient that reached the first layer."""
    model.zero_grad()
    loss = STEPS[name](model, aam, x, y)
    loss.backward()
    return loss.detach(), model.conv1a[1].weight.grad


def run(settings: Settings) -> list[Row]:
    """Measure a row per attention and batch size."""
    rows: list[Row] = []
    for attention in ATTENTIONS:
        for batch in BATCHES[:1] if settings.quick else BATCHES:
            progress(f"aam_step: attention {attention}, batch {batch}")
            torch.manual_seed(settings.seed)
            model = MACNN(CLASSES, attention=attention).to(settings.device)
            aam = AAM(CLASSES, quantile=PARTNERED)
            x = torch.randn(batch, *SEGMENT).to(settings.device)
            y = torch.randint(CLASSES, (batch,)).to(settings.device)
            model.eval()
            frozen = [[step(model, aam, x, y)] for step in (shared, recomputed)]
            verify("shared", *frozen, tolerance=1e-4)
            model.train()
            cases = {
                name: Case(
                    partial(train_step, name, model, aam, x, y),
                    train_step(name, double(model), aam, x.double(), y),
                )
                for name in STEPS
            }
            times = measure(cases, settings.device, rounds=settings.rounds, tolerance=1e-2)
            row: Row = {"attention": attention, "batch": batch}
            for name, (seconds, _) in times.items():
                row |= spread(f"{name} ms", 1e3 * seconds)
            for ratio in RATIOS:
                above, below = ratio.split(" / ")
                row |= spread(ratio, times[above].seconds / times[below].seconds)
            row["error"] = float(f"{max(t.error for t in times.values()):.2g}")
            rows.append(row | settings.provenance)
            write_csv(settings.out / FILE, rows)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Milliseconds of each step."""
    figure, panels = grid(1, 1, (7, 4))
    groups = [f"{in_words(r['attention'])},\nbatch {r['batch']}" for r in rows]
    words = {"plain": "without AAM", "shared": "aam_loss", "recomputed": "Algorithm 1"}
    heights = {words[n]: [spread_of(r, f"{n} ms") for r in rows] for n in STEPS}
    bars(panels[0, 0], groups, heights, "%.0f")
    panels[0, 0].set(ylabel="ms for a training step of MACNN")
    legend(figure, panels[0, 0])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and the plot."""
    argv = sys.argv[1:] if argv is None else argv
    settings = configure(parser(__doc__, rounds=10).parse_args(argv), "aam_step", argv)
    rows = run(settings)
    draw(rows, settings.out / "aam_step.png")
    show(rows, (*KEYS, *(f"{step} ms" for step in STEPS), *RATIOS, "error"), settings.out / FILE)


if __name__ == "__main__":
    main()
