"""Rows of results: where they come from, and the CSV files that hold them.

Recipes and benchmarks share it.
"""

import csv
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]


def git_commit(folder: Path = Path(__file__).parent) -> str:
    """Return the commit of `folder`, with "-dirty" if code was changed, or "not a checkout".

    Results do not count as code: else the first script that writes some would mark all others.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    code = (":/", ":(top,exclude)*/results/*")
    return head + ("-dirty" if git("status", "--porcelain", "-uno", "--", *code) else "")


def provenance(
    module: str, argv: Sequence[str], seed: int, device: torch.device, processes: int = 1
) -> dict[str, Any]:
    """Return the columns that say where a row comes from: device, versions, seed and command."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"cpu {platform.machine()}",
        "processes": processes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "seed": seed,
        "command": shlex.join(["python", "-m", module, *argv]),
    }


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows; a row without one of the columns has an empty cell."""
    columns = dict.fromkeys(column for row in rows for column in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
