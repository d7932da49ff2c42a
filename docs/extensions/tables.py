"""``{rows}``: a table of a CSV file that fits its page, with the file itself to download.

Digits follow one rule: percentages and points have one decimal, counts none, and in any other
column the largest value has three digits. Where that leaves a small value with fewer than two,
each cell has three. Headings and variants are in words, an empty column is left out.
"""

import csv
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from extensions.departures import ROOT

sys.path.insert(0, str(ROOT))
from examples.ser.grid.names import leak, name

Row = Mapping[str, str]
NAMED = ("variant", "ours", "against", "model", "space", "attention")  # columns of variants
CODE = ("file", "change", "command")  # columns to copy from
POINTS = re.compile(
    r"(WA|UA)\b|(low|high)$|difference|.*(match|chance|share|rate|accuracy)\b|.*\(%\)"
)  # columns of percentages, from their beginning
VALUES = {  # of other columns, in words
    "condition": {
        "awgn20": "noise at 20 dB", "awgn10": "noise at 10 dB", "awgn0": "noise at 0 dB",
        "mp3-128k": "MP3, 128 kbps", "reverb-0.3s": "reverberation, 0.3 s",
    },
    "format": {"planes": "contiguous"},
    "corpus": {"iemocap": "IEMOCAP", "ravdess": "RAVDESS"},
    "normalisation": {
        "none": "raw", "all": "standardised over all clips", "speaker": "standardised by speaker",
    },
    "gender": {"female - male": "female minus male"},
}  # fmt: skip


