"""Padded batches: statistics of the valid positions alone, so that padding does not move a gate."""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from icasa._check import check_per_sample

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def _refuse_lengths(lengths: Tensor | None) -> None:
    """Raise unless ``lengths`` is None, as a step of a graph that was traced without them."""
    if lengths is not None:
        raise ValueError(
            "expected no lengths in a graph of torch.fx, which is traced without them, got some; "
            "call the layer itself or use torch.export"
        )


torch.fx.wrap("_refuse_lengths")
torch.fx.node.has_side_effect(_refuse_lengths)  # else it is removed as dead code


def check_lengths(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return ``lengths`` as int64 if there is one in 1..W for each sample of ``x`` (N, *, W).

    Reading the range waits for the device. So what is returned carries the W that it was checked
    for, and a layer that hands it on to its branches and means has it read once.
    """
    if lengths is None:
        return None
    if isinstance(lengths, Proxy):  # the argument of the layer that is traced
        _refuse_lengths(lengths)
        return None
    check_per_sample("lengths", lengths, x)
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"expected integer lengths, got {lengths.dtype}; "
            f"count the valid positions of each sample and call lengths.long()"
        )
    width, compiling = x.shape[-1], torch.compiler.is_compiling()
    if not compiling and getattr(lengths, "_checked_for", None) == width:
        return lengths
    checked = lengths.to(torch.int64, copy=True)  # the width may be past a smaller type
    if compiling:
        return checked
    if ((checked < 1) | (checked > width)).any():
        raise ValueError(
            f"expected lengths in 1..{width}, the last axis of x, got {lengths.tolist()}; "
            f"count the valid positions before padding"
        )
    checked._checked_for = width  # type: ignore[attr-defined]
    return checked


def clear_padding(
    x: Tensor, lengths: Tensor | None, value: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """Fill ``x`` (N, C, *S, W) from each sample's length on; return it and the factor of a mean.

    The second value is W / length (N,), the factor from a mean over the whole last axis, its
    padding zero, to the mean over the valid positions. Without ``lengths`` all positions are valid:
    ``x`` as it is and None.
    """
    lengths = check_lengths(x, lengths)
    if lengths is None:
        return x, None
    n, width = x.shape[0], x.shape[-1]
    valid = valid_positions(lengths, width).reshape(n, *[1] * (x.ndim - 2), width)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.where(valid, x, value), width / lengths.to(dtype)


def valid_positions(lengths: Tensor, width: int) -> Tensor:
    """Return which of ``width`` positions are before each sample's length: (N, W)."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def spatial_mean(x: Tensor, lengths: Tensor | None, ndim: int) -> Tensor:
    """Mean of ``x`` over its last ``ndim`` axes, each kept as 1, over the valid positions."""
    x, scale = clear_padding(x, lengths)
    mean = x.mean(list(range(-ndim, 0)), keepdim=True)
    return mean if scale is None else mean * scale.to(mean.dtype).view(-1, *[1] * (x.ndim - 1))


def batch_norm(norm: nn.Module, x: Tensor, valid: Tensor | None) -> Tensor:
    """``norm(x)`` of ``x`` (N, C, *S), in training by the statistics of the valid positions alone.

    ``valid`` (N, *S) marks these; None means all.
    """
    if valid is None or not (isinstance(norm, BATCH_NORMS) and norm.training):
        return norm(x)  # type: ignore[no-any-return]
    last = x.movedim(1, -1)  # (N, *S, C)
    rows = last[valid]
    if torch.compiler.is_compiling():
        # A BatchNorm in training requires it, and a graph cannot read the number of rows.
        torch._check(rows.shape[0] > 1)  # type: ignore[no-untyped-call]
    y = norm(rows.reshape(*rows.shape, *[1] * (x.ndim - 2))).reshape(rows.shape)
    spread = torch.zeros_like(last, dtype=y.dtype)
    return spread.masked_scatter(valid.unsqueeze(-1), y).movedim(-1, 1)
