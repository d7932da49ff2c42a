"""What every benchmark shares: flags, provenance, and calls that are checked and then timed.

A timed call is a `Case`: it returns the tensors that it computes, and names what they should be.
`measure` compares first and raises `WrongVariantError` before anything is timed, so that no row
stands for a variant that computes something else. The cases of one run take turns, round by round,
so that a drift of the machine meets all of them, in an order drawn anew each round, so that none is
always served what the same other one left in the caches; a ratio is taken round by round too. Freed
memory stays with the process, so that no case pays for pages that another gave back.
"""

import argparse
import copy
import ctypes
import os
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from examples.provenance import git_commit
from icasa.cost import align
from icasa.environment import instruction_set, processor

RESULTS = Path(__file__).parent / "results"  # committed rows: written with --out alone
OUT = Path("build/benchmarks")
BLOCK = 2e-3  # seconds: a shorter call is repeated until a round of it takes as long
Row = dict[str, Any]


class WrongVariantError(AssertionError):
    """A variant that does not compute what it should."""


class Settings(NamedTuple):
    """How a script runs, from its flags; `provenance` goes into each of its rows."""

    device: torch.device
    rounds: int
    quick: bool
    out: Path
    seed: int
    provenance: Row


class Case(NamedTuple):
    """A call to time, and what it must return: a reference in float64 or by the eager path."""

    run: Callable[[], Sequence[Tensor]]
    expected: Sequence[Tensor]


class Timing(NamedTuple):
    """Seconds per call (rounds,), and the largest error of `verify`."""

    seconds: np.ndarray
    error: float


def parser(doc: str, *, rounds: int = 30) -> argparse.ArgumentParser:
    """Make the flags that every script has; `doc` is its module docstring."""
    flags = argparse.ArgumentParser(description=doc.split("\n")[0])
    flags.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    flags.add_argument("--rounds", type=int, help=f"timed rounds (default: {rounds}; quick: 9)")
    flags.add_argument("--quick", action="store_true", help="the smallest cases only")
    flags.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    flags.add_argument("--out", type=Path, default=OUT, help=f"folder of the rows (default: {OUT})")
    flags.add_argument("--seed", type=int, default=0)
    flags.set_defaults(default_rounds=rounds)
    return flags


def configure(args: argparse.Namespace, script: str, argv: Sequence[str]) -> Settings:
    """Set threads and precision, make the folder, and write down where the rows come from."""
    kind = args.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 as it is written, on every device
    device = torch.device(kind)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "commit": git_commit(),
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else "cpu",
        "cpu": processor(),
        "instruction set": instruction_set(),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "allocator": "keeps pages" if keep_pages() else "returns pages",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": args.seed,
        "command": shlex.join(["python", "-m", f"benchmarks.{script}", *argv]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    rounds = args.rounds or (9 if args.quick else args.default_rounds)
    return Settings(device, rounds, args.quick, args.out, args.seed, facts)


def keep_pages() -> bool:
    """Have glibc keep what is freed, and say whether it does.

    Else a call with a large result may pay for new pages, up to several times its own work, and
    which call does depends on what ran before it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    no_trim, no_maps = (-1, -1), (-4, 0)  # M_TRIM_THRESHOLD, M_MMAP_MAX
    return mallopt is not None and all(mallopt(*option) for option in (no_trim, no_maps))


def verify(name: str, got: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> float:
    """Return the largest error of `got`: |got - expected| over |expected| + the largest / 10.

    The largest norm of the call is the unit of what should be zero but for rounding, as the
    gradient of a bias before a BatchNorm.

    Raises:
        WrongVariantError: beyond `tolerance` or at another shape; it names variant and tensor.
    """
    if len(got) != len(expected):
        raise WrongVariantError(f"{name}: expected {len(expected)} tensors, got {len(got)}")
    expected = [b.detach().double() for b in expected]
    unit = max(b.norm().item() for b in expected) / 10
    worst = 0.0
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        if a.shape != b.shape:
            shapes = f"expected shape {tuple(b.shape)}, got {tuple(a.shape)}"
            raise WrongVariantError(f"{name}, tensor {i}: {shapes}")
        error = ((a.detach().double() - b).norm() / (b.norm() + unit)).item()
        if not error <= tolerance:  # NaN too
            raise WrongVariantError(
                f"{name}, tensor {i}: expected an error <= {tolerance:.2g}, got {error:.2g}"
            )
        worst = max(worst, error)
    return worst


def timed(run: Callable[[], Any], device: torch.device, repeats: int = 1) -> float:
    """Seconds of one call: the mean of `repeats`, between events on CUDA, the clock elsewhere."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(repeats):
            run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3 / repeats
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def measure(
    cases: Mapping[str, Case],
    device: torch.device,
    *,
    rounds: int,
    warmup: int = 3,
    block: float = BLOCK,
    tolerance: float = 3e-4,
) -> dict[str, Timing]:
    """Check every case, warm it up, then time all of them in turn for `rounds` rounds."""
    errors, repeats = {}, {}
    for name, case in cases.items():
        errors[name] = verify(name, case.run(), case.expected, tolerance)
        warm = min(timed(case.run, device) for _ in range(max(1, warmup)))
        repeats[name] = max(1, round(block / warm))
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(cases), len(cases)):
            seconds[name].append(timed(cases[name].run, device, repeats[name]))
    return {name: Timing(np.array(seconds[name]), errors[name]) for name in cases}


def peak_megabytes(run: Callable[[], Any], device: torch.device) -> float | None:
    """Most memory that a call adds on CUDA to what lives there before it; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 2)


def spread(name: str, values: np.ndarray) -> dict[str, float]:
    """Median with the 20th and 80th percentile, to four digits."""
    low, median, high = np.quantile(values, (0.2, 0.5, 0.8))
    shown = {name: median, f"{name} p20": low, f"{name} p80": high}
    return {key: float(f"{value:.4g}") for key, value in shown.items()}


def progress(text: str) -> None:
    """Say on stderr what is measured now."""
    print(text, file=sys.stderr, flush=True)


def show(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    """Print columns of the rows as a table, and the file that all of them went to."""
    cells = [[f"{row.get(c, '')}" for c in columns] for row in rows]
    print(f"{align([list(columns), *cells])}\n{len(rows)} rows in {path}", flush=True)


def use_path(module: nn.Module, fused: bool | None) -> nn.Module:
    """Put every layer that has two paths on the fused or on the eager one, or let it choose."""
    for layer in module.modules():
        if hasattr(layer, "fused"):
            layer.fused = fused
    return module


def double(module: nn.Module) -> nn.Module:
    """Copy a module in float64 and on its eager path: what a `Case` is compared with."""
    return use_path(copy.deepcopy(module).double(), fused=False)


def gradients(module: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the output, then the gradient of x and of every parameter."""
    x = x.detach().requires_grad_()
    y = module(x)
    return (y, *torch.autograd.grad(y, (x, *module.parameters()), cotangent))
