"""The autograd functions around the operators, and copies between memory formats."""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import native
from icasa.kernels.ops import OPS, operators
from icasa.kernels.sizes import format_of


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a second derivative; torch's once_differentiable lets some pass with wrong values."""

    @wraps(backward)
    def refuse_or_run(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "expected a first derivative of the fast path, which has no second derivative, "
                "got create_graph=True; build the layer with fused=False"
            )
        return backward(ctx, *grads)

    return refuse_or_run


class _Attend(torch.autograd.Function):
    """`attend_forward`, from its tensors in one sequence, cut after each of ``counts``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Sequence[int], options: Sequence[Any], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ica, sa, beta, running = _cut(tensors, counts)
        layer = [*ica, *running], sa, beta[0] if beta else None
        y, saved, statistics = operators(x).attend_forward(x, *layer, *options)
        # Weights and biases alternate, and a bias may change in place before the backward.
        ctx.save_for_backward(x, *ica[::2], *sa[::2], *beta, *saved)
        ctx.mark_non_differentiable(statistics)
        ctx.counts, ctx.running, ctx.options = counts, len(running), options
        ctx.dtypes = [p.dtype for p in (*ica, *sa, *beta)]
        return y, statistics

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        weights = [count - count // 2 for count in ctx.counts]  # every second tensor
        ica, sa, beta, saved = _cut(tensors, weights)
        layer = saved, ica, sa, beta[0] if beta else None
        g = grads[0]  # in any memory format
        dx, dica, dsa, dbeta = operators(g).attend_backward(g, x, *layer, *ctx.options)
        pairs = zip([*dica, *dsa, *[dbeta] * len(beta)], ctx.dtypes, strict=True)
        gradients = [p if p.dtype is dtype else p.to(dtype) for p, dtype in pairs]
        return dx, None, None, *gradients, *[None] * ctx.running


def _cut(tensors: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """Return what belongs to ICA, to SA and to beta, and the tensors after them."""
    rest = iter(tensors)
    return [*([next(rest) for _ in range(count)] for count in counts), list(rest)]


def attend(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    options: Sequence[Any],
) -> tuple[Tensor, Tensor]:
    """Return y and the statistics of `attend_forward`, differentiable once."""
    parts = ica[:10], sa, () if beta is None else (beta,)
    counts = [len(part) for part in parts]
    return _Attend.apply(x, counts, options, *chain(*parts, ica[10:]))  # type: ignore[no-any-return, no-untyped-call]


class _Weigh(torch.autograd.Function):
    """`weigh_forward`, from its tensors in one sequence, cut after each of ``counts``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Sequence[int], options: Sequence[Any], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        net, spatial, running = _cut(tensors, counts)
        layer = net, [*spatial, *running]
        y, saved, statistics = operators(x).weigh_forward(x, *layer, *options)
        # A bias, which follows its weight, may change in place before the backward.
        ctx.save_for_backward(x, *net[::2], *spatial[:2], *saved)
        ctx.mark_non_differentiable(statistics)
        ctx.counts, ctx.options = [len(net[::2]), len(spatial[:2])], options
        ctx.running, ctx.dtypes = len(running), [p.dtype for p in (*net, *spatial)]
        return y, statistics

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *tensors = ctx.saved_tensors
        net, spatial, saved = _cut(tensors, ctx.counts)
        g = grads[0]  # in any memory format
        dx, dnet, dspatial = operators(g).weigh_backward(g, x, saved, net, spatial, *ctx.options)
        gradients = [p.to(dtype) for p, dtype in zip((*dnet, *dspatial), ctx.dtypes, strict=True)]
        return dx, None, None, *gradients, *[None] * ctx.running


def weigh(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], options: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """Return y and the statistics of `weigh_forward`, differentiable once."""
    counts = [len(net), len(spatial[:3])]
    return _Weigh.apply(x, counts, options, *net, *spatial)  # type: ignore[no-any-return, no-untyped-call]


class _Copy(torch.autograd.Function):
    """A copy of x in a memory format, whose gradient is returned in that of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        ctx.format = format_of(x)
        return _copy(x, memory_format)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _copy(grads[0], ctx.format), None


def _copy(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Return x in a memory format, by the C where nothing watches PyTorch's operators."""
    if x.is_contiguous(memory_format=memory_format):
        return x
    if operators(x) is OPS:
        return x.contiguous(memory_format=memory_format)
    return native.copy(x, memory_format)


def contiguous(x: Tensor) -> Tensor:
    """Return a contiguous copy of x."""
    return _Copy.apply(x, torch.contiguous_format)  # type: ignore[no-any-return, no-untyped-call]


def match_memory_format(y: Tensor, x: Tensor) -> Tensor:
    """Return y, which is contiguous, in the memory format of x."""
    return _Copy.apply(y, format_of(x))  # type: ignore[no-any-return, no-untyped-call]
