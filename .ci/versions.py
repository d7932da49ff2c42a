"""Test the library on the oldest and the newest torch and numpy, without constraints.txt.

    python .ci/versions.py                each pair whose Python this machine has
    python .ci/versions.py 3.10 oldest    one pair
    python .ci/versions.py --dist dist    the wheel in dist/, by the tests of the sdist there
    python .ci/versions.py --rows FILE    also write what ran to a CSV file, a row a pair
    python .ci/versions.py --json         the pairs, as the matrix of a workflow

The oldest are those that pyproject.toml declares, the newest what pip finds for that Python. Their
environments lie in build/versions, and are used again.
"""

import argparse
import csv
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parent.parent
# The oldest numpy has no wheel for Python 3.13.
PAIRS = [(f"3.{minor}", "oldest") for minor in range(10, 13)]
PAIRS += [(f"3.{minor}", "newest") for minor in range(10, 15)]
VERSIONS = re.compile(r"Python (?P<python>\S+), torch (?P<torch>\S+), numpy (?P<numpy>\S+)\n")


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


def unpack(dist: Path, folder: Path) -> tuple[Path, Path]:
    """Return this machine's wheel in ``dist``, and the sdist there, unpacked into ``folder``."""
    wheels = sorted(dist.glob(f"*_{platform.machine()}.whl"))
    sdists = sorted(dist.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        got = [path.name for path in (*wheels, *sdists)]
        sys.exit(f"expected one wheel for {platform.machine()} and one sdist in {dist}, got {got}")
    with tarfile.open(sdists[0]) as file:
        file.extractall(folder, filter="data")
    return wheels[0], next(folder.iterdir())


def test(version: str, age: str, package: Path, source: Path) -> tuple[bool, str]:
    """Test a package on one pair; return whether all tests passed, and what they printed."""
    folder = ROOT / "build" / "versions" / f"{version}-{age}"
    python, needs = folder / "bin" / "python", requirements(age)
    print(f"versions: Python {version}, {' '.join(needs)}, {package.name}", flush=True)
    subprocess.run([f"python{version}", "-m", "venv", folder], check=True)
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", *needs, "pytest", "hypothesis", "scipy"], check=True)
    subprocess.run([*pip, "--force-reinstall", "--no-deps", package], check=True)
    command = [ROOT / ".ci" / "library", python]
    env = {**os.environ, "SOURCE": str(source), "PYTHONUNBUFFERED": "1"}
    printed = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            printed += line
    return not process.returncode, printed


def write_row(path: Path, age: str, package: Path, printed: str) -> None:
    """Add what ran to a CSV file, in place of a row of the same Python, age and package."""
    found = VERSIONS.search(printed)
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    row = {
        "age": age,
        **(found.groupdict() if found else {}),
        "installed": "wheel" if package.suffix == ".whl" else "source",
        "printed": printed.splitlines()[-1],
        "machine": platform.machine(),
        "commit": commit.stdout.strip(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
    rows = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    key = ("age", "python", "installed")
    rows = [other for other in rows if any(other[name] != row[name] for name in key)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


def main() -> None:
    """Run what the command line asks for; exit with 1 where a test failed."""
    text = (__doc__ or "").split("\n")[0]
    flags = argparse.ArgumentParser(description=text)
    flags.add_argument("pair", nargs="*", metavar="PYTHON AGE", help="such as 3.10 oldest")
    flags.add_argument("--dist", type=Path, help="folder of the wheel and the sdist to test")
    flags.add_argument("--rows", type=Path, help="CSV file for what ran")
    flags.add_argument("--json", action="store_true", help="print the pairs, and test nothing")
    args = flags.parse_args()
    if args.json:
        print(json.dumps([{"python": python, "age": age} for python, age in PAIRS]))
        return
    if args.pair and tuple(args.pair) not in PAIRS:
        sys.exit(f"expected one of {PAIRS}, got {tuple(args.pair)}")
    pairs = [tuple(args.pair)] if args.pair else PAIRS
    missing = [pair for pair in pairs if not has(f"python{pair[0]}")]
    for version, age in missing:
        print(f"versions: skipped Python {version}, {age}: it is not installed here")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        package, source = unpack(args.dist, Path(folder)) if args.dist else (ROOT, ROOT)
        for version, age in (pair for pair in pairs if pair not in missing):
            passed, printed = test(version, age, package, source)
            if not passed:
                failed.append((version, age))
            elif args.rows:
                write_row(args.rows, age, package, printed)
    if failed or (args.pair and missing):
        sys.exit(f"versions: failed: {failed or missing}")


if __name__ == "__main__":
    main()
