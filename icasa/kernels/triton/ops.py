"""The operators on CUDA: Triton kernels, and plain PyTorch for what those do not serve."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import reference, triton
from icasa.kernels.ops import implement
from icasa.kernels.sizes import check_like
from icasa.kernels.triton import gates, mix, moments


def attend(x: Tensor, *layer: Any) -> Tensor:
    """Compute a layer in evaluation, in three launches; see `icasa.kernels.ops`."""
    return attend_forward(x, *(*layer, False))[0]


def attend_forward(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
    training: bool,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute a layer; save its moments and what the backward is not given; see `ops`."""
    x = x.contiguous()
    means = moments.moments(x, bool(ica), groups)
    options = norm_eps, group_eps, training
    if training or not gates.serves(ica):
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            found, statistics = reference.gates(means, ica, sa, beta, *options)
    else:
        found = gates.gates(means, ica, sa, beta, norm_eps, group_eps, groups)
        statistics = means[2].new_empty(2, 0)
    found = [gate if gate is None else gate.contiguous() for gate in found]
    y = mix.mix(x, *(*found, groups, shuffle, residual))
    return y, [*means, *reference.withhold(ica, sa)], statistics


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
    shuffle: bool,
    residual: bool,
    training: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return the gradients; the gates are computed again, by PyTorch, from the saved moments."""
    g, x = g.contiguous(), x.contiguous()
    for i, like in enumerate(triton.empty_moments(x, bool(ica), groups)):
        check_like(f"saved[{i}]", saved[i], like, like.shape)
    ica, sa, running = reference.complete(ica, sa, saved[6:])
    there: list[bool] = []  # the gates that this layer has

    def gate(means: Any, ica: Any, sa: Any, beta: Any) -> list[Tensor]:
        layer = [*ica, *running], sa, *(beta or [None]), norm_eps, group_eps, training
        found, _ = reference.gates(means, *layer)
        there[:] = [value is not None for value in found]
        return [value for value in found if value is not None]

    layer = saved[:6], ica, sa, [] if beta is None else [beta]
    inputs = [[p.float() for p in tensors] for tensors in layer]
    with reference.differentiable(), torch.autocast(x.device.type, enabled=False):
        found, pull, *_ = torch.func.vjp(gate, *inputs)
        rest = iter(found)
        mixing: list[Any] = [next(rest).contiguous() if given else None for given in there]
        dx, *dgates = mix.mix_backward(g, x, *(*mixing, groups, shuffle, residual))
        # The gate of Eq. 14 holds the mean too; what mean_lo receives is a part of its gradient.
        dgates.append(-mixing[4] * dgates[5] if sa else dgates[5])
        dmeans, dica, dsa, dbeta = pull(
            [d for d, given in zip(dgates, there, strict=True) if given]
        )
    dz_h, dz_w, ds, dmean, _, dvar = (gradient.contiguous() for gradient in dmeans)
    small = dz_h, dz_w, ds, dmean, dvar, saved[3], saved[4]
    dx = moments.moments_backward(dx, x, *(*small, bool(ica), groups))
    return dx, dica, dsa, dbeta[0] if dbeta else x.new_empty(0, dtype=torch.float32)


def on_cuda(x: Tensor, ica: Sequence[Tensor]) -> Any:
    """Return the backend of a map on CUDA: Triton where it serves, else plain PyTorch."""
    return sys.modules[__name__] if triton.serves(x) else reference


implement("CUDA", on_cuda)
