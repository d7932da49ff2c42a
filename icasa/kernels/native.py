"""The operators in C, native_forward.c and native_backward.c, where these could be compiled."""

import ctypes
import warnings
from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from icasa.kernels.ops import empty_gradients, empty_kept

INTERFACE = 3  # as the C has it: to be raised with every change of a function's arguments
PARALLEL = 1 << 15  # elements below which a second thread costs more than it does
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# The structures of native.h: packing one is a tenth of the time that ctypes takes to make it.
SHAPE, PARAMETERS, NET = Struct("5q2i"), Struct("19P"), Struct("19P3q2f2i")


def _load() -> ctypes.CDLL | None:
    """Load the library, which takes its threads from the OpenMP that torch has loaded."""
    path = Path(__file__).with_name("libicasa.so")
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        if library.icasa_interface() != INTERFACE:
            raise OSError(f"{path} is of another version; install icasa again")
    except (OSError, AttributeError) as error:  # the latter where there is no icasa_interface
        warnings.warn(f"the CPU runs on torch operators: {error}", RuntimeWarning, stacklevel=2)
        return None
    for name, structures in (("attend", 2), ("attend_backward", 3)):
        function = getattr(library, f"icasa_{name}")
        function.argtypes = [*[ctypes.c_void_p] * 4, *[ctypes.c_char_p] * structures]
    return library


LIBRARY: Any = _load()


def _addresses(
    ica: Sequence[Tensor | None], sa: Sequence[Tensor | None], beta: Tensor | None
) -> list[int]:
    """Addresses of what a layer is made of, null where there is nothing."""
    tensors = (*ica, *[None] * (12 - len(ica)), *sa, *[None] * (6 - len(sa)), beta)
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _shape(x: Tensor, groups: int) -> bytes:
    threads = torch.get_num_threads() if x.numel() >= PARALLEL else 1
    return SHAPE.pack(*x.shape, groups, TYPES[x.dtype], threads)


def _as_read(p: Tensor) -> Tensor:
    plain = p.dtype == torch.float32 and p.is_contiguous()  # a few calls fewer, of a dozen each
    return p if plain else p.float().contiguous()


def _net(
    ica: Sequence[Tensor], sa: Sequence[Tensor], beta: Tensor | None, training: bool, *rest: Any
) -> tuple[bytes, Any]:
    """Return a layer as the C reads it, and what its addresses are of, to be held for the call."""
    M, K = (len(ica[2]), ica[0].shape[2]) if ica else (0, 0)
    parts = ([_as_read(p) for p in part] for part in (ica, sa))
    held: Any = *parts, None if beta is None else _as_read(beta)
    return NET.pack(*_addresses(*held), M, K, training, *rest), held


def _check(done: int) -> None:
    if not done:
        raise MemoryError("no memory for what the gates are made of; give fewer samples at a time")


def _attend(
    x: Tensor,
    kept: Tensor | None,
    statistics: Tensor | None,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
    training: bool,
) -> Tensor:
    """Return y of both forward operators, and fill in what the second gives beside it."""
    x = x.contiguous()
    y = torch.empty_like(x)
    net, _held = _net(ica, sa, beta, training, norm_eps, group_eps, shuffle, residual)
    maps = (0 if t is None else t.data_ptr() for t in (x, y, kept, statistics))
    _check(LIBRARY.icasa_attend(*maps, net, _shape(x, groups)))
    return y


def attend(x: Tensor, *layer: Any) -> Tensor:
    """Gate x by what its moments give in evaluation; see ``ops``."""
    return _attend(x, None, None, *(*layer, False))


def attend_forward(x: Tensor, *layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Gate x, and keep what the backward wants; see ``ops``."""
    kept, statistics = empty_kept(x, *layer)
    return _attend(x, kept, statistics, *layer), kept, statistics


def attend_backward(
    g: Tensor,
    x: Tensor,
    kept: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    groups: int,
    shuffle: bool,
    residual: bool,
    training: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Gradients of ``attend_forward``; see ``ops``."""
    g, x = g.contiguous(), x.contiguous()
    dx = torch.empty_like(x)
    to = empty_gradients(x, ica, sa, beta)
    net, _held = _net(ica, sa, beta, training, 0.0, 0.0, shuffle, residual)
    room = PARAMETERS.pack(*_addresses(*to[:2], to[2] if len(to[2]) else None))
    maps = (t.data_ptr() for t in (g, x, dx, kept))
    _check(LIBRARY.icasa_attend_backward(*maps, net, room, _shape(x, groups)))
    return dx, *to
