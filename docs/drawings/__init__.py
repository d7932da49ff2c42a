"""Our drawings of the paper's figures: ``python -m drawings OUT`` (from docs/) writes them as SVG.

The site's ``drawing`` directive (``extensions/pages.py``) puts them into the pages.
"""

from collections.abc import Callable

from drawings.attention import conv, ica, icasa, sa
from drawings.recipe import aam, macnn
from drawings.svg import Picture

DRAWINGS: dict[str, Callable[[], Picture]] = {
    "ica": ica,
    "sa": sa,
    "icasa": icasa,
    "conv": conv,
    "aam": aam,
    "macnn": macnn,
}
