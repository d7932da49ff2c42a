"""The operators on float32 maps by planes.c, where the installation could compile it."""

import ctypes
import warnings
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from icasa.kernels.ops import empty_gate_gradients, empty_moments

INTERFACE = 2  # as planes.c says it: to be raised with every change of a function's arguments
PARALLEL = 1 << 15  # elements below which a second thread costs more than it does

# The structures of planes.c: packing one is a tenth of the time that ctypes takes to make it.
SHAPE, GATES, GRADIENTS, NET = (Struct(form) for form in ("5q", "6P2f2i", "7P", "19P2q2f2i"))


def _load() -> ctypes.CDLL | None:
    """Load the library, which takes its threads from the OpenMP that torch has loaded."""
    path = Path(__file__).with_name("libplanes.so")
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        if library.icasa_interface() != INTERFACE:
            raise OSError(f"{path} is of another version; install icasa again")
    except (OSError, AttributeError) as error:  # the latter where there is no icasa_interface
        warnings.warn(f"the CPU runs on torch operators: {error}", RuntimeWarning, stacklevel=2)
        return None
    for name, maps, structures in (
        ("moments", 7, 1),
        ("mix", 2, 2),
        ("mix_backward", 3, 3),
        ("moments_backward", 10, 1),
        ("attend", 2, 2),
    ):
        function = getattr(library, f"icasa_{name}")
        arguments = [*[ctypes.c_void_p] * maps, *[ctypes.c_char_p] * structures]
        function.argtypes = [*arguments, ctypes.c_int]
        function.restype = ctypes.c_int if name == "attend" else None
    return library


LIBRARY: Any = _load()


def _shape(x: Tensor, groups: int) -> tuple[bytes, int]:
    """Return the last arguments of every function for a map: its shape, and how many threads."""
    threads = torch.get_num_threads() if x.numel() >= PARALLEL else 1
    return SHAPE.pack(*x.shape, groups), threads


def _gates(gates: Sequence[Tensor | None], shuffle: bool, residual: bool) -> bytes:
    g_h, g_w, beta, *planes = gates
    share = 1.0 if beta is None else beta.item()
    rest = 1.0 if beta is None else 1.0 - share
    return GATES.pack(*_addresses(g_h, g_w, *planes), share, rest, shuffle, residual)


def _addresses(*tensors: Tensor | None) -> list[int]:
    """Addresses of tensors, null where there are no elements."""
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _dense(*tensors: Tensor | None) -> list[Any]:
    """Give the tensors the layout that the library reads; a compiler may have chosen another."""
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]


def moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Means along each axis, and moments of the planes; see ``ops``."""
    x = x.contiguous()
    out = empty_moments(x, axes, groups)
    LIBRARY.icasa_moments(*_addresses(x, *out), *_shape(x, groups))
    return out


def mix(x: Tensor, *gates_and_options: Any) -> Tensor:
    """Gate x by rows and columns, by planes and elements, and mix the two; see ``ops``."""
    *gates, groups, shuffle, residual = gates_and_options
    x, *gates = _dense(x, *gates)
    y = torch.empty_like(x)
    given = _gates(gates, shuffle, residual)
    LIBRARY.icasa_mix(x.data_ptr(), y.data_ptr(), given, *_shape(x, groups))
    return y


def mix_backward(g: Tensor, x: Tensor, *gates_and_options: Any) -> tuple[Tensor, ...]:
    """Gradients of ``mix``; see ``ops``."""
    *gates, groups, shuffle, residual = gates_and_options
    g, x, *gates = _dense(g, x, *gates)
    dx = torch.empty_like(x)
    out = empty_gate_gradients(x, gates[:6])
    room = x.new_empty(x.shape[:2], dtype=torch.float64)
    inputs, to = _gates(gates, shuffle, residual), GRADIENTS.pack(*_addresses(*out, room))
    LIBRARY.icasa_mix_backward(*_addresses(g, x, dx), inputs, to, *_shape(x, groups))
    return dx, *out


def moments_backward(dx: Tensor, x: Tensor, *gradients_and_options: Any) -> Tensor:
    """Add to dx what the gradients of the moments give; see ``ops``."""
    *gradients, _, groups = gradients_and_options
    dx, x, *gradients = _dense(dx, x, *gradients)
    y = torch.empty_like(x)
    LIBRARY.icasa_moments_backward(*_addresses(dx, x, y, *gradients), *_shape(x, groups))
    return y


def attend(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> Tensor:
    """Gate x by what its moments give in evaluation; see ``ops``."""
    x = x.contiguous()
    y = torch.empty_like(x)
    given = [*ica, *[None] * (12 - len(ica)), *sa, *[None] * (6 - len(sa)), beta]
    given = [p if p is None else p.float().contiguous() for p in given]
    M, K = (len(ica[2]), ica[0].shape[2]) if ica else (0, 0)
    net = NET.pack(*_addresses(*given), M, K, norm_eps, group_eps, shuffle, residual)
    if not LIBRARY.icasa_attend(x.data_ptr(), y.data_ptr(), net, *_shape(x, groups)):
        raise MemoryError("no memory for the gates of a few samples; give fewer samples at a time")
    return y
