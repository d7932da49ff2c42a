"""AAM in a training step: what it costs, and what sharing the forward saves.

``python -m benchmarks.aam_step`` times a MACNN step without AAM, with `aam_loss` (difficulties from
the forward that training makes anyway) and with Algorithm 1's own pass for them, and writes
results/aam_step.csv. No row is written unless both AAM steps give the same loss on a model whose
BatchNorms are frozen.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import alternate, provenance, spread
from examples.ser.macnn import MACNN
from examples.ser.report import write_csv
from icasa import AAM, aam_loss, soft_cross_entropy

RESULTS = Path(__file__).parent / "results" / "aam_step.csv"
CLASSES = 8
PARTNERED = 0.97  # quantile as threshold: most samples of a batch of 32 then find a partner


def plain(model: nn.Module, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of a step without AAM."""
    return soft_cross_entropy(model(x), y)


def shared(model: nn.Module, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of a step whose one forward of the originals also gives difficulties."""
    return aam_loss(model, aam, x, y, generator=torch.Generator(x.device).manual_seed(0)).loss


def recomputed(model: nn.Module, aam: AAM, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss of Algorithm 1 as written: a pass for difficulties, then one over all."""
    with torch.no_grad():
        difficulty = soft_cross_entropy(model(x), y, reduction="none")
    generator = torch.Generator(x.device).manual_seed(0)
    x_aug, y_aug = aam(x, y, difficulty, generator=generator)
    return soft_cross_entropy(model(x_aug), y_aug)


STEPS = {"plain": plain, "shared": shared, "recomputed": recomputed}


def train_step(model: nn.Module, aam: AAM, x: Tensor, y: Tensor, name: str) -> None:
    """Forward and backward of one step."""
    model.zero_grad()
    STEPS[name](model, aam, x, y).backward()


def main() -> None:
    """Write a row per attention and batch size."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    RESULTS.parent.mkdir(exist_ok=True)
    rows = []
    for attention in ("none", "icasa"):
        for batch in (32, 128):
            torch.manual_seed(0)
            model = MACNN(CLASSES, attention=attention).to(device)
            aam = AAM(CLASSES, quantile=PARTNERED)
            x = torch.randn(batch, 1, 39, 200, device=device)
            y = torch.randint(CLASSES, (batch,), device=device)
            model.eval()
            torch.testing.assert_close(shared(model, aam, x, y), recomputed(model, aam, x, y))
            model.train()
            cases = {name: partial(train_step, model, aam, x, y, name) for name in STEPS}
            times = alternate(cases, device, rounds=max(5, 320 // batch))
            row = {"attention": attention, "batch": batch}
            row |= {f"{name} ms": spread("", 1e3 * t)[""] for name, t in times.items()}
            row |= spread("recomputed / shared", times["recomputed"] / times["shared"])
            row |= spread("shared / plain", times["shared"] / times["plain"])
            rows.append(row | provenance(device))
            write_csv(RESULTS, rows)
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
