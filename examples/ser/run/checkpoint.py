"""The checkpoint of a run: held by one training at a time, and resumed by the same run alone."""

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from examples.atomic import remove_leftovers, write_atomic
from examples.errors import UserError, room_for
from examples.ser.data.digests import differing
from examples.ser.run.record import load_saved

LOCK = "training.lock"  # in the folder of a run; the grid has a lock of its own there
CHECKPOINT = "checkpoint.pt"
IN_USE = 75  # status of a training whose folder is held: EX_TEMPFAIL of sysexits.h


@contextmanager
def only_training(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder of a run; remove what a killed one left there.

    The kernel releases the lock when the process ends, whatever ends it. So a training that
    outlives the grid that started it still holds its folder.

    Raises:
        SystemExit: another training holds the folder; the status is `IN_USE`.
    """
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        print(
            f"expected --out without a running training, got {out}, where another process trains; "
            "wait for it, stop it, or give another --out",
            file=sys.stderr,
        )
        raise SystemExit(IN_USE) from None
    try:
        remove_leftovers(out / CHECKPOINT)
        yield
    finally:
        lock.release()


def is_training(out: Path) -> bool:
    """Return whether a training holds the folder of a run."""
    lock = FileLock(out / LOCK, timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True


def save(path: Path, value: Any) -> None:
    """Write a checkpoint whole: a stop in between leaves the one of before."""
    content = io.BytesIO()  # the file itself raises on a full disk, not torch
    torch.save(value, content)
    with room_for(path, content.tell()), write_atomic(path) as file:
        file.write(content.getbuffer())


def resume(
    path: Path,
    config: Mapping[str, str],
    data: Mapping[str, str],
    parts: Mapping[str, Any],
    *,
    defaults: Mapping[str, str],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Load the checkpoint into `parts` and return its state.

    Args:
        path: the checkpoint.
        config: the flags of this run that change its numbers, as text.
        data: the digests of its data.
        parts: what has a `load_state_dict`, by its name in the checkpoint.
        defaults: of the flags, for those that a checkpoint of before does not name.
        note: prints a line.

    Raises:
        UserError: it cannot be read, or another config or other data made it.
    """
    state = load_saved(path, ("config", "history", *parts))
    there = defaults | state["config"]
    changes = [
        f"{k}: {there.get(k)} there, {v} now" for k, v in config.items() if there.get(k) != v
    ]
    if "data" not in state:
        note(f"note: {path} is of before checkpoints knew their data; taken to be of this corpus")
    elif other := differing(state["data"], data):
        changes.append(f"other data: {', '.join(other)}")
    if changes:
        raise UserError(
            f"expected a checkpoint of this run, got {path} of another ({'; '.join(changes)}); "
            "give another --out or remove it"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state
