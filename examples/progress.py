"""Progress of a step: a bar on a terminal, and lines in a file.

Recipes share it.
"""

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

from tqdm import tqdm

Item = TypeVar("Item", covariant=True)
LINES = 10  # of one step, where there is no terminal


class Items(Sized, Iterable[Item], Protocol[Item]):
    """Items that can be counted."""


def progress(items: Items[Item], what: str, unit: str, *, quiet: bool = False) -> Iterator[Item]:
    """Yield the items, and say on stderr that the step starts and how far it is.

    Without a terminal that is a line at once and one for each tenth of the items; `quiet` turns
    both off.
    """
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, desc=what, unit=unit)
    else:
        total = len(items)
        print(f"{what}: {total} {unit}s", file=sys.stderr, flush=True)
        for done, item in enumerate(items, 1):
            yield item
            if done * LINES // total > (done - 1) * LINES // total:
                print(f"{what}: {done} of {total} {unit}s", file=sys.stderr, flush=True)
