"""Has a ratio moved? Reruns the quick timed benchmarks and compares with the committed rows.

``python -m benchmarks.check`` names every ratio and fails if one moved by more than the tolerance,
in either direction: a faster layer needs a new row too. Times do not carry over between machines;
ratios within one run do, at the same number of threads, which is taken from the committed rows.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import aam_step, layers, mixup, training
from benchmarks.harness import RESULTS, configure, parser
from examples.provenance import read_csv

BENCHMARKS = (layers, mixup, aam_step, training)


class Verdict(NamedTuple):
    """One ratio of one row, then and now; `moved` is by what factor, at least 1."""

    row: str
    ratio: str
    committed: float | None
    fresh: float
    moved: float

    def line(self) -> str:
        """Say it in a line."""
        then = "no committed row" if self.committed is None else f"{self.committed:.4g}"
        return f"{self.row}: {self.ratio} {then} -> {self.fresh:.4g}"


def compare(
    fresh: Sequence[Mapping[str, Any]],
    committed: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    ratios: Sequence[str],
) -> list[Verdict]:
    """Compare every ratio of the fresh rows; a row that is not committed moved infinitely far."""
    before = {tuple(str(row[key]) for key in keys): row for row in committed}
    verdicts = []
    for row in fresh:
        key = tuple(str(row[k]) for k in keys)
        for ratio in ratios:
            if ratio not in row or ratio == f"time / {row.get('variant')}":
                continue  # a whole network has no floor, and a variant over itself no ratio
            now, then, moved = float(row[ratio]), None, float("inf")
            if key in before:
                then = float(before[key][ratio])
                moved = max(now / then, then / now)
            verdicts.append(Verdict(", ".join(key), ratio, then, now, moved))
    return verdicts


def main(argv: Sequence[str] | None = None) -> int:
    """Return how many ratios moved too far."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("--tolerance", type=float, default=0.6, help="0.6 is 60 %% (default)")
    flags.add_argument("--committed", type=Path, default=RESULTS, help="folder of the rows to meet")
    flags.set_defaults(out=Path("build/bench-check"), quick=True)
    args = flags.parse_args(argv)
    failures = 0
    for benchmark in BENCHMARKS:
        committed = read_csv(args.committed / benchmark.FILE)
        threads = args.threads or int(committed[0]["threads"])
        settings = configure(Namespace(**vars(args) | {"threads": threads}), "check", argv)
        if settings.provenance["device"] != committed[0]["device"]:
            raise ValueError(
                f"{benchmark.FILE} was measured on {committed[0]['device']}, this is "
                f"{settings.provenance['device']}; pass --device or rows of such a machine"
            )
        for verdict in compare(
            benchmark.run(settings), committed, benchmark.KEYS, benchmark.RATIOS
        ):
            failed = verdict.moved > 1 + args.tolerance
            failures += failed
            print("FAILED" if failed else "ok    ", benchmark.FILE, verdict.line(), flush=True)
    print(f"{failures} ratios moved by more than {100 * args.tolerance:g} %")
    return failures


if __name__ == "__main__":
    sys.exit(min(main(), 1))
