"""Training segments per second: the grid's loop, a plain one, and several cells at once.

``python -m benchmarks.cells`` trains MACNN with ICASA on random segments: by the very loop of
``examples.ser.train``, whose segments lie on the device; by a plain one, with a DataLoader and the
loss read at every step; under torch.compile; and in several processes at once, as
``examples.ser.reproduce --jobs`` does. It writes cells.csv. A rate is that of all cells together.
Each loop's losses of two steps are compared with the plain one's before anything is timed.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.figures import bars, grid, legend, save, spread_of
from benchmarks.harness import (
    Row,
    Settings,
    WrongVariantError,
    configure,
    keep_pages,
    parser,
    progress,
    show,
    spread,
)
from examples.provenance import write_csv
from examples.ser.data.segments import Segments
from examples.ser.run.flags import network, parse
from examples.ser.train import make_augment, make_schedule, train_epoch
from icasa import soft_cross_entropy

CLASSES = 8
SEGMENT = (1, 39, 200)
BATCHES = 8  # of an epoch
PLAIN, GRID = "plain loop", "grid's loop"
COMPILED = {"compiled": "default", "compiled, CUDA graphs": "reduce-overhead"}
# Of a loss, where a step at RATE lowers it by some 1e-3.
RATE, TOLERANCE = 0.01, {"32-true": 1e-5, "bf16-mixed": 1e-4}
FILE = "cells.csv"


class Task(NamedTuple):
    """What the process of a cell is told when it starts."""

    device: str
    precision: str
    seed: int
    shape: tuple[int, ...]  # of a segment
    loops: tuple[str, ...]


class Variant(NamedTuple):
    """A loop, in how many cells at once, on how many CPU threads each."""

    loop: str
    cells: int
    threads: int


def plain_epoch(
    fabric: Fabric, model: Any, optimizer: Any, data: Segments, args: Any
) -> dict[str, float]:
    """One pass as most code makes it."""
    model.train()
    loss_sum = 0.0
    dataset = TensorDataset(data.x.cpu(), data.y.cpu())
    for batch in DataLoader(dataset, batch_size=args.batch_size, shuffle=True):
        x, y = fabric.to_device(batch)
        optimizer.zero_grad()
        loss = soft_cross_entropy(model(x), y, label_smoothing=args.label_smoothing)
        fabric.backward(loss)
        optimizer.step()
        loss_sum += loss.item() * len(y)
    return {"train_loss": loss_sum / len(data)}


def make_loop(
    name: str, fabric: Fabric, args: Any, seed: int
) -> Callable[[Segments, int], dict[str, float]]:
    """Return a loop over a network of its own: what it does with segments in an epoch."""
    torch.manual_seed(seed)
    net: Any = network(args, CLASSES)
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    if name in COMPILED:
        net = torch.compile(net, mode=COMPILED[name])
    model, optimizer = fabric.setup(net, optimizer)
    if name == PLAIN:
        return lambda data, epoch: plain_epoch(fabric, model, optimizer, data, args)
    rest = make_schedule(optimizer, args, 1), None, make_augment(args, CLASSES), None
    return lambda data, epoch: train_epoch(fabric, model, optimizer, *rest, data, epoch, args)


def draw_segments(count: int, task: Task) -> Segments:
    """Random segments on the device, each of an utterance of its own."""
    x = torch.randn(count, *task.shape, generator=torch.Generator().manual_seed(task.seed))
    y, valid = torch.arange(count) % CLASSES, torch.full((count,), task.shape[-1])
    return Segments(x, y, torch.arange(count), y, valid).to(torch.device(task.device))


def train_cell(parent: Connection, task: Task) -> None:
    """Run in a process of its own: an epoch of the loop that each message names, until None."""
    keep_pages()
    args = parse(["--paper", "--packed", "-", "--out", "-", "--quiet", "--lr", f"{RATE}"])
    fabric = Fabric(accelerator=task.device, devices=1, precision=task.precision)
    loops = {name: make_loop(name, fabric, args, task.seed) for name in task.loops}
    batch = draw_segments(args.batch_size, task)
    parent.send({n: [loop(batch, e)["train_loss"] for e in (1, 2)] for n, loop in loops.items()})
    data = draw_segments(BATCHES * args.batch_size, task)
    while (message := parent.recv()) is not None:
        name, threads, epoch = message
        torch.set_num_threads(threads)
        loops[name](data, epoch)
        parent.send(len(data))


def check(losses: Mapping[str, Sequence[float]], tolerance: float) -> dict[str, float]:
    """Return by how much each loop's losses differ from the plain one's.

    Raises:
        WrongVariantError: if by more than `tolerance`.
    """
    errors = {n: float(np.abs(np.subtract(v, losses[PLAIN])).max()) for n, v in losses.items()}
    for name, error in errors.items():
        if not error <= tolerance:
            raise WrongVariantError(
                f"{name}: losses {losses[name]}, {PLAIN}: {losses[PLAIN]}, tolerance {tolerance}"
            )
    return errors


def variants(settings: Settings, *, compiles: bool) -> list[Variant]:
    """List what is timed: on the CPU as many cells as threads, on CUDA up to eight."""
    threads, cuda = settings.provenance["threads"], settings.device.type == "cuda"
    compiled = list(COMPILED)[: 2 if cuda else 1] if compiles else []
    several = (2, 4, 8) if cuda else (threads,) if threads > 1 else ()
    alone = [Variant(loop, 1, threads) for loop in (PLAIN, GRID, *compiled)]
    return alone + [Variant(GRID, cells, 1) for cells in several]


def round_of(pipes: Sequence[Connection], variant: Variant, epoch: int) -> float:
    """Segments per second of one epoch, in as many cells as the variant has."""
    begin = time.perf_counter()
    for pipe in pipes[: variant.cells]:
        pipe.send((variant.loop, variant.threads, epoch))
    seen = sum(pipe.recv() for pipe in pipes[: variant.cells])
    return seen / (time.perf_counter() - begin)


def run(settings: Settings, *, precision: str = "32-true", compiles: bool = False) -> list[Row]:
    """Measure a row per variant."""
    timed = variants(settings, compiles=compiles)
    loops = tuple(dict.fromkeys(variant.loop for variant in timed))
    task = Task(settings.device.type, precision, settings.seed, SEGMENT, loops)
    context = multiprocessing.get_context("spawn")  # a forked process has no CUDA
    pipes = []
    for cell in range(max(variant.cells for variant in timed)):
        pipe, end = context.Pipe()
        # What runs alone is run in the first cell.
        cell_task = task if cell == 0 else task._replace(loops=(PLAIN, GRID))
        context.Process(target=train_cell, args=(end, cell_task), daemon=True).start()
        end.close()  # so that the death of the process is seen
        pipes.append(pipe)
    checked = [check(pipe.recv(), TOLERANCE[precision]) for pipe in pipes]
    for variant in timed:
        progress(f"cells: {variant.loop}, {variant.cells} at once")
        round_of(pipes, variant, 0)
    rates: dict[Variant, list[float]] = {variant: [] for variant in timed}
    for epoch in range(1, settings.rounds + 1):
        progress(f"cells: round {epoch} of {settings.rounds}")
        for variant in timed:
            rates[variant].append(round_of(pipes, variant, epoch))
    for pipe in pipes:
        pipe.send(None)
    plain = np.array(rates[timed[0]])
    rows: list[Row] = []
    for variant, found in rates.items():
        row: Row = {"loop": variant.loop, "cells": variant.cells}
        row |= {"threads of a cell": variant.threads} | spread("segments/s", np.array(found))
        row |= spread(f"rate / {PLAIN}", np.array(found) / plain)
        row["error"] = float(f"{checked[0][variant.loop]:.2g}")
        rows.append(row | settings.provenance | {"dtype": precision})
    write_csv(settings.out / FILE, rows)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Segments per second by cells at once, a bar per loop."""
    found = {(r["cells"], r["loop"]): spread_of(r, "segments/s") for r in rows}
    counts, loops = (list(dict.fromkeys(row[k] for row in rows)) for k in ("cells", "loop"))
    figure, panels = grid(1, 1, (6, 3.6))
    axes = panels[0, 0]
    bars(axes, counts, {n: [found.get((c, n)) for c in counts] for n in loops}, label="%.0f")
    axes.set(ylabel="training segments/s, of all cells", xlabel="cells at once")
    legend(figure, axes)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and the plot."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__, rounds=10)
    flags.add_argument("--precision", choices=TOLERANCE, default="32-true")
    flags.add_argument("--no-compile", action="store_true", help="leave torch.compile out: minutes")
    args = flags.parse_args(argv)
    settings = configure(args, "cells", argv)
    rows = run(settings, precision=args.precision, compiles=not args.no_compile)
    draw(rows, settings.out / "cells.png")
    columns = ("loop", "cells", "segments/s", "segments/s p20", "segments/s p80", "error")
    show(rows, columns, settings.out / FILE)


if __name__ == "__main__":
    main()
