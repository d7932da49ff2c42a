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

from examples.ser.grid.names import name
from examples.study.cells import (
    EXAMPLES,
    FAMILIES,
    Family,
    check_commits,
    facts,
    is_whole,
    outcomes,
    paths,
)
from examples.study.choice import NAME, choices, choose, confirming
from examples.study.paired import Row, adjust, compare

RESULTS = Path(__file__).parent / "results"
BLUE, GREY = "#0072B2", "#999999"  # Okabe and Ito


def analyse(family: Family, root: Path, *, any_commit: bool = False) -> list[Row]:
    """Return a row for each variant against the base, or none if the family lacks cells."""
    files = paths(family, root)
    if not is_whole(family, files):
        return []
    check_commits(family, files, any_commit=any_commit)
    base, *others = (outcomes(family, variant, files) for variant in family.variants)
    rows = []
    for variant, ours in zip(family.variants[1:], others, strict=True):
        row = {"family": family.name, "variant": variant, "against": family.variants[0]}
        row |= compare(
            ours, base, measure=family.measure, margin=family.margin, comparisons=len(others)
        )
        rows.append(row | facts(files, variant))
    return adjust(rows)


def analyse_forms(root: Path, *, any_commit: bool = False) -> tuple[list[Row], list[Row]]:
    """Return a row for each half and form, and the one row of the test of both choices.

    Both are empty if a cell lacks, of those that choose or of those that test.
    """
    compared = choose(root, any_commit=any_commit)
    rows = analyse(confirming(compared), root, any_commit=any_commit) if compared else []
    if not rows:
        return [], []
    commits = dict.fromkeys(row["commit"] for row in (*compared, *rows))
    if not any_commit and len(commits) > 1:
        raise SystemExit(f"{NAME}: expected cells of one clean commit, got {' '.join(commits)}")
    forms = choices(compared)
    columns = {f"chosen by half {half}": form for half, form in forms.items()}
    same = {"variant": forms[1]} if len(set(forms.values())) == 1 else {}
    return compared, [row | same | columns for row in rows]


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
    axes.axvspan(
        -margin,
        margin,
        color=GREY,
        alpha=0.2,
        lw=0,
        label=f"equivalent: at most {margin:g} point{'s' * (margin != 1)} apart",
    )
    axes.axvline(0, color="black", lw=0.8)
    values = np.array([(row["difference"], row["low"], row["high"]) for row in rows]).T
    axes.errorbar(values[0], places, xerr=[values[0] - values[1], values[2] - values[0]],
                  fmt="o", color=BLUE, capsize=3)  # fmt: skip
    axes.set_yticks(places, [name(row["variant"]) for row in rows])
    right = axes.secondary_yaxis("right")
    right.set_yticks(places, [row["verdict"].split(" (")[0] for row in rows], fontsize=9)
    right.tick_params(length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    first = rows[0]
    tested = "images" if first["measure"] == "accuracy" else "speakers"
    over = f"95 % interval over {first['seeds']} seeds and {first['groups']} {tested}"
    against = name(first["against"])
    axes.set(xlabel=f"difference in {first['measure']} to {against} (points, {over})")
    figure.legend(loc="outside lower left", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Analyse every family that is whole."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study", description=__doc__.split("\n")[0]
    )
    names = [*(family.name for family in FAMILIES), NAME]
    parser.add_argument("--family", nargs="+", choices=names, default=names)
    parser.add_argument("--list", action="store_true", help="say which cells are there, and stop")
    parser.add_argument("--cells", type=Path, default=EXAMPLES, help="examples/ of a checkout")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--any-commit", action="store_true", help="cells of several commits: a try")
    args = parser.parse_args(argv)
    if args.list:
        list_cells(args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        if family.name in args.family:
            rows = analyse(family, args.cells, any_commit=args.any_commit)
            report(family.name, rows, args.out)
    if NAME in args.family:
        compared, rows = analyse_forms(args.cells, any_commit=args.any_commit)
        if compared:
            write(compared, args.out / f"{NAME}-choice.csv")
        report(NAME, rows, args.out)


def list_cells(args: argparse.Namespace) -> None:
    """Say of every family which cells are there."""
    for family in FAMILIES:
        if family.name in args.family:
            is_whole(family, paths(family, args.cells))
    if NAME in args.family and (rows := choose(args.cells, any_commit=args.any_commit)):
        family = confirming(rows)
        is_whole(family, paths(family, args.cells))


def report(family: str, rows: Sequence[Row], out: Path) -> None:
    """Write the rows and the picture of a family, if it has rows, and print the verdicts."""
    if not rows:
        return
    write(rows, out / f"{family}.csv")
    draw_forest(rows, out / f"{family}.png")
    print(f"{family}, {rows[0]['measure']} against {rows[0]['against']}:")
    for row in rows:
        print(f"  {row['variant']:<26}{row['verdict']}")


if __name__ == "__main__":
    main()
