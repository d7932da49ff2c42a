"""The operators in C, native_*.c, where these could be compiled."""

import warnings
from collections.abc import Sequence
from struct import Struct
from typing import Any

import torch
from torch import Tensor

from icasa.kernels.library import LIBRARY, THREADED, UNLOADED
from icasa.kernels.reference import statistics_dtype
from icasa.kernels.sizes import check_like, format_of

PARALLEL = 1 << 15  # elements below which a second thread costs more than it saves
WIDEST = 64  # most channels M and taps k, as native.h has it
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

# The structures of native.h: packing one takes a tenth of the time of ctypes.
SHAPE, PARAMETERS, LAYER = Struct("5q2iq"), Struct("19P"), Struct("19P3q2f2i")
NET = Struct("10P4qf4x")

_reason = UNLOADED  # "" once it was said


def is_loaded() -> bool:
    """Whether there is a library; warns once of its absence, with the reason."""
    global _reason
    if LIBRARY is None and _reason and not torch.compiler.is_compiling():
        message, _reason = _reason, ""
        warnings.warn(f"the CPU uses PyTorch's operators: {message}", RuntimeWarning, stacklevel=2)
    return LIBRARY is not None


def width_and_taps(ica: Sequence[Tensor]) -> tuple[int, int]:
    """Return M and K of the parameters of ICA, given with their biases or without."""
    pointwise = ica[1] if ica[1].ndim == 3 else ica[2]
    return pointwise.shape[0], ica[0].shape[2]


def serves(x: Tensor, ica: Sequence[Tensor] = ()) -> bool:
    """Whether the C computes a layer with the parameters ``ica`` for maps like x."""
    if not is_loaded() or x.dtype not in TYPES or x.device.type != "cpu" or x.numel() == 0:
        return False
    return not ica or max(width_and_taps(ica)) <= WIDEST


def is_faster(x: Tensor, ica: Sequence[Tensor] = ()) -> bool:
    """Whether the C serves, and in less time than PyTorch's operators."""
    if not serves(x, ica):
        return False
    return THREADED or x.numel() < PARALLEL or torch.get_num_threads() == 1


def copy(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return x in a memory format, copied if need be; torch takes up to five times as long."""
    if x.is_contiguous(memory_format=memory_format):
        return x
    last, to_contiguous = torch.channels_last, memory_format == torch.contiguous_format
    if not serves(x) or not x.is_contiguous(
        memory_format=last if to_contiguous else torch.contiguous_format
    ):
        return x.contiguous(memory_format=memory_format)
    y = torch.empty_like(x, memory_format=memory_format)
    LIBRARY.icasa_transpose(x.data_ptr(), y.data_ptr(), to_contiguous, _shape(x, 0))
    return y


def net_is_faster(x: Tensor, units: int, needs_grad: bool) -> bool:
    """Whether the C computes an SE of some hidden units faster than PyTorch, if it serves x.

    PyTorch multiplies the units of all samples at once, in float32. This wins in a large map with
    more units than a plane has positions, in evaluation of contiguous maps with a quarter as many.
    """
    if x.numel() < PARALLEL:
        return True
    positions = x.shape[2] * x.shape[3]
    if needs_grad or not x.is_contiguous():
        return units <= positions
    return 4 * units <= positions


def empty_saved(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], training: bool
) -> tuple[Tensor, Tensor]:
    """Return the vector that the forward saves and the statistics of the batch, to be filled.

    The parts of the vector are those of split_saved in native.h.
    """
    N, C, H, W = x.shape
    M, half = width_and_taps(ica)[0] if ica else 0, len(sa[0]) if sa else 0
    axes = (2 * N * C + N * M) * (H + W) + 2 * (C + M) if ica else 0
    planes = 5 * (N * C // 2) + 2 * half if sa else 0
    saved = x.new_empty(axes + planes, dtype=torch.float32)
    return saved, saved.new_empty(2, M if training else 0)


def empty_gradients(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], beta: Tensor | None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the gradients of the parameters, to be filled; ``ica`` and ``sa`` are the weights."""
    dtype = statistics_dtype(x.dtype)
    dica, dsa = (
        [x.new_empty(shape, dtype=dtype) for p in part for shape in (p.shape, p.shape[:1])]
        for part in (ica, sa)
    )
    return dica, dsa, x.new_empty(0 if beta is None else 1, dtype=dtype)


def empty_gates(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], training: bool
) -> tuple[Tensor, Tensor]:
    """Return what `empty_saved` does, for ``weigh``."""
    N, C, H, W = x.shape
    units = 0 if len(net) == 1 else net[0].shape[0]
    size = N * (4 * C + 2 * units + 4 * H * W + 2) + 2 if spatial else N * (2 * C + units)
    saved = x.new_empty(size, dtype=torch.float32)
    return saved, saved.new_empty(2, int(training))