def read(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def digits(values: Sequence[str], column: str = "") -> list[str]:
    """Show the cells of a column by the rule above."""
    if POINTS.match(column):
        return [
            re.sub(r"-?\d+\.\d+", lambda m: f"{round(float(m[0]), 1) + 0.0:.1f}", value)
            for value in values
        ]
    numbers = [number(value) for value in values]
    if any(n is None for n, value in zip(numbers, values, strict=True) if value):
        return list(values)
    if all(re.fullmatch(r"-?\d+", value) for value in values if value):
        return [f"{int(value):,}" if value else "" for value in values]
    known = [abs(n) for n in numbers if n is not None and math.isfinite(n) and n]
    decimals = decimals_of(max(known, default=1))
    exact = (d for d in range(decimals) if all(round(n, d) == n for n in known))
    decimals = next(exact, decimals)
    apart = max(known, default=0) > 1 and min(known) < 10 ** (1 - decimals)
    shown = [
        "" if n is None or math.isnan(n) else f"{n:,.{decimals_of(n) if apart else decimals}f}"
        for n in numbers
    ]
    least = 10.0**-decimals
    return [
        f"< {least:g}" if n is not None and 0 < n < least / 2 and not apart else text
        for n, text in zip(numbers, shown, strict=True)
    ]


def decimals_of(value: float) -> int:
    """Return how many decimals show three digits of a number, three at most."""
    return min(3, max(0, 2 - math.floor(math.log10(abs(value))))) if value else 0


def number(value: str) -> float | None:
    """Return a cell as a number, None if it is none."""
    try:
        return float(value)
    except ValueError:
        return None


def pivot(rows: Sequence[Row], down: str, across: Sequence[str], value: str) -> list[list[str]]:
    """Return a heading and a row for each value of `down`, a column for each one of `across`."""
    heads = list(dict.fromkeys(tuple(row[key] for key in across) for row in rows))
    cells = {(row[down], tuple(row[key] for key in across)): row[value] for row in rows}
    lines = list(dict.fromkeys(row[down] for row in rows))
    body = [[cells.get((line, head), "") for head in heads] for line in lines]
    columns = [digits(list(column), value) for column in zip(*body, strict=True)]
    title = [", ".join(words(key, part) for key, part in zip(across, head, strict=True))
             for head in heads]  # fmt: skip
    filled = [n for n, column in enumerate(columns) if any(column)]
    head = [down, *(title[n] for n in filled)]
    return [
        head,
        *([words(down, line), *(columns[n][i] for n in filled)] for i, line in enumerate(lines)),
    ]


def words(column: str, value: str) -> str:
    """Return a cell in words."""
    if column in NAMED:
        return name(value)
    if column in CODE:
        return f"`` {value.strip()} ``" if value else ""
    if column == "leak":
        return leak(value)
    if column == "verdict":
        return value.partition(" (")[0]  # its interval has columns of its own
    if column == "commit":
        return value[:7] + value[40:]  # "-dirty" stays
    return f"{value} epochs" if column == "epochs" else VALUES.get(column, {}).get(value, value)


class Rows(SphinxDirective):
    """``{rows} FILE``: a CSV file from the root, or what command writes it while there is no row.

    ``:columns: a | b = in words`` and ``:where: column=value`` choose from it; ``:pivot: down |
    across, across | value`` turns it; ``:exact:`` shows all digits; ``:fold: title`` folds it
    away, ``:command:`` writes it.
    """

    required_arguments = 1
    option_spec = {  # noqa: RUF012 - docutils reads it so
        "columns": directives.unchanged_required,
        "where": directives.unchanged_required,
        "pivot": directives.unchanged_required,
        "exact": directives.flag,
        "fold": directives.unchanged_required,
        "command": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Show the rows."""
        path = ROOT / self.arguments[0]
        for file in (path, Path(__file__)):
            self.env.note_dependency(str(file))
        rows: Sequence[Row] = read(path) if path.is_file() else []
        count = len(rows)  # of the file, which may have more than is shown
        for condition in self.options.get("where", "").split("&"):
            key, _, value = condition.strip().partition("=")
            rows = [row for row in rows if not key or row[key] == value]
        if not rows:
            text = f"*Not measured yet:* `{self.options['command']}` writes `{self.arguments[0]}`."
            return self.parse_text_to_nodes(text)
        if "pivot" in self.options:
            down, across, value = (part.strip() for part in self.options["pivot"].split("|"))
            head, *body = pivot(rows, down, [key.strip() for key in across.split(",")], value)
        else:
            head, *body = self.plain(rows)
        return self.parse_text_to_nodes(self.folded(table(head, body), path, count))

    def plain(self, rows: Sequence[Row]) -> list[list[str]]:
        """Return the heading and the rows of the chosen columns that are not empty."""
        chosen = self.options.get("columns", " | ".join(rows[0]))
        pairs = [part.strip().partition(" = ")[::2] for part in chosen.split("|")]
        shown = {}
        for key, title in pairs:
            cells = [words(key, row[key]) if key != "epochs" else row[key] for row in rows]
            if any(cells):
                shown[title or key] = cells if "exact" in self.options else digits(cells, key)
        return [list(shown), *(list(line) for line in zip(*shown.values(), strict=True))]

    def folded(self, text: str, path: Path, count: int) -> str:
        """Return the table with its download below, in a box to open if it is to be folded."""
        file = Path(os.path.relpath(path, self.env.srcdir)).as_posix()
        text += f"\n\n{{download}}`CSV file, {count} row{'s' * (count != 1)} </{file}>`\n"
        if "fold" not in self.options:
            return text
        return f":::{{dropdown}} {self.options['fold']}\n{text}\n:::\n"


class Glance(Rows):
    """``{glance} FILE``: how many times as fast each layer is as its other forms, a row a layer."""

    def plain(self, rows: Sequence[Row]) -> list[list[str]]:
        """Divide the times of a layer, in one round's ratios, by that of what it does by itself."""
        kinds = {"forward": "forward", "forward+backward": "training step"}
        found = {(r["layer"], r["variant"], r["pass"]): r for r in rows}
        head = ["layer", *(f"{kind}, ms" for kind in kinds.values())]
        head += [f"{kind}: times as fast as {other}" for other in ("eager", "official", "compiled")
                 for kind in kinds.values()]  # fmt: skip
        body = []
        for layer in dict.fromkeys(row["layer"] for row in rows):
            ours = {k: found.get((layer, "default", k)) or found[layer, "eager", k] for k in kinds}
            times = [[ours[k]["ms"] for k in kinds]]
            for variant in ("eager", "official style", "compiled eager"):
                other = [found.get((layer, variant, k)) for k in kinds]
                times.append([
                    f"{float(o['time / eager']) / float(ours[k]['time / eager'])}"
                    if o and o is not ours[k] else "" for k, o in zip(kinds, other, strict=True)
                ])  # fmt: skip
            body.append([layer, *(cell for pair in times for cell in pair)])
        columns = [digits(list(column)) for column in zip(*body, strict=True)]
        return [head, *(list(line) for line in zip(*columns, strict=True))]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("rows", Rows)
    app.add_directive("glance", Glance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
