"""Timing: cases in turn, round by round, so that a drift of the machine meets all of them."""

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from examples.ser.report import git_commit


def alternate(
    cases: dict[str, Callable[[], Any]], device: torch.device, rounds: int = 30, warmup: int = 3
) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each case; in every round each runs once, after `warmup` rounds."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(warmup + rounds):
        for name, case in cases.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            case()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    return {name: np.array(values[warmup:]) for name, values in times.items()}


def spread(name: str, values: np.ndarray) -> dict[str, float]:
    """Median with the 20th and 80th percentile, to four digits."""
    low, median, high = np.quantile(values, (0.2, 0.5, 0.8))
    shown = {name: median, f"{name} p20": low, f"{name} p80": high}
    return {key: float(f"{value:.4g}") for key, value in shown.items()}


def provenance(device: torch.device) -> dict[str, Any]:
    """Return what a row says about where it came from."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }
