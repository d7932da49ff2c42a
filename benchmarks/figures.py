"""One look for the plots of all benchmarks: colours that colour-blind readers tell apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito 2008, as in the recipes' pictures; the yellow is too pale on white. A marker each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")


class Spread(NamedTuple):
    """A bar's height and the ends of its whisker."""

    median: float
    p20: float
    p80: float


def grid(rows: int, columns: int, size: tuple[float, float] = (4.6, 3.4)) -> tuple[Any, np.ndarray]:
    """Make a figure and its panels (rows, columns), each of `size` inches."""
    shape = (size[0] * columns, size[1] * rows)
    return plt.subplots(rows, columns, figsize=shape, layout="constrained", squeeze=False)


def lines(
    axes: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], dash: str = "-"
) -> None:
    """Draw named curves over logarithmic axes; a curve without a positive value is left out."""
    for i, (name, (x, y)) in enumerate(curves.items()):
        if max(y) > 0:
            look = {"color": COLOURS[i % 8], "marker": MARKERS[i % 8], "linestyle": dash}
            axes.plot(x, y, label=name, markersize=4, **look)
    axes.set_yscale("log")
    axes.set_xscale("log", base=2)
    ticks = sorted({x for xs, _ in curves.values() for x in xs})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    values = [value for _, y in curves.values() for value in y if value > 0]
    if values and max(values) < 10 * min(values):  # no power of ten may be among the ticks
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3)


def bars(
    axes: Any,
    groups: Sequence[str],
    values: Mapping[str, Sequence[Spread | None]],
    label: str = "",
) -> None:
    """Draw for each of `groups` a bar per name, None for no bar; `label` formats its height."""
    width = 0.8 / len(values)
    for i, (name, heights) in enumerate(values.items()):
        place, shown = [], []
        for g, height in enumerate(heights):
            if height is not None:  # the bars that a group has stand together over its name
                present = [n for n, other in values.items() if other[g] is not None]
                place.append(g + (present.index(name) - (len(present) - 1) / 2) * width)
                shown.append(height)
        drawn = axes.bar(
            place,
            [h.median for h in shown],
            width,
            label=name,
            color=COLOURS[i % 8],
            yerr=np.array([[h.median - h.p20, h.p80 - h.median] for h in shown]).T,
            error_kw={"elinewidth": 0.8, "ecolor": "#666666"},
        )
        if label:
            axes.bar_label(drawn, fmt=label, fontsize=7, padding=2)
    axes.margins(y=0.12)  # room for the labels
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def spread_of(row: Mapping[str, Any], column: str) -> Spread:
    """Median and spread of a column, as `harness.spread` wrote them."""
    return Spread(*(float(row[column + suffix]) for suffix in ("", " p20", " p80")))


def exact(value: float) -> Spread:
    """Return a number that has no spread, as a count."""
    return Spread(value, value, value)


def legend(figure: Any, axes: Any) -> None:
    """Name the curves of one panel below all of them."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 5)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)


def save(figure: Any, path: Path) -> None:
    """Write a figure and forget it."""
    figure.savefig(path, dpi=110, pil_kwargs={"optimize": True})
    plt.close(figure)
