"""What pages show without copying it: drawings, and the facts about a class."""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from drawings import DRAWINGS
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import icasa
from extensions.departures import PAGE, ROOT, collect, match
from extensions.tables import read, table

MATRIX = ROOT / "docs" / "matrix.csv"
MARKS = {"yes": "✓", "no": "✗", "n/a": "–"}  # noqa: RUF001 - a dash
PLOTS = ROOT / "benchmarks" / "results"


class Drawing(SphinxDirective):
    """``{drawing} NAME`` with a caption as its content: one of `drawings`, within the page."""

    required_arguments = 1
    has_content = True
    option_spec = {"name": directives.unchanged}  # noqa: RUF012 - docutils reads it so

    def run(self) -> list[nodes.Node]:
        """Inline it, so that it follows the page's theme."""
        for file in (ROOT / "docs" / "drawings").glob("*.py"):
            self.env.note_dependency(str(file))
        picture = nodes.raw("", DRAWINGS[self.arguments[0]]().inline(), format="html")
        figure = nodes.figure("", picture, align="center")
        if self.content:
            (caption,) = self.parse_content_to_nodes()
            figure += nodes.caption("", "", *caption.children)
        self.add_name(figure)
        return [figure]


class Matrix(SphinxDirective):
    """``{matrix}``: matrix.csv by marks, what a row checked as its note below."""

    def run(self) -> list[nodes.Node]:
        """Mark each cell and number the notes."""
        self.env.note_dependency(str(MATRIX))
        rows = read(MATRIX)
        layers = [key for key in rows[0] if key not in ("check", "what")]
        short = {"DepthwiseSeparableConv": "DSConv"}
        lines = [
            [f"{row['check'].replace('_', ' ')} [{n}](#note-{n})", *(MARKS[row[k]] for k in layers)]
            for n, row in enumerate(rows, 1)
        ]
        head = ["tool", *(short.get(layer, layer) for layer in layers)]
        notes = [f"(note-{n})=\n{n}. {row['what']}" for n, row in enumerate(rows, 1)]
        text = "\n\n".join((table(head, lines), "DSConv: `DepthwiseSeparableConv`.", *notes))
        return self.parse_text_to_nodes(text)


class Facts(SphinxDirective):
    """``{facts} CLASS``: its cost plot, its rows of the matrix, its departures, its files.

    ``:departures: ica.py coordinate.py`` names the files whose DIFFs it has.
    """

    required_arguments = 1
    option_spec = {"departures": directives.unchanged_required}  # noqa: RUF012 - as above

    def run(self) -> list[nodes.Node]:
        """Build what there is."""
        self.cls = getattr(icasa, self.arguments[0])
        parts = (self.cost(), self.matrix(), self.departures(), self.files())
        return [node for part in parts for node in part]

    def cost(self) -> list[nodes.Node]:
        """Show the plot that benchmarks/complexity.py leaves, once it has run."""
        page = self.cls.__module__.rsplit(".", 1)[1]
        path = PLOTS / f"complexity-{page}.png"
        self.env.note_dependency(str(path))
        if not path.is_file():
            return []
        uri = f"/../{path.relative_to(ROOT).as_posix()}"
        text = (
            f"```{{figure}} {uri}\n:alt: Costs of {self.cls.__name__} by channels and size\n\n"
            "What one layer adds to a forward pass with PyTorch's operators, by channels C; a line "
            "for each height and width of the map. Where lines coincide, the map's size makes no "
            "difference. The kernels save less memory.\n```\n"
        )
        return [nodes.rubric(text="Cost"), *self.parse_text_to_nodes(text)]

    def matrix(self) -> list[nodes.Node]:
        """Its column of matrix.csv."""
        self.env.note_dependency(str(MATRIX))
        name, rows = self.cls.__name__, read(MATRIX)
        if name not in rows[0]:
            return []
        cells = []
        for row in rows:
            what = row["what"] if row[name] == "no" else row["what"].split(" No: ")[0]
            cells.append([row["check"].replace("_", " "), MARKS[row[name]], what])
        text = table(["tool", "", "checked"], cells)
        return [nodes.rubric(text="Where it works"), *self.parse_text_to_nodes(text)]

    def departures(self) -> list[nodes.Node]:
        """Its DIFFs, each with a link to the page that reads them."""
        files = self.options.get("departures", "").split()
        page = self.env.app.builder.get_relative_uri(self.env.docname, PAGE)
        items = nodes.bullet_list()
        for d in [d for file in files for d in match(f"{file}: ", collect())]:
            link = nodes.reference("", f"{d.path}:{d.line}", refuri=f"{page}#{d.anchor}")
            items += nodes.list_item("", nodes.paragraph("", "", nodes.Text(f"{d.text} "), link))
        for file in files:
            if not match(f"{file}: ", collect()):
                raise self.error(f"{file} has no DIFF; take it out of :departures:")
        return [nodes.rubric(text="Departures from the paper"), items] if files else []

    def files(self) -> list[nodes.Node]:
        """Where it is written and tested."""
        source = Path(*self.cls.__module__.split(".")).with_suffix(".py")
        test = Path("tests", *source.parts[1:-1], f"test_{source.name}")
        if not (ROOT / test).is_file():
            raise self.error(f"{self.cls.__name__} has no {test}")
        text = f"Source: `{source}`. Tests: `{test}`"
        text += (
            ", and `tests/test_contract.py` for what every layer keeps." if self.matrix() else "."
        )
        return [nodes.rubric(text="Files"), *self.parse_text_to_nodes(text)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("drawing", Drawing)
    app.add_directive("facts", Facts)
    app.add_directive("matrix", Matrix)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
