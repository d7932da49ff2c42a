"""The operators on float32 maps by planes.c, where the installation could compile it."""

import ctypes
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icasa.kernels.ops import empty_gate_gradients, empty_gates, empty_moments

INTERFACE = 1  # as planes.c says it: to be raised with every change of a function's arguments
PARALLEL = 1 << 15  # elements below which a second thread costs more than it does


class _Shape(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("N", "C", "H", "W", "groups")]


class _Gates(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("g_h", "g_w", "gate", "a", "b", "mean")),
        *((name, ctypes.c_float) for name in ("beta", "rest")),
        *((name, ctypes.c_int32) for name in ("shuffle", "residual")),
    ]


class _Net(ctypes.Structure):
    _fields_ = [
        ("coordinate", ctypes.c_void_p * 12),
        ("shuffle", ctypes.c_void_p * 6),
        *((name, ctypes.c_int64) for name in ("M", "K")),
        *((name, ctypes.c_float) for name in ("norm_eps", "group_eps")),
    ]


class _Gradients(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("g_h", "g_w", "beta", "gate", "a", "b", "shares")
    ]


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
    gates, gradients = ctypes.POINTER(_Gates), ctypes.POINTER(_Gradients)
    for name, maps, structures in (
        ("moments", 6, ()),
        ("mix", 2, (gates,)),
        ("mix_backward", 3, (gates, gradients)),
        ("moments_backward", 9, ()),
        ("gates", 9, (ctypes.POINTER(_Net),)),
    ):
        function = getattr(library, f"icasa_{name}")
        ends = (ctypes.POINTER(_Shape), ctypes.c_int)
        function.argtypes, function.restype = [*[ctypes.c_void_p] * maps, *structures, *ends], None
    return library


LIBRARY = _load()


def _call(name: str, work: int, shape: Sequence[int], groups: int, *arguments: Any) -> None:
    """Call a function of the library for a map of `shape`."""
    threads = torch.get_num_threads() if work >= PARALLEL else 1
    getattr(LIBRARY, f"icasa_{name}")(*arguments, _Shape(*shape, groups), threads)


def _gates(gates: list[Tensor | None], shuffle: bool, residual: bool) -> _Gates:
    g_h, g_w, beta, *planes = gates
    share = 1.0 if beta is None else beta.item()
    rest = 1.0 if beta is None else 1.0 - share
    addresses = (None if gate is None else gate.data_ptr() for gate in (g_h, g_w, *planes))
    return _Gates(*addresses, share, rest, shuffle, residual)


def _addresses(*tensors: Tensor) -> list[int | None]:
    """Addresses of tensors, null where there are no elements."""
    return [tensor.data_ptr() or None for tensor in tensors]


def _dense(*tensors: Tensor | None) -> list[Any]:
    """Give the tensors the layout that the library reads; a compiler may have chosen another."""
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]


def moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Means along each axis, and moments of the planes; see ``ops``."""
    (x,) = _dense(x)
    out = empty_moments(x, axes, groups)
    _call("moments", x.numel(), x.shape, groups, *_addresses(x, *out))
    return out


def mix(x: Tensor, *gates_and_options: Any) -> Tensor:
    """Gate x by rows and columns, by planes and elements, and mix the two; see ``ops``."""
    *gates, groups, shuffle, residual = gates_and_options
    x, *gates = _dense(x, *gates)
    y = torch.empty_like(x)
    _call("mix", x.numel(), x.shape, groups, *_addresses(x, y), _gates(gates, shuffle, residual))
    return y


def mix_backward(g: Tensor, x: Tensor, *gates_and_options: Any) -> tuple[Tensor, ...]:
    """Gradients of ``mix``; see ``ops``."""
    *gates, groups, shuffle, residual = gates_and_options
    g, x, *gates = _dense(g, x, *gates)
    dx = x.new_empty(x.shape)
    out = empty_gate_gradients(x, gates[:6])
    room = x.new_empty(x.shape[:2], dtype=torch.float64)
    inputs, to = _gates(gates, shuffle, residual), _Gradients(*_addresses(*out, room))
    _call("mix_backward", x.numel(), x.shape, groups, *_addresses(g, x, dx), inputs, to)
    return dx, *out


def moments_backward(dx: Tensor, x: Tensor, *gradients_and_options: Any) -> Tensor:
    """Add to dx what the gradients of the moments give; see ``ops``."""
    *gradients, _, groups = gradients_and_options
    dx, x, *gradients = _dense(dx, x, *gradients)
    y = x.new_empty(x.shape)
    _call("moments_backward", x.numel(), x.shape, groups, *_addresses(dx, x, y, *gradients))
    return y


def gates(
    z_h: Tensor,
    z_w: Tensor,
    s: Tensor,
    var: Tensor,
    coordinate: Sequence[Tensor],
    shuffle: Sequence[Tensor],
    norm_eps: float,
    group_eps: float,
    groups: int,
) -> tuple[Tensor, ...]:
    """Gates of rows and columns, and of planes and elements; see ``ops``."""
    given = _dense(z_h, z_w, s, var)
    coordinate, shuffle = (
        _dense(*(p if p.dtype == torch.float32 else p.float() for p in ps))
        for ps in (coordinate, shuffle)
    )
    out = empty_gates(*given)
    N, C = z_h.shape[:2] if coordinate else (s.shape[0], 2 * s.shape[1])
    H, W = (z_h.shape[2], z_w.shape[2]) if coordinate else (0, 0)
    M, K = (len(coordinate[2]), coordinate[0].shape[2]) if coordinate else (0, 0)
    parameters = (tuple(_addresses(*ps)) for ps in (coordinate, shuffle))
    net = _Net(*parameters, M, K, norm_eps, group_eps)
    work = (z_h.numel() + z_w.numel()) * M
    _call("gates", work, (N, C, H, W), groups, *_addresses(*given, *out), net)
    return out
