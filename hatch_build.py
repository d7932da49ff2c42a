"""Build hooks: compile the C in icasa/kernels, and make the README the long description.

A wheel is for one platform and any Python and torch: the library is plain C without Python's API,
links no OpenMP, and takes its threads from the one that torch has loaded. ICASA_REQUIRE_C=1, for a
release, makes a build without the library fail; else the wheel uses PyTorch's operators.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SOURCES = tuple(
    f"icasa/kernels/native_{name}.c"
    for name in ("forward", "backward", "transpose", "weigh_forward", "weigh_backward")
)
LIBRARY = "icasa/kernels/libicasa.so"  # of this name on macOS too, where dlopen does not mind
FLAGS = "-O3 -std=gnu11 -fPIC -fopenmp-simd -fno-math-errno -fno-trapping-math -Wall"
LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).icasa_interface()"


def find_compiler() -> list[str]:
    """Return the command of the C compiler, $CC first; empty where there is none."""
    found = [path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    return shlex.split(os.environ.get("CC", "")) or found[:1] if os.name == "posix" else []


def macos_flags(platform: str) -> tuple[list[str], list[str]]:
    """Return what compiling and linking for macOS take: the architectures, late symbols."""
    both = "-arch arm64 -arch x86_64" if platform.endswith("universal2") else ""
    arch = shlex.split(os.environ.get("ARCHFLAGS", both))
    name = f"-Wl,-install_name,@rpath/{Path(LIBRARY).name}"
    return arch, [*arch, "-Wl,-undefined,dynamic_lookup", name]


def compile_to(root: Path, linked: Path) -> None:
    """Compile, link and, where it is for this machine, load the library; raise where that fails."""
    compiler, platform = find_compiler(), sysconfig.get_platform()
    if not compiler:
        raise OSError("no C compiler was found")
    arch, link = macos_flags(platform) if platform.startswith("macosx") else ([], [])
    flags = [*FLAGS.split(), *arch, *shlex.split(os.environ.get("CFLAGS", ""))]
    objects = [str(linked.with_name(f"{Path(source).stem}.o")) for source in SOURCES]
    commands = [
        [*compiler, *flags, "-c", str(root / source), "-o", to]
        for source, to in zip(SOURCES, objects, strict=True)
    ]
    commands.append([*compiler, "-shared", *link, *objects, "-o", str(linked)])
    if platform.endswith((os.uname().machine, "universal2")):  # else it is compiled for another
        commands.append([sys.executable, "-c", LOAD, str(linked)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{shlex.join(command)} failed:\n{done.stdout}{done.stderr}")


def compile_native(root: Path) -> bool:
    """Put the library into its place and say so; else remove it, print the reason, return False."""
    library = root / LIBRARY
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        linked = Path(folder, library.name)
        try:
            compile_to(root, linked)
        except OSError as error:
            library.unlink(missing_ok=True)
            print(f"icasa: {LIBRARY} was not built, so the CPU uses PyTorch's operators: {error}")
            return False
        linked.replace(library)  # at once, as other processes may have the old one in memory
    print(f"icasa: built {LIBRARY} by {shlex.join(find_compiler())}")
    return True


class NativeHook(BuildHookInterface):
    """Puts the library into a wheel, which is for one platform also where it has none."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, also for an editable install, which uses the library in the source tree."""
        if compile_native(Path(self.root)):
            build_data["artifacts"].append(LIBRARY)
        elif os.environ.get("ICASA_REQUIRE_C", "0") != "0":
            raise RuntimeError("expected the C kernels to compile (ICASA_REQUIRE_C=1); see above")
        # Never "any": on an index such a wheel would be taken before the sdist, which compiles.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


class LongDescription(MetadataHookInterface):
    """The README as an index shows it: its links into the repository would lead nowhere there."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the readme, without its relative pictures, each relative link as its text alone."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        text = re.sub(r"!\[[^\]]*\]\((?!https?://)[^)]+\)\n*", "", text)
        text = re.sub(r"\[([^\]]+)\]\((?!https?://)[^)]+\)", r"\1", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