def empty_net(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of the parameters of ``weigh``, given by the weights, to be filled."""
    dtype = statistics_dtype(x.dtype)
    # By shapes alone: the C fills contiguous tensors, whatever the layout of the parameters.
    dnet = [x.new_empty(shape, dtype=dtype) for p in net for shape in (p.shape, p.shape[:1])]
    dspatial = [x.new_empty(p.shape, dtype=dtype) for p in (*spatial, *spatial[1:])]
    return dnet[:1] if len(net) == 1 else dnet, dspatial


def _in_order(
    ica: Sequence[Tensor | None], sa: Sequence[Tensor | None], beta: Tensor | None
) -> list[Any]:
    """Return a layer's 19 tensors in the order of native.h, None where one is missing."""
    return [*ica, *[None] * (12 - len(ica)), *sa, *[None] * (6 - len(sa)), beta]


def _addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _shape(x: Tensor, groups: int) -> bytes:
    threads = torch.get_num_threads() if x.numel() >= PARALLEL else 1
    last = not x.is_contiguous()  # as a map here is in one format or the other
    return SHAPE.pack(*x.shape, groups, TYPES[x.dtype], threads, last)


def reads_last(channels: int, groups: int) -> bool:
    """Whether reading channels_last directly is faster than a copy: not where vectors stay short.

    With groups, the halves of all groups are computed as one, of which each brings its own run.
    """
    return channels >= (max(32, 8 * groups) if groups else 16)


def _as_read(x: Tensor, groups: int) -> Tensor:
    """Return x, or a contiguous copy of it where the C does not read its memory format."""
    if x.is_contiguous() or (
        format_of(x) == torch.channels_last and reads_last(x.shape[1], groups)
    ):
        return x
    return copy(x, torch.contiguous_format)


def _pack(
    ica: Sequence[Tensor | None],
    sa: Sequence[Tensor | None],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    shuffle: bool,
    residual: bool,
    training: bool,
) -> tuple[bytes, Any]:
    """Return a layer as the C reads it, and its tensors, which must live as long as the call."""
    # Of the map to H: the backward has no biases.
    M, K = (ica[4].shape[1], ica[0].shape[2]) if ica else (0, 0)  # type: ignore[union-attr]
    tensors = [
        # One that is float32 and contiguous is taken as it is, which saves two calls for each.
        p
        if p is None or (p.dtype == torch.float32 and p.is_contiguous())
        else p.float().contiguous()
        for p in _in_order(ica, sa, beta)
    ]
    options = training, norm_eps, group_eps, shuffle, residual
    return LAYER.pack(*_addresses(tensors), M, K, *options), tensors


def _spaced(weights: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the weights with None in the places of the biases, which the C has saved."""
    return [p for weight in weights for p in (weight, None)]


def _check_memory(done: int) -> None:
    if not done:
        raise MemoryError("expected memory for the gates, got none; give fewer samples at a time")


def _attend(
    x: Tensor,
    saved: Tensor | None,
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
    """Return y of both forward operators, and fill in the other outputs of the second."""
    given, x = x, _as_read(x, groups)
    y = torch.empty_like(x)
    layer, _held = _pack(ica, sa, beta, norm_eps, group_eps, shuffle, residual, training)
    maps = _addresses((x, y, saved, statistics))
    _check_memory(LIBRARY.icasa_attend(*maps, layer, _shape(x, groups)))
    return y if x is given else copy(y, format_of(given))


def attend(x: Tensor, *layer: Any) -> Tensor:
    """Compute a layer in evaluation; see `ops`."""
    return _attend(x, None, None, *(*layer, False))


def attend_forward(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], *layer: Any
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute a layer, and save a vector for the backward; see `ops`."""
    saved, statistics = empty_saved(x, ica, sa, layer[-1])
    return _attend(x, saved, statistics, ica, sa, *layer), [saved], statistics


def attend_backward(
    g: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
    *options: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return the gradients of `attend_forward`; see `ops`."""
    vector, like = saved[0], empty_saved(x, ica, sa, False)[0]
    check_like("saved", vector, like, like.shape)
    given, x = x, _as_read(x, groups)
    g, vector, dx = copy(g, format_of(x)), vector.contiguous(), torch.empty_like(x)
    gradients = empty_gradients(x, ica, sa, beta)
    dica, dsa, dbeta = gradients
    layer, _held = _pack(_spaced(ica), _spaced(sa), beta, norm_eps, group_eps, *options)
    out = PARAMETERS.pack(*_addresses(_in_order(dica, dsa, None if beta is None else dbeta)))
    maps = _addresses((g, x, dx, vector))
    _check_memory(LIBRARY.icasa_attend_backward(*maps, layer, out, _shape(x, groups)))
    return dx if x is given else copy(dx, format_of(given)), *gradients


def _pack_net(
    net: Sequence[Tensor | None], spatial: Sequence[Tensor | None], eps: float, training: bool
) -> tuple[bytes, Any]:
    """Return the parameters of ``weigh`` as the C reads them, and tensors as `_pack` does."""
    linear, taps = ([None] * 4, net) if len(net) == 1 else (net, [None])
    rest = [*spatial, *[None] * (5 - len(spatial))]
    tensors = [p if p is None else p.float().contiguous() for p in (*linear, *taps, *rest)]
    first, kernel, conv = tensors[0], tensors[4], tensors[5]
    sizes = (
        0 if first is None else first.shape[0],
        0 if kernel is None else kernel.shape[2],
        0 if conv is None else conv.shape[2],
    )
    return NET.pack(*_addresses(tensors), *sizes, training, eps), tensors


def _weigh(
    x: Tensor,
    saved: Tensor | None,
    statistics: Tensor | None,
    net: Sequence[Tensor],
    spatial: Sequence[Tensor],
    eps: float,
    training: bool,
) -> Tensor:
    """Return y of both forward operators, as `_attend` does."""
    x = copy(x, format_of(x))
    y = torch.empty_like(x)
    packed, _held = _pack_net(net, spatial, eps, training)
    maps = _addresses((x, y, saved, statistics))
    _check_memory(LIBRARY.icasa_weigh(*maps, packed, _shape(x, 0)))
    return y


def weigh(x: Tensor, *layer: Any) -> Tensor:
    """Compute a layer in evaluation; see `ops`."""
    return _weigh(x, None, None, *(*layer, False))


def weigh_forward(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute a layer, and save a vector for the backward; see `ops`."""
    saved, statistics = empty_gates(x, net, spatial, training)
    return _weigh(x, saved, statistics, net, spatial, eps, training), [saved], statistics


def weigh_backward(
    g: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    net: Sequence[Tensor],
    spatial: Sequence[Tensor],
    *options: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the gradients of `weigh_forward`; see `ops`."""
    vector, like = saved[0], empty_gates(x, net, spatial, False)[0]
    check_like("saved", vector, like, like.shape)
    g, x, vector = copy(g, format_of(x)), copy(x, format_of(x)), vector.contiguous()
    dx, gradients = torch.empty_like(x), empty_net(x, net, spatial)
    packed, _held = _pack_net(net if len(net) == 1 else _spaced(net), spatial, *options)
    grads, _ = _pack_net(*gradients, *options)
    maps = _addresses((g, x, dx, vector))
    _check_memory(LIBRARY.icasa_weigh_backward(*maps, packed, grads, _shape(x, 0)))
    return dx, *gradients
