"""The public surface: what `import icasa` takes, what it names, and who may import whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icasa
import icasa.attention
import icasa.augment
import icasa.cost
from tests.conftest import collect_ignore

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "icasa").rglob("*.py"))
PACKAGES = [icasa, icasa.attention, icasa.augment, icasa.cost]
PUBLIC = {p.__name__ for p in PACKAGES} | {f"{p.__name__}.{n}" for p in PACKAGES for n in p.__all__}
PUBLIC |= {"icasa.__version__"}
PUBLIC |= {f"icasa.environment.{name}" for name in ("environment", "instruction_set", "processor")}
IMPORT = """
import sys, numpy, torch
before = set(sys.modules)
import icasa
print(*{name.split(".")[0] for name in set(sys.modules) - before})
assert "icasa.cost" not in sys.modules
"""
# A room of docs/contributing's picture -> what it may import; the longest match decides.
ARROWS = {
    "icasa": {"torch", "numpy", "icasa"},
    "icasa._check": {"torch"},
    "icasa.activation": {"torch", "numpy", "icasa._check"},
    "icasa.conv": {"torch", "numpy", "icasa._check"},
    "icasa.padding": {"torch", "icasa._check"},
    "icasa.coordinate": {"torch", "icasa._check", "icasa.padding"},
    "icasa.optim": {"torch"},
    "icasa.augment": {"torch", "numpy", "icasa._check", "icasa.augment", "icasa.padding"},
    "icasa.attention": {
        "torch",
        "icasa._check",
        "icasa.activation",
        "icasa.conv",
        "icasa.coordinate",
        "icasa.optim",
        "icasa.padding",
        "icasa.attention._fused",
    },
    "icasa.attention._fused": {
        "torch",
        "icasa._check",
        "icasa.attention._operands",
        "icasa.kernels",
    },
    "icasa.attention._operands": {"torch", "icasa.activation", "icasa.conv"},
    "icasa.attention.icasa": {
        "torch",
        "icasa._check",
        "icasa.padding",
        "icasa.optim",
        "icasa.attention._fused",
        "icasa.attention.ica",
        "icasa.attention.sa",
    },
    "icasa.attention.__init__": {"torch", "icasa.attention"},
    "icasa.kernels": {"torch", "icasa.kernels"},
    "icasa.kernels.triton": {"torch", "triton", "icasa.kernels"},
    "icasa.maps": {"torch", "icasa._check", "icasa.attention"},
    "icasa.insert": {"torch", "icasa._check", "icasa._places", "icasa._trace", "icasa.attention"},
    "icasa._places": {"torch", "icasa._trace", "icasa.attention"},
    "icasa._trace": {"torch"},
    "icasa.environment": {"torch", "numpy", "icasa.__version__"},
    "icasa.__main__": {"torch", "icasa.attention", "icasa.kernels", "icasa.environment"},
    "icasa.cost": {
        "torch",
        "numpy",
        "icasa._check",
        "icasa.attention",
        "icasa.cost",
        "icasa.environment",
        "icasa.insert",
    },
    "icasa.convert": {"torch", "icasa._check", "icasa.attention"},
}


def within(name, room):
    return name == room or name.startswith(room + ".")


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path):
    """The full dotted name of all that a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_private_names_of_torch_are_looked_up_by_getattr(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if re.match(r"(torch|nn|F)\.([\w.]+\.)?_[a-zA-Z]", name):
            # The first holds them; the other is in torch's documentation.
            assert name in ("torch._C", "torch._check"), f"{path}:{node.lineno}: {name}"


def test_importing_icasa_takes_torch_and_numpy_alone():
    out = subprocess.run(
        [sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    taken = set(out.stdout.split())
    assert "icasa" in taken
    assert taken - set(sys.stdlib_module_names) <= {"icasa", "torch", "numpy"}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_follow_the_arrows(path):
    name = module_name(path)
    allowed = ARROWS[max((room for room in ARROWS if within(name, room)), key=len)]
    for taken in imports(path):
        if taken.split(".")[0] not in sys.stdlib_module_names:
            assert any(within(taken, room) for room in allowed), f"{name} -> {taken}"


@pytest.mark.parametrize("room", ["examples", "benchmarks", "docs"])
def test_other_rooms_use_public_names_only(room):
    for path in (ROOT / room).rglob("*.py"):
        for taken in imports(path):
            assert not within(taken, "tests"), f"{path} -> {taken}"
            if within(taken, "icasa"):
                assert taken in PUBLIC, f"{path} -> {taken}"


def test_the_tests_of_the_library_need_no_other_folder():
    """So that they run on an installed icasa, by .ci/library."""
    apart = {"examples", "benchmarks", "docs"}
    for path in (ROOT / "tests").rglob("*.py"):
        if path.relative_to(ROOT / "tests").parts[0] not in {*apart, *collect_ignore}:
            for taken in imports(path):
                assert taken.split(".")[0] not in apart, f"{path} -> {taken}"


def ruff_order(name):
    """RUF022's isort style: CONSTANTS, then Classes, then the rest."""
    rank = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return rank, name


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_public_names_are_sorted_exist_and_are_documented(package):
    assert package.__all__ == sorted(set(package.__all__), key=ruff_order)
    for name in package.__all__:
        assert (getattr(package, name).__doc__ or "").strip(), name


def test_the_top_level_names_every_layer_and_augmentation():
    assert set(icasa.attention.__all__) | set(icasa.augment.__all__) <= set(icasa.__all__)


@pytest.mark.parametrize("name", icasa.attention.__all__)
def test_a_layer_s_docstring_has_its_parts_and_all_its_options(name):
    cls = getattr(icasa, name)
    for part in (".. math::", "Args:", "Shape:", "Raises:", "Reference:", ">>> "):
        assert part in cls.__doc__, part
    documented = re.findall(r"^        (\w+): ", cls.__doc__.split("Shape:")[0], re.M)
    assert documented == list(cls.__init__.__annotations__)[:-1]  # without "return"
    assert cls.__module__ == f"icasa.attention.{name.lower()}"


def test_every_departure_from_the_paper_says_something():
    tags = [
        (path, line.strip())
        for room in ("icasa", "examples")
        for path in (ROOT / room).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "DIFF" in line
    ]
    assert tags
    for path, line in tags:
        assert re.search(r"# DIFF: \w*.{20,}", line), f"{path}: {line}"


def test_every_public_name_stands_on_one_api_page():
    pages = [path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")]
    shown = re.findall(r"\.\. auto(?:class|function):: icasa\.(?:\w+\.)*(\w+)", "".join(pages))
    assert sorted(shown) == sorted({*icasa.__all__, *icasa.cost.__all__})
