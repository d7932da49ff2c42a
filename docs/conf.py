"""Sphinx configuration: MyST pages, docstrings as the API, no network at build or on the page."""

import re
import sys
from pathlib import Path

import icasa

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
from extensions.inventories import mapping  # noqa: E402 - found by the line above

project = "icasa"
author = "The icasa authors"
copyright = "2026, The icasa authors"
release = version = icasa.__version__
floors = re.search(
    r'^dependencies = \["torch>=(.+?)", "numpy>=(.+?)"\]',
    (DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"),
    re.M,
)

extensions = [
    "myst_nb",  # Markdown pages and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
    "extensions.departures",
    "extensions.heads",
    "extensions.pages",
    "extensions.tables",
    "extensions.verdict",
]
exclude_patterns = ["_build"]
html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines names as if they were links
html_title = "icasa"
html_static_path = ["_static"]
html_css_files = ["drawing.css", "site.css"]
intersphinx_mapping = mapping(DOCS / "inventories", DOCS / "_build" / "inventories")
intersphinx_timeout = 1  # seconds: all is on disk
nitpicky = True  # every reference leads somewhere, but for
nitpick_ignore = [
    ("py:class", "icasa.convert.Layer"),  # a type variable
]

nb_merge_streams = True
nb_execution_mode = "off"  # committed with outputs; tests/docs/test_notebooks.py runs them
myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
myst_substitutions = dict(zip(("torch_floor", "numpy_floor"), floors.groups(), strict=True))
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "forward, extra_repr"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shape", "notes_style"), ("Reference", "notes_style")]
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text, .output) > div.highlight pre"  # not what is printed
