"""The checkpoint of a run: held by one training at a time, and resumed by the same run alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from examples.atomic import remove_leftovers, write_atomic

LOCK = "training.lock"  # in the folder of a run; the grid has a lock of its own there
CHECKPOINT = "checkpoint.pt"


@contextmanager
def only_training(out: Path) -> Iterator[None]:
    """Keep other trainings out of the folder of a run; remove what a killed one left there.

    The kernel releases the lock when the process ends, whatever ends it. So a training that
    outlives the grid that started it still holds its folder.

    Raises:
        SystemExit: another training holds the folder.
    """
    lock = FileLock(out / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise SystemExit(
            f"expected --out without a running training, got {out}, where another process trains; "
            "wait for it, stop it, or give another --out"
        ) from None
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
    with write_atomic(path) as file:
        torch.save(value, file)


def resume(path: Path, config: dict[str, str], parts: dict[str, Any]) -> dict[str, Any]:
    """Load the checkpoint into `parts` and return its state; exit if it is of another run."""
    state = torch.load(path, weights_only=True)
    if other := [k for k in config if state["config"].get(k) != config[k]]:
        changes = ", ".join(f"{k}: {state['config'].get(k)} there, {config[k]} now" for k in other)
        raise SystemExit(
            f"expected a checkpoint of this run, got {path} of another ({changes}); "
            "give another --out or remove it"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state
