"""Analyse the study (docs/study.md): which layer, which augmentation, with intervals.

    python -m examples.study --list
    python -m examples.study

Reads prediction files alone, results/cells/ here and in examples/vision, and writes
results/<family>.csv and a forest plot for every family whose cells are all there and are of one
clean commit. Of a family that lacks cells it says which, and looks at none.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from examples.study.cells import EXAMPLES, FAMILIES, Family, facts, is_whole, outcomes, paths
from examples.study.paired import Row, adjust, compare

RESULTS = Path(__file__).parent / "results"
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito


def analyse(family: Family, root: Path, *, any_commit: bool = False) -> list[Row]:
    """Return a row for each variant against the base, or none if the family lacks cells."""
    files = paths(family, root)
    if not is_whole(family, files):
        return []
    run = {variant: facts(files, variant) for variant in family.variants}
    commits = " ".join(dict.fromkeys(row["commit"] for row in run.values()))
    if not any_commit and (" " in commits or "-dirty" in commits):
        raise SystemExit(f"{family.name}: expected cells of one clean commit, got {commits}")
    base, *others = (outcomes(family, variant, files) for variant in family.variants)
    rows = []
    for variant, ours in zip(family.variants[1:], others, strict=True):
        row = {"family": family.name, "variant": variant, "against": family.variants[0]}
        row |= compare(
            ours, base, measure=family.measure, margin=family.margin, comparisons=len(others)
        )
        rows.append(row | run[variant])
    return adjust(rows)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write rows to four digits."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def draw_forest(rows: Sequence[Row], path: Path) -> None:
    """Draw every difference with its interval, the margin of equivalence and the verdict."""
    figure, axes = plt.subplots(figsize=(10, 1.3 + 0.42 * len(rows)), layout="constrained")
    margin, places = rows[0]["margin"], np.arange(len(rows))
    axes.axvspan(-margin, margin, color=GREY, alpha=0.2, lw=0, label=f"within {margin:g} points")
    axes.axvline(0, color="black", lw=0.8)
    values = np.array([(row["difference"], row["low"], row["high"]) for row in rows]).T
    axes.errorbar(values[0], places, xerr=[values[0] - values[1], values[2] - values[0]],
                  fmt="o", color=BLUE, capsize=3)  # fmt: skip
    axes.set_yticks(places, [row["variant"] for row in rows])
    right = axes.secondary_yaxis("right")
    right.set_yticks(places, [row["verdict"].split(" (")[0] for row in rows], fontsize=9)
    right.tick_params(length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    first = rows[0]
    over = f"95 % interval over {first['seeds']} seeds and {first['groups']} groups"
    axes.set(xlabel=f"difference in {first['measure']} to {first['against']} (points, {over})")
    figure.legend(loc="outside lower left", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse every family that is whole."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study", description=__doc__.split("\n")[0]
    )
    names = [family.name for family in FAMILIES]
    parser.add_argument("--family", nargs="+", choices=names, default=names)
    parser.add_argument("--list", action="store_true", help="say which cells are there, and stop")
    parser.add_argument("--cells", type=Path, default=EXAMPLES, help="examples/ of a checkout")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--any-commit", action="store_true", help="cells of several commits: a try")
    args = parser.parse_args(argv)
    chosen = [family for family in FAMILIES if family.name in args.family]
    if args.list:
        for family in chosen:
            is_whole(family, paths(family, args.cells))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for family in chosen:
        if rows := analyse(family, args.cells, any_commit=args.any_commit):
            write(rows, args.out / f"{family.name}.csv")
            draw_forest(rows, args.out / f"{family.name}.png")
            print(f"{family.name}, {rows[0]['measure']} against {rows[0]['against']}:")
            for row in rows:
                print(f"  {row['variant']:<26}{row['verdict']}")


if __name__ == "__main__":
    main()
