"""Build hook: compile the C in icasa/kernels where there is a compiler, else go without.

The library links no OpenMP of its own: it takes its threads from the one that torch has loaded. It
is for any x86-64 and turns to AVX2 or AVX-512 when it runs, so that a wheel serves its platform.
"""

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("icasa/kernels/native_forward.c", "icasa/kernels/native_backward.c")
LIBRARY = "icasa/kernels/libicasa.so"
FLAGS = "-O3 -std=gnu11 -fPIC -fopenmp -fno-math-errno -fno-trapping-math -Wall"


def find_compiler() -> list[str]:
    """Return the command of the C compiler, $CC first; empty where there is none."""
    found = [path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))]
    return shlex.split(os.environ.get("CC", "")) or found[:1] if os.name == "posix" else []


def compile_native(root: Path) -> bool:
    """Build the library in its place; print and say whether that went well, else remove it."""
    library = root / LIBRARY
    without = f"icasa: without {LIBRARY}, so that the CPU runs on torch operators"
    compiler = find_compiler()
    if not compiler:
        library.unlink(missing_ok=True)
        print(f"{without}: no C compiler")
        return False
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = {source: str(Path(folder, f"{Path(source).stem}.o")) for source in SOURCES}
        linked = Path(folder, library.name)
        compiling = ([*FLAGS.split(), "-c", str(root / s), "-o", made[s]] for s in SOURCES)
        for command in (*compiling, ["-shared", *made.values(), "-o", str(linked)]):
            try:
                subprocess.run([*compiler, *command], capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                library.unlink(missing_ok=True)
                print(f"{without}: {error}\n{getattr(error, 'stderr', '')}")
                return False
        linked.replace(library)  # at once, as other processes may have the old one in memory
    print(f"icasa: built {LIBRARY} by {compiler[0]}")
    return True


class NativeHook(BuildHookInterface):
    """Puts the library into a wheel, which is then for one platform, or leaves the wheel pure."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, also for an editable install, which uses the library in the source tree."""
        if compile_native(Path(self.root)):
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["artifacts"].append(LIBRARY)
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
