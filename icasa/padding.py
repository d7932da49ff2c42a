"""Padded batches: a mean over the valid positions alone, so that padding does not move a gate."""

import torch
from torch import Tensor

from icasa._check import per_sample


def clear_padding(
    x: Tensor, lengths: Tensor | None, value: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """Fill ``x`` (N, C, *S, W) from each sample's length on, and say what a mean then lacks.

    The second value is W / length (N,), the factor from a mean over the whole last axis, its
    padding zero, to the mean over the valid positions. Without ``lengths`` all positions are valid:
    ``x`` as it is and None.
    """
    if lengths is None:
        return x, None
    per_sample("lengths", lengths, x)
    n, width = x.shape[0], x.shape[-1]
    if lengths.is_floating_point():
        raise ValueError(
            f"lengths must be integers, got {lengths.dtype}; call lengths.long() first"
        )
    if not torch.compiler.is_compiling() and ((lengths < 1) | (lengths > width)).any():
        raise ValueError(
            f"lengths must lie in 1..{width}, the last axis of x, got {lengths.tolist()}; "
            f"count the valid positions before padding"
        )
    padding = torch.arange(width, device=x.device) >= lengths.unsqueeze(1)  # (N, W)
    padding = padding.reshape(n, *[1] * (x.ndim - 2), width)
    return torch.where(padding, value, x), width / lengths


def spatial_mean(x: Tensor, lengths: Tensor | None, first: int = 2) -> Tensor:
    """Mean of ``x`` over its axes from ``first`` on, each kept as 1, over the valid positions."""
    x, scale = clear_padding(x, lengths)
    mean = x.mean(list(range(first, x.ndim)), keepdim=True)
    return mean if scale is None else mean * scale.to(mean.dtype).view(-1, *[1] * (x.ndim - 1))
