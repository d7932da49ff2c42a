"""Maps in a layout that the kernels do not read: copied on the way in and on the way out."""

from typing import Any

import torch
from torch import Tensor


class _Contiguous(torch.autograd.Function):
    """A contiguous copy of x, whose gradient is given back in the layout of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.layout = _layout(x)
        return x.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous(memory_format=ctx.layout)


def in_one_piece(x: Tensor) -> Tensor:
    """Return ``x`` or, if it is not contiguous, a copy that is."""
    if x.is_contiguous():
        return x
    return _Contiguous.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """Return contiguous ``y`` in the memory format of ``x``."""
    return y.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    """Say channels_last of a map in that and in no other layout."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
