"""The pages run: every Python block of the README and the pages, and it prints what is shown.

The blocks of a page share one namespace and a folder of their own. What a block prints stands in
the ``text`` block right after it (doctest's ellipsis stands for what varies). A page whose blocks
another test runs says so in a comment, ``% tests/docs/test_tutorial.py runs the blocks: why``.
"""

import contextlib
import doctest
import io
import re
import shutil
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts))
FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", re.M | re.S)
ELSEWHERE = re.compile(r"^% (tests/\S+\.py) runs the blocks: \S+", re.M)


def blocks(page):
    """The line, the code and the shown output (None if nothing is shown) of each Python block."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found[1] == "python":
            yield text[: found.start()].count("\n") + 2, found[2], found[3]


HERE = [p for p in PAGES if list(blocks(p)) and not ELSEWHERE.search(p.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_python_block_is_missed(page):
    assert len(list(blocks(page))) == page.read_text().count("\n```python\n")


@pytest.fixture
def resnet18(monkeypatch):
    """Let pages import torchvision's ResNet-18 where it is not installed: the same modules."""
    try:
        import torchvision.models  # noqa: F401
    except (ImportError, RuntimeError):  # its operators need the torch that it was built for
        models = ModuleType("torchvision.models")
        models.resnet18 = ResNet18
        monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
        monkeypatch.setitem(sys.modules, "torchvision.models", models)


class BasicBlock(nn.Module):
    """The parts of torchvision's, by its names."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
        self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width)) if stride > 1 else None

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet18(nn.Sequential):
    """The stages of torchvision's, by its names."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        for n, width in enumerate((64, 128, 256, 512), 1):
            first = BasicBlock(max(64, width // 2), width, 2 if n > 1 else 1)
            self.add_module(f"layer{n}", nn.Sequential(first, BasicBlock(width, width, 1)))


@pytest.fixture
def torch_state():
    """Give back the global switches that a recipe sets."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)


def run(page, outputs=True):
    """Run the blocks of a page in order; with `outputs`, hold what they print to what it shows."""
    namespace = {"__name__": "page"}
    for line, code, shown in blocks(page):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            # Blank lines in front, so that a traceback names the page's own line.
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        if outputs:
            wanted, got = shown or "", out.getvalue()
            same = doctest.OutputChecker().check_output(wanted, got, doctest.ELLIPSIS)
            assert same, f"{page}:{line} shows\n{wanted}\nbut prints\n{got}"


@pytest.mark.filterwarnings(  # of torch, in its exporter and its compiler
    "ignore:.*LeafSpec:FutureWarning", "ignore:.*torch.jit.script:DeprecationWarning"
)
@pytest.mark.parametrize("page", HERE, ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_run_and_print_what_is_shown(page, tmp_path, monkeypatch, torch_state, resnet18):
    if "torch.compile(" in page.read_text() and not shutil.which("g++"):
        pytest.skip("Inductor compiles C++ on the CPU and there is no g++")
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        monkeypatch.setenv("MASTER_PORT", str(free.getsockname()[1]))
    torch.manual_seed(0)
    run(page, outputs=page != README)  # the README shows its output in comments


@pytest.mark.parametrize("shown", ["", "\n```text\n2\n```\n"], ids=["missing", "wrong"])
def test_an_output_that_is_missing_or_wrong_is_seen(shown, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1)\n```\n" + shown)
    with pytest.raises(AssertionError, match="but prints"):
        run(page)


def test_no_block_is_left_out():
    for page in set(PAGES) - set(HERE):
        for path in ELSEWHERE.findall(page.read_text()):
            assert page.name in (ROOT / path).read_text(), f"{path} does not run {page.name}"
    assert README in HERE
    assert len(HERE) > 5


def test_commands_of_the_pages_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        for kind, code, _ in FENCE.findall(page.read_text()):
            if kind == "sh":
                assert set(re.findall(r"^make (\w+)", code, re.M)) <= targets, page
        for module in re.findall(r"-m ((?:examples|benchmarks|tests)\.[\w.]+)", page.read_text()):
            path = ROOT / module.replace(".", "/")
            files = path.with_suffix(".py"), path / "__main__.py"
            assert any(file.is_file() for file in files), f"{page}: {module}"


def test_commands_name_tests_that_there_are():
    """A node id is read by pytest alone, when its command runs: in hours, or never in CI."""
    commands = [*(ROOT / ".ci").iterdir(), ROOT / "Makefile", ROOT / "tests" / "promises.py"]
    named = set()
    for path in commands:
        named |= set(re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text()))
    assert any(function for _, function in named)
    for file, function in named:
        text = (ROOT / file).read_text()
        assert not function or f"def {function}(" in text, f"{file}::{function}"
