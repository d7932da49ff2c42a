"""AAM against Algorithm 1 as a loop, and against MixUp with one lambda for the batch.

``python -m benchmarks.mixup`` times one augmentation of a batch of MFCC segments and writes
mixup.csv. All three are given their difficulties and representations: the loop is the algorithm's
two nested ones over samples, without its forward passes. MixUp returns N samples, AAM up to 2N.
"""

import math
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.figures import grid, legend, lines, save
from benchmarks.harness import (
    Case,
    Row,
    Settings,
    configure,
    measure,
    parser,
    progress,
    show,
    spread,
)
from examples.provenance import write_csv
from icasa import AAM

CLASSES = 4
ALPHA = 2.0
BATCHES = (32, 256, 1024)
LOOPED = 256  # the largest batch for the loop: at 1024 a call takes the better part of a minute
FILE = "mixup.csv"
KEYS = ("batch", "variant")
RATIOS = ("time / AAM",)


def clear_threshold(x: Tensor) -> float:
    """Return a cosine near 0 that no pair comes close to: rounding then admits the same pairs."""
    r = F.normalize(x.double().mean(-1).flatten(1), dim=1)
    similarity = (r @ r.T).flatten().sort().values
    near = similarity[similarity.abs() < 0.1]
    widest = int(near.diff().argmax())
    return near[widest : widest + 2].mean().item()


def algorithm_1(
    x: Tensor, y: Tensor, d: Tensor, *, threshold: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Algorithm 1 line by line; "randomly sample from C" takes the candidate drawn highest."""
    generator = torch.Generator(x.device).manual_seed(seed)
    draw = torch.rand(len(x), len(x), generator=generator, device=x.device).tolist()
    r, labels = x.mean(-1).flatten(1), F.one_hot(y, CLASSES).to(x.dtype)
    x_aug, y_aug = list(x), list(labels)
    for i in range(len(x)):
        candidates = []
        for j in range(len(x)):
            if j != i and F.cosine_similarity(r[i], r[j], dim=0) > threshold:
                candidates.append(j)
        if candidates:
            j = max(candidates, key=draw[i].__getitem__)
            lam = 1 / (1 + math.exp(ALPHA * (d[i] - d[j]).item()))
            x_aug.append(lam * x[i] + (1 - lam) * x[j])
            y_aug.append(lam * labels[i] + (1 - lam) * labels[j])
    return torch.stack(x_aug), torch.stack(y_aug)


def adaptive(aam: AAM, x: Tensor, y: Tensor, d: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """AAM of this library."""
    return aam(x, y, d, generator=torch.Generator(x.device).manual_seed(seed))


def batch_mixup(x: Tensor, y: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """MixUp as torchvision has it: one lambda of Beta(1, 1), the partner rolled by one."""
    lam = torch.rand((), generator=torch.Generator().manual_seed(seed)).item()
    labels = F.one_hot(y, CLASSES).to(x.dtype)
    return tuple(lam * t + (1 - lam) * t.roll(1, 0) for t in (x, labels))


def run(settings: Settings) -> list[Row]:
    """Measure a row per batch and variant."""
    rows: list[Row] = []
    for batch in BATCHES[:1] if settings.quick else BATCHES:
        progress(f"mixup: batch {batch}")
        generator = torch.Generator().manual_seed(settings.seed)
        x = torch.randn(batch, 1, 39, 200, generator=generator).to(settings.device)
        y = torch.randint(CLASSES, (batch,), generator=generator).to(settings.device)
        d = 3 * torch.rand(batch, generator=generator).to(settings.device)
        threshold = clear_threshold(x)
        aam = AAM(CLASSES, threshold=threshold, alpha=ALPHA)
        augment = partial(adaptive, aam, seed=settings.seed)
        expected = augment(x.double(), y, d.double())
        mixup = partial(batch_mixup, y=y, seed=settings.seed)
        cases = {
            "AAM": Case(partial(augment, x, y, d), expected),
            "MixUp": Case(partial(mixup, x), mixup(x.double())),
        }
        if batch <= LOOPED:
            loop = partial(algorithm_1, threshold=threshold, seed=settings.seed)
            cases["Algorithm 1 loop"] = Case(partial(loop, x, y, d), expected)
        times = measure(cases, settings.device, rounds=settings.rounds)
        for name, (seconds, error) in times.items():
            row: Row = {"batch": batch, "variant": name} | spread("ms", 1e3 * seconds)
            row |= spread(RATIOS[0], seconds / times["AAM"].seconds)
            rows.append(row | {"error": float(f"{error:.2g}")} | settings.provenance)
        write_csv(settings.out / FILE, rows)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Milliseconds over batch size."""
    figure, panels = grid(1, 1, (6, 4))
    names = dict.fromkeys(r["variant"] for r in rows)
    curves = {
        n: (
            [r["batch"] for r in rows if r["variant"] == n],
            [r["ms"] for r in rows if r["variant"] == n],
        )
        for n in names
    }
    lines(panels[0, 0], curves)
    panels[0, 0].set(xlabel="batch (segments of 39x200)", ylabel="ms per batch")
    legend(figure, panels[0, 0])
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and the plot."""
    argv = sys.argv[1:] if argv is None else argv
    settings = configure(parser(__doc__, rounds=15).parse_args(argv), "mixup", argv)
    rows = run(settings)
    draw(rows, settings.out / "mixup.png")
    show(rows, (*KEYS, "ms", "ms p20", "ms p80", *RATIOS, "error"), settings.out / FILE)


if __name__ == "__main__":
    main()
