"""Compare the speed of a commit and of the present checkout, in rows of the layer benchmark.

``python -m benchmarks.compare BASE 'ICASA/default/*'`` builds BASE in a git worktree, with its C
library by its own build hook, and keeps two processes, one for each side, that time the same call
in turn, in an order drawn anew each round. It prints the ratio of the present checkout to BASE,
taken round by round, and writes compare.csv; with ``--bar 1.05`` the exit status is 1 if a median
ratio is above it. A row is layer/path/pass/shape, in channels_last with that word behind it. A
commit compared with itself shows the noise of the machine. BASE may be 645bba3 or any commit after.
"""

import contextlib
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import BLOCK, Row, Settings, configure, parser, progress, show, spread
from benchmarks.layers import BATCHES, LAYERS, MAIN, PASSES, SIZES
from examples.provenance import write_csv

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).with_name("compare_worker.py")
BUILD = Path(__file__).with_name("compare_build.py")
PATHS = {"eager": False, "fused": True, "default": None}
DEFAULT = tuple(
    f"{layer}/default/{which}/{'x'.join(map(str, shape))}"
    for layer in LAYERS
    for which in PASSES
    for shape in MAIN
)
# What `keep_pages` asks for, as the processes of the two sides read it at their start.
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**62)}
PAUSE = 0.01  # seconds, until the threads of the other process have gone to sleep
TOLERANCE = 3e-4
FILE = "compare.csv"
RATIO = "present / base"


class Case(NamedTuple):
    """A row of the layer benchmark."""

    layer: str
    path: str
    which: str  # of PASSES
    shape: tuple[int, ...]
    channels_last: bool

    @property
    def name(self) -> str:
        """What a pattern is compared with."""
        words = [self.layer, self.path, self.which, "x".join(map(str, self.shape))]
        return "/".join([*words, *["channels_last"] * self.channels_last])


def all_cases() -> dict[str, Case]:
    """Every row of the layer benchmark whose code is this library's alone, by name."""
    contiguous = [(shape, False) for shape in dict.fromkeys((*MAIN, *BATCHES, *SIZES))]
    cases = [
        Case(layer, path, which, *shape)
        for layer in LAYERS
        for path in PATHS
        for which, shape in itertools.product(PASSES, [*contiguous, *((s, True) for s in MAIN)])
    ]
    return {case.name: case for case in cases}


def choose(patterns: Sequence[str]) -> list[Case]:
    """Return the rows that match; each pattern must match some.

    Raises:
        ValueError: at a pattern without a row.
    """
    known = all_cases()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            example = ", ".join(list(known)[:3])
            raise ValueError(f"expected a pattern of rows such as {example}, got {pattern!r}")
    return [c for name, c in known.items() if any(fnmatchcase(name, p) for p in patterns)]


def git(*words: str) -> str:
    """Run git in this repository and return what it prints."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def resolve(base: str) -> str:
    """Return the full name of a commit.

    Raises:
        ValueError: if there is none of that name.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    except subprocess.CalledProcessError as error:
        raise ValueError(f"expected a commit of this repository as BASE, got {base!r}") from error


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "base")
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def build(tree: Path) -> None:
    """Compile a checkout's C library by its own hook."""
    subprocess.run([sys.executable, str(BUILD), str(tree)], check=True)


class Side:
    """A long-lived process that times calls of one checkout; it answers a line with a line."""

    def __init__(self, tree: Path, threads: int) -> None:
        # The program is this checkout's, what it imports is that of the folder where it runs.
        command = [sys.executable, "-c", WORKER.read_text(), str(threads)]
        pipe = subprocess.PIPE
        environment = {**os.environ, **KEEP_PAGES}
        self.process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=pipe, stdout=pipe, text=True
        )
        self.facts = self.ask()
        if not Path(self.facts["icasa"]).is_relative_to(tree.resolve()):
            raise RuntimeError(f"expected icasa of {tree}, got {self.facts['icasa']}")

    def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message, none at the start, and return the answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        if message:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"a process ended with status {self.process.wait()}; see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def measure(case: Case, sides: Mapping[str, Side], rounds: int, seed: int) -> dict[str, np.ndarray]:
    """Check both sides against float64, then time them in turn: seconds (rounds,) by side.

    Raises:
        ValueError: if a side computes something else.
    """
    message = {
        "layer": case.layer,
        "fused": PATHS[case.path],
        "train": case.which != PASSES[0],
        "shape": case.shape,
        "channels_last": case.channels_last,
        "seed": seed,
    }
    warm = 0.0
    for name, side in sides.items():
        made = side.ask(make=message)
        if not made["error"] <= TOLERANCE:  # NaN too
            error, limit = f"{made['error']:.2g}", f"{TOLERANCE:g}"
            raise ValueError(f"{case.name} of {name}: expected an error <= {limit}, got {error}")
        warm = max(warm, made["seconds"])
    repeats = max(1, round(BLOCK / warm))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = random.Random(seed)
    for _ in range(rounds):
        for name in order.sample(list(sides), len(sides)):
            time.sleep(PAUSE)
            seconds[name].append(sides[name].ask(time=repeats)["seconds"])
    return {name: np.array(taken) for name, taken in seconds.items()}


def run(commit: str, cases: Sequence[Case], settings: Settings) -> list[Row]:
    """Measure a row per case."""
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        tree = stack.enter_context(worktree(commit))
        sides = {}
        for name, folder in (("base", tree), ("present", ROOT)):
            build(folder)
            sides[name] = Side(folder, settings.provenance["threads"])
            stack.callback(sides[name].close)
            progress(f"{name}: {sides[name].facts}")
        for case in cases:
            seconds = measure(case, sides, settings.rounds, settings.seed)
            row: Row = {"row": case.name, "base": commit}
            row |= spread(RATIO, seconds["present"] / seconds["base"])
            for name, taken in seconds.items():
                row |= spread(f"{name} ms", 1e3 * taken)
                row |= {f"{name} backend": sides[name].facts["backend"]}
            rows.append(row | settings.provenance)
            progress(f"{case.name}: {row[RATIO]}")
            write_csv(settings.out / FILE, rows)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a median ratio is above the bar, else 0."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("base", metavar="BASE", help="a commit, 645bba3 or later")
    flags.add_argument("rows", nargs="*", default=DEFAULT, help="patterns: layer/path/pass/shape")
    flags.add_argument("--bar", type=float, help="largest median ratio that is allowed")
    flags.set_defaults(device="cpu")
    args = flags.parse_intermixed_args(argv)
    try:
        if args.device != "cpu":
            raise ValueError(f"expected --device cpu, got {args.device}; see benchmarks.gpu")
        commit, cases = resolve(args.base), choose(args.rows)
    except ValueError as error:
        flags.error(str(error))
    settings = configure(args, "compare", argv)
    rows = run(commit, cases, settings)
    columns = ("row", RATIO, f"{RATIO} p20", f"{RATIO} p80", "base ms", "present ms")
    show(rows, columns, settings.out / FILE)
    above = [row["row"] for row in rows if args.bar and row[RATIO] > args.bar]
    if args.bar:
        print(f"{len(above)} of {len(rows)} ratios above {args.bar:g}", *above, sep="\n")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
