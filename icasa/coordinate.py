"""The steps that coordinate attention and ICA share: pool onto each axis, gate along it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from icasa.padding import check_lengths, clear_padding, valid_positions


def axis_means(x: Tensor, ndim: int, lengths: Tensor | None) -> list[Tensor]:
    """Mean of ``x`` (N, C, *S) over its ``ndim`` spatial axes but one, for each: (N, C, S_a).

    With ``lengths`` (N,) over the valid positions of the last axis; the last mean is zero beyond.
    """
    x, scale = clear_padding(x, lengths)
    if ndim == 1:
        return [x]
    axes = range(2, 2 + ndim)
    # A mean, never an adaptive pool: that one exports with the size of the export baked in.
    means = [x.mean([a for a in axes if a != axis]) for axis in axes]
    if scale is not None:
        means[:-1] = [mean * scale.to(mean.dtype)[:, None, None] for mean in means[:-1]]
    return means


def coordinate_gates(
    x: Tensor,
    squeeze: Callable[[Tensor, Tensor | None], Tensor],
    expand: nn.ModuleList,
    lengths: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gates in (0, 1) along each axis of ``x`` (N, C, *S), each shaped to broadcast against it.

    Eq. 6 and 7 are the means, Eq. 8 is ``squeeze`` (C to M channels) over their concatenation and
    where that is valid, Eq. 9 and 10 are ``expand``, one map from M to C channels per axis.
    """
    lengths = check_lengths(x, lengths)
    means = axis_means(x, len(expand), lengths)
    # DIFF: step (2) says "in the channel dimension"; the shapes and step (3) fit only space.
    sizes = [mean.shape[2] for mean in means]
    valid = None
    if lengths is not None:  # the last axis stands last, and the others are valid throughout
        valid = valid_positions(lengths + sum(sizes[:-1]), sum(sizes))
    f = squeeze(torch.cat(means, dim=2), valid)  # (N, M, H + W)
    parts, gates = torch.split(f, sizes, dim=2), []
    for axis, to_gate in enumerate(expand):
        gate = torch.sigmoid(to_gate(parts[axis])).to(x.dtype)  # (N, C, S_a)
        place: list[slice | None] = [None] * len(expand)
        place[axis] = slice(None)
        gates.append(gate[(slice(None), slice(None), *place)])
    return tuple(gates)
