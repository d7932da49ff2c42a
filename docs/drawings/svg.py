"""A picture of boxes and arrows as SVG: 360 units wide, so that a phone shows it at full size."""

from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

STYLE = Path(__file__).parent.parent / "_static" / "drawing.css"
WIDTH = 360
BOX = 28  # height of a box of one line
LINE = 15  # height of a further line
GAP = 34  # between two boxes of a column, room for an arrow and its label
HEAD = 5  # half the width of an arrow's head

Point = tuple[float, float]


class Box(NamedTuple):
    """A drawn box: its centre line and its edges."""

    x: float
    left: float
    right: float
    top: float
    bottom: float

    @property
    def middle(self) -> float:
        """The height of its middle."""
        return (self.top + self.bottom) / 2


class Picture:
    """Boxes, arrows and labels; the y axis points down."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.parts: list[str] = []
        self.labels: list[str] = []  # the shapes on the arrows
        self.height = 0.0

    def text(
        self, x: float, y: float, text: str, kind: str = "text", anchor: str = "middle"
    ) -> None:
        """Write one line with its baseline at y."""
        self.parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
        )
        self.height = max(self.height, y + 6)

    def box(self, x: float, top: float, text: str, width: float, kind: str = "op") -> Box:
        """Draw a box around x. `kind`: "op", "learnt" (it has weights) or "data" (a tensor)."""
        lines = text.split("\n")
        height = BOX + LINE * (len(lines) - 1)
        box = Box(x, x - width / 2, x + width / 2, top, top + height)
        radius = BOX / 2 if kind == "data" else 4
        self.parts.append(
            f'<rect class="{kind}" x="{box.left:g}" y="{top:g}" width="{width:g}" '
            f'height="{height:g}" rx="{radius:g}"/>'
        )
        for n, line in enumerate(lines):
            self.text(x, top + BOX / 2 + 4.5 + LINE * n, line)
        self.height = max(self.height, box.bottom)
        return box

    def line(self, *points: Point, kind: str = "line") -> None:
        """Draw a polyline."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def arrow(self, *points: Point, label: str = "", side: str = "right") -> None:
        """Draw a polyline with a head, and a shape beside its longest upright part."""
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        back = (x - 2 * HEAD * dx, y - 2 * HEAD * dy)
        self.line(*points[:-1], back)
        left, right = ((back[0] + s * HEAD * dy, back[1] + s * HEAD * dx) for s in (-1, 1))
        corners = " ".join(f"{a:g},{b:g}" for a, b in ((x, y), left, right))
        self.parts.append(f'<polygon class="head" points="{corners}"/>')
        if label:
            upright = [(a, b) for a, b in pairwise(points) if a[0] == b[0]]
            (lx, top), (_, bottom) = max(upright, key=lambda part: abs(part[1][1] - part[0][1]))
            self.shape(lx, (top + bottom) / 2, label, side)

    def shape(self, x: float, y: float, label: str, side: str = "right") -> None:
        """Write a tensor's shape beside a line at x."""
        away, anchor = (8, "start") if side == "right" else (-8, "end")
        self.text(x + away, y + 3, label, "shape", anchor)
        self.labels.append(label)

    def down(self, box: Box, text: str, width: float, kind: str = "op", label: str = "") -> Box:
        """Draw a box below another and the arrow to it."""
        below = self.box(box.x, box.bottom + GAP, text, width, kind)
        self.arrow((box.x, box.bottom), (box.x, below.top), label=label)
        return below

    def svg(self) -> str:
        """Return the picture as a file that stands alone."""
        head = '<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
        head += f'viewBox="0 0 {WIDTH} {self.height + 2:g}" aria-label="{escape(self.title)}">'
        style = f"<style>{STYLE.read_text(encoding='utf-8')}</style>"
        return "\n".join((head, style, *self.parts, "</svg>\n"))

    def inline(self) -> str:
        """Return the same without its style, for a page that has it."""
        head, _, rest = self.svg().partition("<style>")
        return head + rest.partition("</style>\n")[2]
