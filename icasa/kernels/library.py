"""The compiled library of native_*.c, or the reason why there is none."""

import ctypes
from pathlib import Path
from typing import Any

INTERFACE = 7  # as the C has it: to be raised with every change of a function's arguments


def load(path: Path) -> tuple[Any, str]:
    """Return the library, which uses the OpenMP of torch, and "", or None and the reason."""
    if not path.exists():
        return None, "no C library: none in the wheel, or no C compiler at installation"
    try:
        library = ctypes.CDLL(str(path))
        if library.icasa_interface() != INTERFACE:
            raise OSError(
                f"expected {path} of version {INTERFACE}, got another; install icasa again"
            )
        library.icasa_threads.argtypes = []
        pointer, packed = ctypes.c_void_p, ctypes.c_char_p
        library.icasa_attend.argtypes = [*[pointer] * 4, *[packed] * 2]
        library.icasa_attend_backward.argtypes = [*[pointer] * 4, *[packed] * 3]
        library.icasa_weigh.argtypes = [*[pointer] * 4, *[packed] * 2]
        library.icasa_weigh_backward.argtypes = [*[pointer] * 4, *[packed] * 3]
        library.icasa_transpose.argtypes = [pointer, pointer, ctypes.c_int32, packed]
        library.icasa_transpose.restype = None
    except (OSError, AttributeError) as error:  # the latter where a function is missing
        return None, str(error)
    return library, ""


LIBRARY, UNLOADED = load(Path(__file__).with_name("libicasa.so"))
# Built without OpenMP, the C has one thread where PyTorch's operators may have many.
THREADED = LIBRARY is not None and bool(LIBRARY.icasa_threads())
