"""Every ``# DIFF:`` in the code has its reading on the page ``paper``, or the build fails.

A row of that page names the lines it explains by the role ``{diff}`file: words```: the end of the
file's path, then words that one DIFF of that file holds. The directive ``{departures}`` lists all
of them, where each role leads. A key that matches no DIFF or several, and a DIFF without a role,
are warnings, which ``--fail-on-warning`` makes errors.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("icasa", "examples")
PAGE = "paper"
TAG = re.compile(r"^\s*# DIFF: ")
logger = logging.getLogger(__name__)


class Departure(NamedTuple):
    """One ``# DIFF:`` comment: where it starts and all its words."""

    path: str  # from the root, with slashes
    line: int
    text: str
    anchor: str


def collect(root: Path = ROOT) -> list[Departure]:
    """Return every departure, by file and line."""
    found = []
    for path in sorted(file for room in ROOMS for file in (root / room).rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        starts = [n for n, line in enumerate(lines) if TAG.match(line)]
        for count, start in enumerate(starts, 1):
            words = [TAG.sub("", lines[start])]
            for line in lines[start + 1 :]:
                if not re.match(r"\s*# ", line) or TAG.match(line):
                    break
                words.append(line.strip()[2:])
            name = path.relative_to(root).as_posix()
            anchor = f"diff-{name.removesuffix('.py').replace('/', '-')}-{count}"
            found.append(Departure(name, start + 1, " ".join(words), anchor))
    return found


def match(key: str, departures: list[Departure]) -> list[Departure]:
    """Return the departures that a key ``file: words`` names."""
    file, _, words = key.partition(": ")
    return [d for d in departures if f"/{d.path}".endswith(f"/{file}") and words in d.text]


def unread(keys: list[str], departures: list[Departure]) -> list[Departure]:
    """Return the departures that no key names."""
    return [d for d in departures if not any(d in match(key, departures) for key in keys)]


class DiffRole(SphinxRole):
    """``{diff}`file: words```: a link to that departure in the list."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Resolve the key, or warn."""
        found = match(self.text, collect())
        if len(found) != 1:
            near = "; ".join(d.text for d in found) or "none"
            message = f"{{diff}}`{self.text}` must name one DIFF, matches {len(found)}: {near}"
            logger.warning(message, location=self.get_location())
            return [nodes.Text(self.text)], []
        name = Path(found[0].path).name
        link = nodes.reference("", name, refuri=f"#{found[0].anchor}", classes=["diff"])
        link["diff"] = self.text
        return [link], []


class Departures(SphinxDirective):
    """The list of all departures: file, line and text."""

    def run(self) -> list[nodes.Node]:
        """Build it anew whenever a file of the code changes."""
        items = nodes.bullet_list(classes=["departures"])
        for path in {d.path for d in collect()}:
            self.env.note_dependency(str(ROOT / path))
        for d in collect():
            place = nodes.literal(text=f"{d.path}:{d.line}")
            text = nodes.paragraph("", "", place, nodes.Text(f" {d.text}"))
            items += nodes.list_item("", text, ids=[d.anchor])
        return [items]


def check(app: Sphinx, env: Any) -> None:
    """Warn of each departure that the page does not read."""
    page = env.get_doctree(PAGE)
    keys = [node["diff"] for node in page.findall(nodes.reference) if "diff" in node]
    for d in unread(keys, collect()):
        hint = f"give it a row in {PAGE}.md with {{diff}}`{d.path}: some of its words`"
        logger.warning("%s:%d is read nowhere (%s); %s", d.path, d.line, d.text, hint)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the role, the directive and the check."""
    app.add_role("diff", DiffRole())
    app.add_directive("departures", Departures)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
