"""What a page says of itself to other sites and to readers who do not see its pictures.

Its description is its first paragraph. A picture opens in full by a click; one without words of
its own, as a notebook draws it, is named after its section.
"""

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LENGTH = 200  # characters of a description, as other sites show it


def describe(doctree: nodes.document) -> str:
    """Return the first paragraph of a page, whole words of it."""
    first = next((p for p in doctree.findall(nodes.paragraph) if p.astext().strip()), None)
    words = "" if first is None else " ".join(first.astext().split())
    return words if len(words) <= LENGTH else words[:LENGTH].rpartition(" ")[0] + " ..."


def add_tags(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the description and the tags that other sites read; none of them needs an address."""
    if doctree is None:  # the index and the search
        return
    said = escape(describe(doctree))
    tags = {"og:type": "website", "og:site_name": app.config.html_title,
            "og:title": context["title"], "og:description": said}  # fmt: skip
    lines = [f'<meta name="description" content="{said}">']
    lines += [f'<meta property="{key}" content="{value}">' for key, value in tags.items()]
    context["metatags"] = "\n".join((context.get("metatags", ""), *lines))


def name_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """Give each picture words, and its size, which makes Sphinx lead to the file itself."""
    for image in doctree.findall(nodes.image):
        section = next((n for n in _above(image) if isinstance(n, nodes.section)), None)
        if section is not None and "alt" not in image:
            image["alt"] = f"Picture drawn by the code above it: {section[0].astext()}"
        if not {"only-light", "only-dark"} & set(image["classes"]):  # hidden ones lead nowhere
            image.setdefault("scale", 100)


def _above(node: nodes.Node) -> list[nodes.Node]:
    """Return what a node stands in, from inside out."""
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def setup(app: Sphinx) -> dict[str, bool]:
    """Listen for pages that are read and pages that are written."""
    app.connect("doctree-read", name_pictures)
    app.connect("html-page-context", add_tags)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
