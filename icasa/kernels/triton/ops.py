"""The operators on CUDA: Triton kernels, and plain PyTorch for what those do not serve."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import reference, triton
from icasa.kernels.ops import implement
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
    """Compute a layer; save its moments and running statistics; see `icasa.kernels.ops`."""
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
    return y, [*means, *(p.clone() for p in ica[10:])], statistics


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
    inputs = [*saved[:6], *ica, *sa] if beta is None else [*saved[:6], *ica, *sa, beta]
    inputs = [p.detach().float().requires_grad_() for p in inputs]
    first, second = 6 + len(ica), 6 + len(ica) + len(sa)  # of sa, and of beta
    layer = (
        [*inputs[6:first], *saved[6:]],
        inputs[first:second],
        None if beta is None else inputs[-1],
    )
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        found, _ = reference.gates(inputs[:6], *layer, norm_eps, group_eps, training)
    fixed: list[Any] = [gate if gate is None else gate.detach().contiguous() for gate in found]
    dx, *dgates = mix.mix_backward(g, x, *(*fixed, groups, shuffle, residual))
    # The gate of Eq. 14 holds the mean too; what mean_lo receives is a part of its gradient.
    dgates.append(-fixed[4] * dgates[5] if sa else dgates[5])
    pairs = [pair for pair in zip(found, dgates, strict=True) if pair[0] is not None]
    outputs, upstream = zip(*pairs, strict=True)
    gradients = list(torch.autograd.grad(outputs, inputs, upstream, materialize_grads=True))
    dz_h, dz_w, ds, dmean, _, dvar = (gradient.contiguous() for gradient in gradients[:6])
    small = dz_h, dz_w, ds, dmean, dvar, saved[3], saved[4]
    dx = moments.moments_backward(dx, x, *(*small, bool(ica), groups))
    dbeta = x.new_empty(0, dtype=torch.float32) if beta is None else gradients[-1]
    return dx, gradients[6:first], gradients[first:second], dbeta


def on_cuda(x: Tensor, ica: Sequence[Tensor]) -> Any:
    """Return the backend of a map on CUDA: Triton where it serves, else plain PyTorch."""
    return sys.modules[__name__] if triton.serves(x) else reference


implement("CUDA", on_cuda)
