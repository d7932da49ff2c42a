"""The fused layers on a GPU: whether they are right, and how near memory bandwidth they come.

``python -m benchmarks.gpu`` first compares every operator, and the layers that they make, with
float64: training and evaluation, float32, bfloat16 and float16, means far from zero, every layout.
Then it times ICASA (ICA and SA at one shape) against eager torch and torch.compile, and writes
gpu.csv. No row stands for a call that computed something else: it is refused, named at the end, and
the exit status is 1. After ``--minutes`` no further torch.compile is begun; what is left out is
printed.

Per call, in milliseconds: "warm" repeats it on one input, "cold" has the L2 cache flushed before,
"graph" and "graph cold" replay it as a CUDA graph, without the host, and "host" is the time until
the call returns. "share of copy" is the time of a plain copy of as many bytes as the algorithm must
move (3 passes over x forward, 8 with the backward) over "graph cold".
"""

import copy
import csv
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu_checks import DTYPES, MAKES, checks, randomised
from benchmarks.harness import (
    BLOCK,
    Row,
    Settings,
    configure,
    double,
    gradients,
    parser,
    peak_megabytes,
    spread,
    timed,
    use_path,
    verify,
)
from icasa import ICA

LARGE = (64, 256, 128, 128)  # 1.07 GB in float32
SHAPES = ((1, 32, 19, 100), (32, 32, 19, 100), (32, 64, 56, 56), (256, 64, 56, 56), LARGE)
PASSES = {"forward": 3, "forward+backward": 8}  # passes over x that the algorithm needs
COMPILED = {  # the path that is compiled, and how
    "compiled": ("eager", "default"),
    "compiled max-autotune": ("eager", "max-autotune-no-cudagraphs"),
    "compiled fused": ("fused", "default"),
}
# Of y and dx, and of a parameter's gradient: the small net is itself of the map's type.
TOLERANCE = {"float32": (3e-4, 3e-4), "bfloat16": (3e-2, 0.3)}
CLOCKS = ("warm", "cold", "graph", "graph cold", "host")
FILE = "gpu.csv"


def variants(layer: nn.Module, train: bool) -> dict[str, nn.Module]:
    """Return the same layer on each path that needs no compilation."""
    paths = {"eager": False, "fused": True}
    return {name: use_path(copy.deepcopy(layer), path).train(train) for name, path in paths.items()}


