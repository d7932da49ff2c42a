"""Checks of the kernels' arguments: a kernel reads and writes memory by their sizes, unchecked."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NoReturn

import torch
from torch import Tensor

Shapes = list[tuple[int, ...]]
NAMES = {
    "ica": ("depthwise", "pointwise", "map to H", "map to W", "norm", "norm statistics"),
    "sa": ("channel gate", "spatial gate", "GroupNorm"),
    "net": ("first map", "second map"),
    "spatial": ("convolution", *["norm"] * 4),
}


def refuse(expected: str, got: object, hint: str) -> NoReturn:
    """Raise the error of an argument that is not valid."""
    raise ValueError(f"expected {expected}, got {got}; {hint}")


@lru_cache(maxsize=256)
def ica_shapes(C: int, M: int, K: int, norm: bool, biases: bool) -> Shapes:
    """Shapes of the parameters of ICA, with `biases` also those and the statistics of its norm."""
    weights: Shapes = [(C, 1, K), (M, C, 1), (C, M, 1), (C, M, 1), *[(M,)] * norm]
    if not biases:
        return weights
    return [*(shape for w in weights for shape in (w, w[:1])), *[(M,)] * (2 * norm)]


def _check_shapes(name: str, got: Shapes, expected: Shapes, biases: bool) -> None:
    if got == expected:
        return
    hint = "all must fit the channels of x and the groups"
    if len(got) != len(expected):
        refuse(f"{len(expected)} tensors of {name}", len(got), hint)
    i = next(i for i in range(len(got)) if got[i] != expected[i])
    which = f"{name}[{i}] ({NAMES[name][i // (1 + biases)]})"
    refuse(f"{which} of shape {expected[i]}", tuple(got[i]), hint)


def check_layer(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    groups: int,
    shuffle: bool,
    training: bool = False,
    biases: bool = True,
) -> None:
    """Check the parameters of ``attend`` against x, or without `biases` the weights alone.

    Raises:
        ValueError: if a size is not valid.
    """
    if x.ndim != 4:
        refuse("x of shape (N, C, H, W)", tuple(x.shape), "reshape x to 4 axes")
    C, norm = x.shape[1], len(ica) > 4 * (1 + biases)
    if ica:
        shapes: Shapes = [p.shape for p in ica]
        M, K = (*shapes[(1 + biases) % len(ica)][:1], *shapes[0][2:], 0, 0)[:2]
        _check_shapes("ica", shapes, ica_shapes(C, M, K, norm, biases), biases)
        if K % 2 == 0:
            refuse("an odd number of taps", K, "use fused=False")
    if sa:
        if groups < 1 or C % (2 * groups):
            refuse("channels divisible by 2 * groups", f"{C} channels, groups={groups}", "see SA")
        half: Shapes = [(C // (2 * groups),)] * (3 * (1 + biases))
        _check_shapes("sa", [p.shape for p in sa], half, biases)
    elif groups or shuffle or not ica:
        refuse("ica, sa or both, and groups with sa", f"no sa, groups={groups}", "pass one of them")
    if wrong := [str(p.dtype) for p in (*ica, *sa) if not p.dtype.is_floating_point]:
        refuse("floating parameters", wrong, "convert the layer")
    if (beta is not None) != bool(ica and sa):
        refuse("beta with both ica and sa alone", beta, "leave it out or give both")
    if beta is not None and beta.numel() != 1:
        refuse("beta of one element", f"shape {tuple(beta.shape)}", "use fused=False")
    if training and ica and not norm:
        refuse("training=True with a norm alone", "none", "give training=False")


def check_net(
    x: Tensor,
    net: Sequence[Tensor],
    spatial: Sequence[Tensor],
    training: bool = False,
    biases: bool = True,
) -> None:
    """Check the parameters of ``weigh`` against x, or without `biases` the weights alone.

    Raises:
        ValueError: if a size is not valid, or a norm in training has one value.
    """
    if x.ndim != 4:
        refuse("x of shape (N, C, H, W)", tuple(x.shape), "reshape x to 4 axes")
    shapes: Shapes = [p.shape for p in net]
    if len(net) == 1 and not spatial:
        if len(shapes[0]) != 3 or shapes[0][:2] != (1, 1) or shapes[0][2] % 2 == 0:
            refuse("taps of shape (1, 1, k) with an odd k", tuple(shapes[0]), "see ECA")
    else:
        C, M = x.shape[1], shapes[0][0] if net and net[0].ndim else 0
        weights: Shapes = [(M, C), (C, M)]
        if biases:
            weights = [shape for w in weights for shape in (w, w[:1])]
        _check_shapes("net", shapes, weights, biases)
        if M == 0:
            refuse("a net with hidden units", "none", "see SE")
    if spatial:
        k = spatial[0].shape[-1] if spatial[0].ndim else 0
        expected: Shapes = [(1, 2, k, k), *[(1,)] * (4 if biases else 1)]
        _check_shapes("spatial", [p.shape for p in spatial], expected, False)
        if k % 2 == 0:
            refuse("a convolution of odd size", k, "see CBAM")
        if training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            refuse("more than 1 value per channel in training", tuple(x.shape), "call layer.eval()")
    elif training:
        refuse("training=True with a norm alone", "none", "give training=False")
    if wrong := [str(p.dtype) for p in (*net, *spatial) if not p.dtype.is_floating_point]:
        refuse("floating parameters", wrong, "convert the layer")


def format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last for a map in that format and not also contiguous."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def check_like(name: str, got: Tensor, like: Tensor, shape: Sequence[int]) -> None:
    """Check a tensor that must have the type and device of another, and a shape."""
    if got.shape != tuple(shape) or got.dtype != like.dtype or got.device != like.device:
        expected = f"{name} of shape {tuple(shape)}, {like.dtype} on {like.device}"
        hint = "pass the tensors that the forward took or returned"
        refuse(expected, f"shape {tuple(got.shape)}, {got.dtype} on {got.device}", hint)
