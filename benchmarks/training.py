"""Segments per second of a MACNN training step: no attention, ICASA eager, ICASA fused.

``python -m benchmarks.training`` times forward, backward and Adam's step on random segments, plain
and with AAM (whose step also sees the mixed samples), and writes training.csv. Segments are the
originals. The first step of each model is checked in float64.
"""

import copy
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

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
    use_path,
)
from examples.provenance import write_csv
from examples.ser.model.macnn import MACNN
from icasa import AAM, aam_loss, soft_cross_entropy

CLASSES = 8
BATCHES = (32, 128)
SEGMENT = (1, 39, 200)
PARTNERED = 0.97  # quantile as threshold: most samples of a batch of 32 then find a partner
FILE = "training.csv"
KEYS = ("augmentation", "batch", "variant")
RATIOS = ("time / eager",)


def train_step(
    model: MACNN, optimizer: torch.optim.Optimizer, aam: AAM | None, x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """One step; returns the loss and the gradient that reached the first convolution."""
    optimizer.zero_grad()
    if aam is None:
        loss = soft_cross_entropy(model(x), y)
    else:
        loss = aam_loss(model, aam, x, y, generator=torch.Generator(x.device).manual_seed(0)).loss
    loss.backward()
    gradient = model.conv1a[1].weight.grad
    optimizer.step()
    return loss.detach(), gradient


def step_case(model: nn.Module, aam: AAM | None, x: Tensor, y: Tensor) -> Case:
    """Adam's steps on one batch, checked on the first."""
    exact = double(model)
    expected = train_step(exact, torch.optim.Adam(exact.parameters()), aam, x.double(), y)
    return Case(
        partial(train_step, model, torch.optim.Adam(model.parameters()), aam, x, y), expected
    )


def run(settings: Settings) -> list[Row]:
    """Measure a row per augmentation, batch and variant."""
    rows: list[Row] = []
    for augmentation in ("none", "AAM"):
        aam = AAM(CLASSES, quantile=PARTNERED) if augmentation == "AAM" else None
        for batch in BATCHES[:1] if settings.quick else BATCHES:
            progress(f"training: augmentation {augmentation}, batch {batch}")
            torch.manual_seed(settings.seed)
            x = torch.randn(batch, *SEGMENT).to(settings.device)
            y = torch.randint(CLASSES, (batch,)).to(settings.device)
            attended = MACNN(CLASSES, attention="icasa").to(settings.device)
            models = {
                "no attention": MACNN(CLASSES).to(settings.device),
                "eager": use_path(attended, fused=False),
                "fused": use_path(copy.deepcopy(attended), fused=True),
            }
            cases = {name: step_case(model, aam, x, y) for name, model in models.items()}
            times = measure(cases, settings.device, rounds=settings.rounds, tolerance=1e-2)
            for name, (seconds, error) in times.items():
                row: Row = {"augmentation": augmentation, "batch": batch, "variant": name}
                row |= spread("segments/s", batch / seconds)
                row |= spread(RATIOS[0], seconds / times["eager"].seconds)
                rows.append(row | {"error": float(f"{error:.2g}")} | settings.provenance)
            write_csv(settings.out / FILE, rows)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Segments per second, a panel per augmentation."""
    names = list(dict.fromkeys(r["variant"] for r in rows))
    batches = list(dict.fromkeys(r["batch"] for r in rows))
    figure, panels = grid(1, 2)
    for axes, augmentation in zip(panels[0], ("none", "AAM"), strict=True):
        found = {(r["batch"], r["variant"]): r for r in rows if r["augmentation"] == augmentation}
        words = {"eager": "eager ICASA", "fused": "fast ICASA"}
        heights = {
            words.get(n, n): [spread_of(found[b, n], "segments/s") for b in batches] for n in names
        }
        bars(axes, [f"batch {b}" for b in batches], heights, label="%.0f")
        title = "with AAM" if augmentation == "AAM" else "without augmentation"
        axes.set(title=title, ylabel="training segments/s")
    legend(figure, panels[0, 0])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and the plot."""
    argv = sys.argv[1:] if argv is None else argv
    settings = configure(parser(__doc__, rounds=10).parse_args(argv), "training", argv)
    rows = run(settings)
    draw(rows, settings.out / "training.png")
    columns = (*KEYS, "segments/s", "segments/s p20", "segments/s p80", *RATIOS, "error")
    show(rows, columns, settings.out / FILE)


if __name__ == "__main__":
    main()
