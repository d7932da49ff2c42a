"""Compile the C library of a checkout, any from 645bba3 on, by that checkout's own build hook."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

HOOKS = ("hatch_build.py", ".hatch_build.py")  # now, and at 645bba3
FUNCTIONS = ("compile_native", "compile_planes")
BASES = {  # of the hook's classes, by the module of hatchling that has them
    "hatchling.builders.hooks.plugin.interface": "BuildHookInterface",
    "hatchling.metadata.plugin.interface": "MetadataHookInterface",
}


def without_hatchling() -> None:
    """Let the hook define its classes where hatchling is not installed: only a build needs it."""
    for name, base in BASES.items():
        names = name.split(".")
        for depth in range(1, len(names) + 1):
            sys.modules.setdefault(".".join(names[:depth]), ModuleType(names[depth - 1]))
        setattr(sys.modules[name], base, object)


def main(root: Path) -> None:
    """Find the hook and run its compile function."""
    if importlib.util.find_spec("hatchling") is None:
        without_hatchling()
    hook = next(root / name for name in HOOKS if (root / name).is_file())
    names = runpy.run_path(str(hook))
    next(names[name] for name in FUNCTIONS if name in names)(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