def graph_of(run: Callable[[], Any]) -> Callable[[], None]:
    """Capture a call, so that a replay costs the host one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def cold(run: Callable[[], Any], scratch: Tensor) -> float:
    """Seconds of one call after the L2 cache was filled with something else."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    for _ in range(2):  # long enough that the host has launched the call before it starts
        scratch.zero_()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def on_host(run: Callable[[], Any]) -> float:
    """Seconds until the call returns, from an idle device."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def clock(
    runs: dict[str, Callable[[], Any]], graphs: dict[str, Callable[[], None]], settings: Settings
) -> dict[str, dict[str, np.ndarray]]:
    """Seconds (rounds,) of every call by every clock; the calls take turns in each round."""
    device = settings.device
    scratch = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    everything = {(n, "warm"): run for n, run in runs.items()}
    everything |= {(n, "graph"): run for n, run in graphs.items()}
    repeats = {}
    for key, run in everything.items():
        warm = min(timed(run, device) for _ in range(3))
        repeats[key] = max(1, round(BLOCK / warm))
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(settings.rounds):
        for (name, kind), run in everything.items():
            label = "cold" if kind == "warm" else "graph cold"
            found = {kind: timed(run, device, repeats[name, kind]), label: cold(run, scratch)}
            if kind == "warm":
                found["host"] = on_host(run)
            for which, value in found.items():
                seconds.setdefault((name, which), []).append(value)
    return {
        name: {c: np.array(seconds[name, c]) for c in CLOCKS if (name, c) in seconds}
        for name in runs
    }


def copy_bandwidth(device: torch.device, rounds: int) -> float:
    """Bytes a second that a copy of a tensor of 1 GiB reads and writes, the median."""
    source = torch.randn(1 << 28, device=device)
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    taken = [timed(lambda: target.copy_(source), device) for _ in range(rounds)]
    return 2 * source.nbytes / float(np.median(taken))


def row(
    key: Row,
    seconds: dict[str, np.ndarray],
    needed: int,
    bandwidth: float,
    error: float,
    memory: float | None,
) -> Row:
    """Make a line of the table: a clock that did not run is left empty."""
    line = dict(key)
    for name in CLOCKS:
        found = seconds.get(name)
        empty = dict.fromkeys((f"{name} ms", f"{name} ms p20", f"{name} ms p80"), "")
        line |= empty if found is None else spread(f"{name} ms", 1e3 * found)
    best = float(np.median(seconds.get("graph cold", seconds["cold"])))
    line |= {"needed MB": round(needed / 1e6, 3), "copy GB/s": round(bandwidth / 1e9)}
    line |= {"share of copy": float(f"{needed / bandwidth / best:.3g}")}
    return line | {"memory MB": memory, "error": float(f"{error:.2g}")}


def one_pass(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """Forward in evaluation; in training also the gradients."""
    return gradients(module, x, g) if module.training else (module(x),)


def inspect(
    case: str,
    run: Callable[[], Sequence[Tensor]],
    expected: Sequence[Tensor],
    tolerances: tuple[float, float],
    device: torch.device,
) -> tuple[float, float | None]:
    """Return the error of a call's maps, and the MB that it adds to what is allocated.

    Raises:
        WrongVariantError: if it does not compute what it should.
    """
    got = run()
    error = verify(case, got[:2], expected[:2], tolerances[0])
    verify(case, got, expected, tolerances[1])
    return error, peak_megabytes(run, device)


class Bench:
    """Rows, failures and the time that is left."""

    def __init__(self, settings: Settings, minutes: float) -> None:
        self.settings = settings
        self.until = time.monotonic() + 60 * minutes
        self.rows: list[Row] = []
        self.failures: list[str] = []

    def attempt(self, name: str, run: Callable[[], Any]) -> Any:
        """Run one part; whatever fails in it is shown, kept for the exit status, and gives None."""
        try:
            return run()
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {str(error)[:400]}")
            print("FAILED", self.failures[-1], flush=True)
            return None

    def check(self) -> None:
        """Run every check, in memory filled with NaN."""
        torch.use_deterministic_algorithms(True, warn_only=True)
        count = 0
        for name, run in checks(self.settings.device):
            self.attempt(name, run)
            count += 1
        torch.use_deterministic_algorithms(False)
        print(f"{count} checks, {len(self.failures)} failed", flush=True)

    def modules(self, title: str, layer: nn.Module, train: bool, compiled: bool) -> dict[str, Any]:
        """Return the layer's variants, compiled ones too while there is time."""
        made = variants(layer, train)
        for label, (path, mode) in COMPILED.items() if compiled else ():
            if time.monotonic() > self.until:
                print(f"left out for lack of time: {title}, {label}", flush=True)
            else:
                made[label] = torch.compile(copy.deepcopy(made[path]), dynamic=False, mode=mode)
        return made

    def compare(
        self, name: str, shape: Sequence[int], dtype: torch.dtype, train: bool, compiled: bool
    ) -> None:
        """Check, then time a layer's variants over one map in one pass."""
        which = "forward+backward" if train else "forward"
        size, kind = "x".join(map(str, shape)), str(dtype).removeprefix("torch.")
        title = f"{name} {size} {kind} {which}"
        device = self.settings.device
        layer = randomised(MAKES[name](shape[1]), self.settings.seed).to(device, dtype)
        generator = torch.Generator(device).manual_seed(self.settings.seed)
        x, g = (torch.randn(*shape, generator=generator, device=device).to(dtype) for _ in range(2))
        runs, graphs, known = {}, {}, {}
        with torch.set_grad_enabled(train):
            expected = one_pass(double(layer).train(train), x.double(), g.double())
            expected = [w.detach() for w in expected]
            for label, module in self.modules(title, layer, train, compiled).items():
                case, run = f"{title}, {label}", partial(one_pass, module, x, g)
                look = partial(inspect, case, run, expected, TOLERANCE[kind], device)
                known[label] = self.attempt(case, look)
                if known[label] is not None:  # no row for what is wrong
                    runs[label] = run
                    graph = self.attempt(f"{case}, capture", partial(graph_of, run))
                    graphs |= {} if graph is None else {label: graph}
            del expected
            times = clock(runs, graphs, self.settings)
        bandwidth = copy_bandwidth(device, self.settings.rounds)
        for label, seconds in times.items():
            key = {"layer": name, "variant": label, "pass": which, "shape": size, "dtype": kind}
            line = row(key, seconds, PASSES[which] * x.nbytes, bandwidth, *known[label])
            self.save(self.settings.provenance | line)

    def save(self, line: Row) -> None:
        """Show a row and write all of them."""
        # Not by examples.provenance: a machine with a GPU may have torch and numpy alone.
        self.rows.append(line)
        with (self.settings.out / FILE).open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
        shown = ("layer", "shape", "dtype", "pass", "variant", "error", "share of copy")
        print(*(line[k] for k in shown), *(line[f"{c} ms"] for c in CLOCKS), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, time and save; exit with status 1 after any failure."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("--minutes", type=float, default=5.0, help="begin no compilation after")
    flags.add_argument("--commit", help="commit of the code, where it is no checkout")
    args = flags.parse_args(argv)
    if not torch.cuda.is_available() or args.device == "cpu":
        sys.exit("expected a CUDA device, got none; run it on a machine with a GPU")
    settings = configure(args, "gpu", argv)
    if args.commit and settings.provenance["commit"] == "not a checkout":
        settings.provenance["commit"] = args.commit
    import triton  # only here, as no other machine needs it

    settings.provenance["triton"] = triton.__version__
    bench = Bench(settings, args.minutes)
    # The first fused call registers the operators on CUDA.
    use_path(ICA(8), fused=True).to(settings.device)(torch.ones(1, 8, 4, 4, device=settings.device))
    bench.check()
    for shape in SHAPES[1:3] if args.quick else (*SHAPES[:3], LARGE, SHAPES[3]):
        for dtype, train in itertools.product(DTYPES[:2], (False, True)):
            compiled = dtype == torch.float32
            names = ("ICASA", "ICA", "SA") if shape == SHAPES[2] and compiled else ("ICASA",)
            for name in names:
                part = (name, shape, dtype, train, compiled and name == "ICASA")
                bench.attempt(f"{part}", partial(bench.compare, *part))
                torch.compiler.reset()
                torch.cuda.empty_cache()
    print(f"{len(bench.rows)} rows in {settings.out / FILE}")
    if bench.failures:
        sys.exit("\n".join([f"{len(bench.failures)} failed:", *bench.failures]))


if __name__ == "__main__":
    main()
