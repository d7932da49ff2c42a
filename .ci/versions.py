"""Test the library on the oldest and the newest torch and numpy, without constraints.txt.

    python .ci/versions.py               each pair whose Python this machine has
    python .ci/versions.py 3.10 oldest   one pair
    python .ci/versions.py --json        the pairs, as the matrix of a workflow

The oldest are those that pyproject.toml declares, the newest what pip finds for that Python.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The oldest numpy has no wheel for Python 3.13.
PAIRS = [(f"3.{minor}", "oldest") for minor in range(10, 13)]
PAIRS += [(f"3.{minor}", "newest") for minor in range(10, 15)]


def requirements(age: str) -> list[str]:
    """Return what pip is to install for "oldest" or "newest"."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r'^dependencies = \["(torch>=\S+)", "(numpy>=\S+)"\]', text, re.M)
    if not declared:
        sys.exit('expected dependencies = ["torch>=...", "numpy>=..."] in pyproject.toml')
    return [d.replace(">=", "==") if age == "oldest" else d for d in declared.groups()]


def has(python: str) -> bool:
    """Whether this machine has the Python, and not only a launcher of that name."""
    try:
        command = [python, "-c", "import venv"]
        return not subprocess.run(command, capture_output=True, check=False).returncode
    except FileNotFoundError:
        return False


def test(version: str, age: str) -> bool:
    """Test one pair in an environment of its own; return whether all tests passed."""
    folder = ROOT / "build" / "versions" / f"{version}-{age}"
    python, needs = folder / "bin" / "python", requirements(age)
    print(f"versions: Python {version}, {' '.join(needs)}", flush=True)
    subprocess.run([f"python{version}", "-m", "venv", "--clear", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *needs, "pytest", "hypothesis", "scipy", str(ROOT)], check=True)
    return not subprocess.run([ROOT / ".ci" / "library", python], check=False).returncode


def main() -> None:
    """Run what the command line asks for; exit with 1 where a test failed."""
    args = sys.argv[1:]
    if args == ["--json"]:
        print(json.dumps([{"python": python, "age": age} for python, age in PAIRS]))
        return
    if args and tuple(args) not in PAIRS:
        sys.exit(f"expected one of {PAIRS}, got {tuple(args)}")
    pairs = [tuple(args)] if args else PAIRS
    missing = [pair for pair in pairs if not has(f"python{pair[0]}")]
    for version, age in missing:
        print(f"versions: skipped Python {version}, {age}: it is not installed here")
    failed = [pair for pair in pairs if pair not in missing and not test(*pair)]
    if failed or (args and missing):
        sys.exit(f"versions: failed: {failed or missing}")


if __name__ == "__main__":
    main()
