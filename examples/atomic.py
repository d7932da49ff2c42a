"""Files that are written whole or not at all, by any number of processes.

Recipes and benchmarks share it.
"""

import glob
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LEFTOVER = 3600.0  # s after its last change; then the process that wrote a temporary was killed


@contextmanager
def write_atomic(path: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file in the folder of `path`; rename it to `path` once it is complete.

    Its name is unique, so that two processes that write `path` leave the file of one of them. An
    error removes it; what a killed process left is removed by a later call for the same `path`.
    """
    remove_leftovers(path, LEFTOVER)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path, seconds: float = 0.0) -> None:
    """Remove the temporaries of `path` that did not change for so many seconds."""
    for leftover in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime >= seconds:
                leftover.unlink()
        except FileNotFoundError:
            continue  # renamed or removed by the process that writes it
