"""Latency of calls that take turns: milliseconds, and the ratio to the plain model."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

REPORT = 10.0  # seconds between two lines of progress
logger = logging.getLogger("icasa.cost")


class Latency(NamedTuple):
    """Milliseconds of a call, and the ratio to the plain model: median, 20th, 80th percentile.

    ``rounds`` is the number of timed calls.
    """

    ms: float
    ms_p20: float
    ms_p80: float
    ratio: float
    ratio_p20: float
    ratio_p80: float
    rounds: int


class Turns(NamedTuple):
    """How often all models take their turn, by default: fewer times once ``seconds`` are spent."""

    most: int
    fewest: int
    seconds: float

    def iterate(self, given: int | None, what: str) -> Iterator[int]:
        """Count the turns, exactly those that are given, and report the progress of slow ones."""
        begin = reported = time.perf_counter()
        for done in range(self.most if given is None else given):
            now = time.perf_counter()
            if given is None and done >= self.fewest and now - begin > self.seconds:
                break
            if now - reported > REPORT:
                logger.info("  %s: round %d after %.0f s", what, done, now - begin)
                reported = now
            yield done


WARMUP = Turns(5, 1, 5.0)
ROUNDS = Turns(30, 5, 30.0)


def latencies(
    runs: Mapping[str, Callable[[], Any]],
    what: str,
    *,
    device: torch.device,
    rounds: int | None,
    warmup: int | None,
    seed: int,
) -> dict[str, Latency]:
    """Time all calls in turn, in a new random order in each round; the plain model's is first."""
    for _ in WARMUP.iterate(warmup, f"{what}, warm-up"):
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(seed)
    for _ in ROUNDS.iterate(rounds, what):
        for name in order.sample(list(runs), len(runs)):
            seconds[name].append(_seconds(runs[name], device))
    arrays = {name: np.array(taken) for name, taken in seconds.items()}
    plain = next(iter(arrays.values()))
    return {
        name: Latency(*_spread(1e3 * taken), *_spread(taken / plain), len(taken))
        for name, taken in arrays.items()
    }


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Wall clock of a call, with CUDA synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _spread(values: Any) -> tuple[float, float, float]:
    middle, low, high = np.quantile(values, (0.5, 0.2, 0.8))
    return float(middle), float(low), float(high)
