"""Following docs/tutorial.md in a copy of the repository gives a layer that keeps every law."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
FILES = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
API = re.search(r"^````md\n(.*?)^````$", PAGE.read_text(), re.M | re.S)[1]
LAYER = "SEVar2"
OWN = ("icasa/attention/sevar2.py", "tests/attention/test_sevar2.py")
LAWS = ("tests/test_contract.py", "tests/test_errors.py", "tests/test_public.py")


def call(copy, *command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=copy, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The repository after steps 1 to 4."""
    copy = tmp_path_factory.mktemp("copy")
    skip = shutil.ignore_patterns("__pycache__", "_build", "results")
    for room in ("icasa", "tests", "docs", "examples", "benchmarks"):
        shutil.copytree(ROOT / room, copy / room, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, text in FILES:
        path = copy / name
        if path.name == "__init__.py":
            old = path.read_text()
            assert "__all__ = [" in old
            text = old.replace("\nfrom ", f"\n{text}from ", 1)
            text = text.replace("__all__ = [", f'__all__ = ["{LAYER}", ', 1)
        path.write_text(text)
    (copy / "docs" / "api" / "sevar2.md").write_text(API)
    fixed = call(copy, "ruff", "check", "--fix", "--quiet", *(name for name, _ in FILES))
    assert fixed.returncode == 0, fixed.stdout
    return copy


def test_the_steps_name_every_file():
    names = [name for name, _ in FILES]
    assert names == [
        "icasa/attention/sevar2.py", "icasa/attention/__init__.py", "icasa/__init__.py",
        "tests/attention/test_sevar2.py",
    ]  # fmt: skip


def test_the_new_layer_keeps_every_law(copy):
    done = call(copy, "pytest", "-q", *LAWS, *OWN, "-k", f"{LAYER} or sevar2 or public")
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40, done.stdout


def test_the_new_layer_is_formatted_and_in_the_matrix(copy):
    for command in (("ruff", "format", "--check", *OWN), ("tests.test_matrix",)):
        done = call(copy, *command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    assert f",{LAYER}," in (copy / "docs" / "matrix.csv").read_text().splitlines()[0]


def test_a_broken_layer_is_seen(copy):
    path = copy / "icasa" / "attention" / "sevar2.py"
    good = path.read_text()
    path.write_text(good.replace("torch.sigmoid(weight", "torch.tanh(weight"))
    try:
        done = call(copy, "pytest", "-q", "-x", LAWS[0], "-k", f"{LAYER} and gates")
    finally:
        path.write_text(good)
    assert "test_gates_are_in_0_1" in done.stdout
    assert done.returncode == 1
