"""The build hooks: what counts as built, what a release requires, what an index shows."""

import re
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the test extra's")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
import hatch_build  # noqa: E402 - found by the line above

# Shell scripts that stand for a compiler; their last argument is the file to write.
WRITE = "for to; do :; done; "
MISSING = "void gone(void); int icasa_interface(void) { gone(); return 0; }"
FAILURES = {
    "does not compile": ("echo no such flag >&2; exit 1", "no such flag"),
    "is no library": (f'{WRITE}echo none > "$to"', "invalid ELF header|file too short|mach-o"),
    "misses a function": (
        f'{WRITE}case "$1" in -shared) exec cc -shared "$2" -o "$to";; esac; '
        f'echo "{MISSING}" > "$to.c"; exec cc -c -fPIC "$to.c" -o "$to"',
        "gone",
    ),
}


@pytest.fixture
def tree(tmp_path):
    """The C sources alone, with the library of an earlier build."""
    library = tmp_path / hatch_build.LIBRARY
    shutil.copytree(
        ROOT / "icasa" / "kernels", library.parent, ignore=shutil.ignore_patterns("*.py", "*.so")
    )
    library.write_text("of an earlier build")
    return tmp_path


@pytest.fixture(params=FAILURES)
def failure(request, tmp_path, monkeypatch):
    """Set a compiler whose library fails; returns the reason to expect."""
    if not hatch_build.find_compiler():
        pytest.skip("there is no C compiler")
    script, reason = FAILURES[request.param]
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CC", str(path))
    return reason


def initialize(root):
    data = {"artifacts": []}
    hook = hatch_build.NativeHook(str(root), {}, None, None, str(root), "wheel")
    hook.initialize("standard", data)
    return data


@pytest.mark.skipif(not hatch_build.find_compiler(), reason="there is no C compiler")
def test_a_library_that_loads_is_built_into_a_wheel_of_one_platform(tree, capsys):
    before = set((tree / "icasa" / "kernels").iterdir())
    data = initialize(tree)
    assert (tree / hatch_build.LIBRARY).stat().st_size > 1000
    assert set((tree / "icasa" / "kernels").iterdir()) == before  # no object file is left
    assert data["artifacts"] == [hatch_build.LIBRARY]
    assert f"built {hatch_build.LIBRARY}" in capsys.readouterr().out


def test_a_library_that_fails_is_removed_and_its_reason_printed_once(tree, failure, capsys):
    data = initialize(tree)
    out = capsys.readouterr().out
    assert len(re.findall(failure, out)) == 1, out
    assert "the CPU uses PyTorch's operators" in out
    assert not (tree / hatch_build.LIBRARY).exists()
    assert data["artifacts"] == []
    assert not data["pure_python"]
    assert re.fullmatch(r"py3-none-(?!any)\w+", data["tag"])


def test_a_release_requires_the_library(tree, failure, monkeypatch):
    monkeypatch.setenv("ICASA_REQUIRE_C", "1")
    with pytest.raises(RuntimeError, match="expected the C kernels to compile"):
        initialize(tree)


def test_no_compiler_is_a_reason(tree, monkeypatch, capsys):
    monkeypatch.setattr(hatch_build, "find_compiler", list)
    assert not hatch_build.compile_native(tree)
    assert "no C compiler was found" in capsys.readouterr().out


def test_the_long_description_has_no_link_into_the_repository(tmp_path):
    (tmp_path / "README.md").write_text(
        "![p](docs/p.png)\n\n[a](docs/a.md) [b](https://b.org) [c\nd](#e)[*f*](g)"
    )
    metadata = {}
    hatch_build.LongDescription(str(tmp_path), {}).update(metadata)
    assert metadata["readme"]["text"] == "a [b](https://b.org) c\nd*f*"
