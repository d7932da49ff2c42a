"""Run the commands that show what docs/promises promises, and write what they print.

``python -m tests.promises [NAME ...]`` runs all or those named, each from the root, and writes a
row each to tests/results/promises.csv.
"""

import argparse
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from examples.provenance import Row, git_commit, provenance, read_csv, write_csv

ROOT = Path(__file__).parents[1]
FILE = ROOT / "tests" / "results" / "promises.csv"
COMMANDS = {
    "exactness": "python -m pytest -q tests/kernels/test_exact.py",
    "range": "python -m pytest -q tests/kernels/test_range.py",
    "bits": "python -m pytest -q tests/kernels/test_determinism.py tests/kernels/test_native.py",
    "situations": "python -m pytest -q tests/kernels/test_situations.py",
    "memory": "make sanitize",
    "fuzz": "make fuzz CASES=1000",
    "leak": "python -m pytest -q tests/kernels/test_endurance.py",
    "misfits": "python -m pytest -q tests/kernels/test_sizes.py tests/attention/test_misfits.py "
    "tests/attention/test_fused_parts.py tests/test_errors.py",
    "padding": "python -m pytest -q tests/test_padding.py",
    "checkpoints": "python -m pytest -q tests/test_checkpoint.py tests/test_contract.py "
    "-k 'checkpoint or state_dict'",
    "resume": "python -m pytest -q tests/examples/ser/test_train.py "
    "tests/examples/vision/test_vision_train.py -k 'bits or bit_for_bit'",
    "coverage": "make coverage",
    "mutation": "make mutation",
}
SHOWN = re.compile(r"\b(passed|hold|no data race|Total coverage|mutants of seed)\b")


def run(command: str) -> str:
    """Return the lines that a command prints of what it found; raise if it fails."""
    first, *words = shlex.split(command)
    if first == "make":  # by the tools beside this Python, which need no environment of their own
        made = shlex.split("-o .venv/test -o .venv/coverage -o .venv/mutation")
        words = [*made, f"BIN={Path(sys.executable).parent}", *words]
    call = [sys.executable if first == "python" else first, *words]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = [line.strip("= ") for line in done.stdout.splitlines() if SHOWN.search(line)]
    return "; ".join(lines)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMMANDS))
    names = flags.parse_args().names or list(COMMANDS)
    rows: dict[str, Row] = {r["promise"]: r for r in (read_csv(FILE) if FILE.is_file() else [])}
    for name in names:
        start, printed = time.perf_counter(), run(COMMANDS[name])
        found = provenance("tests.promises", [name], 0, torch.device("cpu"))
        rows[name] = {
            "promise": name,
            "command": COMMANDS[name],
            "printed": printed,
            "seconds": round(time.perf_counter() - start),
            "commit": git_commit(),
            "device": found["device"],
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        write_csv(FILE, [rows[name] for name in COMMANDS if name in rows])
        print(f"{name}: {printed}", flush=True)


if __name__ == "__main__":
    main()
