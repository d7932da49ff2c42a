"""How a command ends where its user can help: by a message, never by a traceback.

Recipes share it.
"""

import errno
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(ValueError):
    """What the user can correct; a command prints the text of the error and nothing else."""


@contextmanager
def user_errors(kept: str = "nothing was written") -> Iterator[None]:
    """End a command by one message where its input, a path, the disk or its user stops it.

    Args:
        kept: what a stop by Ctrl-C or SIGTERM leaves, and how to go on.

    Raises:
        SystemExit: with the message for a :class:`UserError` or a path that cannot be used; with
            the status 128 + signal after a stop.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except UserError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0]) if stop.args else signal.SIGINT
        print(f"\nstopped by {number.name}: {kept}", flush=True)
        raise SystemExit(128 + number) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise SystemExit(
            f"expected a file or folder that can be used, got {error.filename} "
            f"({error.strerror}); correct the path or its permissions"
        ) from None


@contextmanager
def room_for(path: Path, size: int | None = None) -> Iterator[None]:
    """Name the file that a full disk stopped, its size where it is known, and the free space."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed = "" if size is None else f"{size / 1e6:.1f} MB of "
        free = shutil.disk_usage(path.parent).free / 1e6
        raise UserError(
            f"expected room for {needed}{path}, got a full disk ({free:.1f} MB free, "
            f"{error.strerror}); free some and give the same command again"
        ) from error


def _interrupt(number: int, _frame: Any) -> None:
    """Stop as Ctrl-C does."""
    raise KeyboardInterrupt(number)
