"""Links into the pages of torch, numpy and Python without a network.

intersphinx asks a site for its inventory, ``objects.inv``. Ours are small and our own: the names
that this site refers to, in ``docs/inventories/<project>.txt``, one ``name role page`` a line
(a page ending in ``#`` is completed by the name). `mapping` writes them in Sphinx's format (version
2: four lines of header, then the names compressed by zlib) and returns ``intersphinx_mapping``.
"""

import zlib
from pathlib import Path

SITES = {
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "python": "https://docs.python.org/3/",
}


def inventory(project: str, names: str) -> bytes:
    """Return the inventory of a project for lines of ``name role page``."""
    header = (
        "# Sphinx inventory version 2",
        f"# Project: {project}",
        "# Version: ",
        "# The remainder of this file is compressed using zlib.",
    )
    lines = []
    for line in names.splitlines():
        name, role, page = line.split()
        lines.append(f"{name} py:{role} 1 {page + '$' if page.endswith('#') else page} -\n")
    return "\n".join((*header, "")).encode() + zlib.compress("".join(lines).encode())


def mapping(sources: Path, out: Path) -> dict[str, tuple[str, str]]:
    """Write every inventory under `out` and return where each project's pages and names are."""
    out.mkdir(parents=True, exist_ok=True)
    found = {}
    for project, site in SITES.items():
        path = out / f"{project}.inv"
        names = (sources / f"{project}.txt").read_text(encoding="utf-8")
        path.write_bytes(inventory(project, names))
        found[project] = (site, str(path))
    return found
