"""The operators of `ops` in plain PyTorch: the specification that the kernels are tested against.

`attend` takes the moments of a map, makes gates of these small tensors, and mixes the map with its
gates. It computes in float64 whatever the type of the map, and autograd gives the gradients.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import enable_reentrant_dispatch

from icasa.kernels.sizes import format_of

Gate = Any  # a tensor, or None where the branch is missing
# PyTorch has no public name for it. A version without one reports such a mode as its own error.
_without_modes = getattr(torch._C, "_DisableTorchDispatch", nullcontext)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of means, variances and gates for maps of ``dtype``."""
    return torch.promote_types(dtype, torch.float32)


def halves(x: Tensor, groups: int) -> list[Tensor]:
    """Return the channel half and the spatial half of x (N, C, *S), each (N, C/2, *S)."""
    parts = torch.unflatten(x, 1, (groups, 2, -1)).unbind(2)
    return [part.flatten(1, 2) for part in parts]


def moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Return z_h, z_w (Eq. 6, 7), s (Eq. 12), mean, mean_lo and var, as `ops` describes them."""
    none = x.new_empty(0)
    z_h, z_w = (x.mean(3), x.mean(2)) if axes else (none, none)
    if not groups:
        return z_h, z_w, none, none, none, none
    x1, x2 = halves(x, groups)
    mean = x2.mean((2, 3))
    centred = x2 - mean[..., None, None]
    mean_lo = centred.mean((2, 3))
    var = centred.square().mean((2, 3)) - mean_lo.square()
    return z_h, z_w, x1.mean((2, 3)), mean, mean_lo, var


def axis_gates(
    z_h: Tensor, z_w: Tensor, ica: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return g_h and g_w (Eq. 8-10), then the statistics of the batch."""
    taps, taps_bias, point, point_bias, to_h, h_bias, to_w, w_bias, *norm = (
        p.to(z_h.dtype) for p in ica
    )
    z = torch.cat((z_h, z_w), 2)  # (N, C, H + W)
    f = F.conv1d(z, taps, taps_bias, padding=taps.shape[2] // 2, groups=len(taps))
    f = F.conv1d(f, point, point_bias)  # (N, M, H + W)
    statistics = f.new_empty(2, 0)
    if norm:
        weight, bias, mean, var = norm
        statistics = torch.stack((mean, var))  # an empty batch leaves them as they are
        if training and f.numel():
            mean, var = f.mean((0, 2)), f.var((0, 2), correction=0)
            statistics = torch.stack((mean, f.var((0, 2)))).detach()
        f = (f - mean[:, None]) * (weight * torch.rsqrt(var + eps))[:, None] + bias[:, None]
    f_h, f_w = torch.split(F.hardswish(f), [z_h.shape[2], z_w.shape[2]], 2)
    g_h, g_w = F.conv1d(f_h, to_h, h_bias), F.conv1d(f_w, to_w, w_bias)
    return torch.sigmoid(g_h), torch.sigmoid(g_w), statistics


def plane_gates(
    s: Tensor, mean_lo: Tensor, var: Tensor, sa: Sequence[Tensor], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gate of Eq. 13, then a and b of that of Eq. 14, sigmoid(a (x - mean) + b)."""
    # Planes are numbered group by group, and all groups share the parameters.
    w1, b1, w2, b2, gamma, shift = (p.to(s.dtype).repeat(s.shape[1] // len(p)) for p in sa)
    a = w2 * gamma * torch.rsqrt(var + eps)
    return torch.sigmoid(w1 * s + b1), a, w2 * shift + b2 - a * mean_lo


def gates(
    means: Sequence[Tensor],
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Gate,
    norm_eps: float,
    group_eps: float,
    training: bool,
) -> tuple[list[Gate], Tensor]:
    """Return the gates that `mix` takes, from the moments, then the statistics of the batch."""
    z_h, z_w, s, mean, mean_lo, var = means
    axes: tuple[Any, ...] = (None, None, s.new_empty(2, 0))
    if ica:
        axes = axis_gates(z_h, z_w, ica, norm_eps, training)
    planes = (*plane_gates(s, mean_lo, var, sa, group_eps), mean) if sa else (None,) * 4
    return [*axes[:2], beta, *planes], axes[2]


def mix(
    x: Tensor,
    g_h: Gate,
    g_w: Gate,
    beta: Gate,
    gate: Gate,
    a: Gate,
    b: Gate,
    mean: Gate,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> Tensor:
    """Gate x by row and column (Eq. 11), by plane and element (Eq. 13, 14), and mix (Eq. 5)."""
    branches: list[Tensor] = []
    if g_h is not None:
        branches.append(x * g_h[:, :, :, None] * g_w[:, :, None, :])
    if gate is not None:
        gate, a, b, mean = (value[..., None, None] for value in (gate, a, b, mean))
        x1, x2 = halves(x, groups)
        gated = x1 * gate, x2 * torch.sigmoid(a * (x2 - mean) + b)
        v = torch.stack([torch.unflatten(half, 1, (groups, -1)) for half in gated], 2).flatten(1, 3)
        if shuffle:  # channel j * C/2 + k goes to 2k + j
            v = torch.unflatten(v, 1, (2, -1)).transpose(1, 2).flatten(1, 2)
        branches.append(v)
    y = branches[0] if beta is None else beta * branches[0] + (1 - beta) * branches[1]
    return x + y if residual else y


def compute(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Gate,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """Return y and the statistics of the batch, in the type of x and differentiable."""
    means = moments(x, bool(ica), groups)
    found, statistics = gates(means, ica, sa, beta, norm_eps, group_eps, training)
    return mix(x, *(*found, groups, shuffle, residual)), statistics


@contextmanager
def differentiable() -> Iterator[None]:
    """Let autograd work inside an operator, also below a dispatch mode, which switches it off."""
    with torch.enable_grad(), ExitStack() as stack:
        if not torch.zeros((), requires_grad=True).clone().requires_grad:
            stack.enter_context(enable_reentrant_dispatch())
            stack.enter_context(_without_modes())
        yield


def withhold(ica: Sequence[Tensor], sa: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of what the backward is not given: biases and running statistics."""
    return [p.clone() for p in (*ica[1:10:2], *sa[1::2], *ica[10:])]


def complete(
    ica: Sequence[Tensor], sa: Sequence[Tensor], withheld: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the parameters of ICA and of SA, from their weights, and the running statistics."""
    rest = iter(withheld)
    coordinate, shuffle = ([p for w in part for p in (w, next(rest))] for part in (ica, sa))
    return coordinate, shuffle, list(rest)


def attend(x: Tensor, *layer: Any) -> Tensor:
    """Compute a layer in evaluation; see `ops`."""
    return attend_forward(x, *layer, False)[0]


def attend_forward(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], *layer: Any
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute a layer; save what the backward is not given; see `ops`."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        y, statistics = compute(x.double(), ica, sa, *layer)
    statistics = statistics.to(statistics_dtype(x.dtype))
    saved, y = withhold(ica, sa), y.to(x.dtype).contiguous(memory_format=format_of(x))
    return y, saved, statistics if layer[-1] else statistics[:, :0].clone()


def attend_backward(
    g: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    *options: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """Return the gradients of `attend_forward`, which is computed again; see `ops`."""

    def forward(x: Tensor, ica: Any, sa: Any, beta: Any) -> Tensor:
        return compute(x, [*ica, *running], sa, *(beta or [None]), *options)[0]

    ica, sa, running = complete(ica, sa, saved)
    layer = ica, sa, [] if beta is None else [beta]
    inputs: list[Any] = [x.double(), *([p.double() for p in tensors] for tensors in layer)]
    with differentiable(), torch.autocast(x.device.type, enabled=False):
        pull = torch.func.vjp(forward, *inputs)[1]
        dx, *gradients = pull(g.double())
    dtype = statistics_dtype(x.dtype)
    dica, dsa, dbeta = ([p.to(dtype) for p in tensors] for tensors in gradients)
    none = x.new_empty(0, dtype=dtype)
    dx = dx.to(x.dtype).contiguous(memory_format=format_of(x))
    return dx, dica, dsa, dbeta[0] if dbeta else none


def weighed(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, Tensor]:
    """Return y of `weigh` and the statistics of the batch, in the type of x and differentiable."""
    pooled = x.mean((2, 3))[None]  # (1, N, C), of CBAM (2, N, C)
    if spatial:
        pooled = torch.cat((pooled, x.amax((2, 3))[None]))
    first, *linear = (p.to(x.dtype) for p in net)
    if linear:
        bias, second, second_bias = linear
        logits = F.linear(F.relu(F.linear(pooled, first, bias)), second, second_bias).sum(0)
    else:
        logits = F.conv1d(pooled[0, :, None], first, padding=first.shape[2] // 2)[:, 0]
    y = x * torch.sigmoid(logits)[:, :, None, None]
    if not spatial:
        return y, x.new_empty(2, 0)
    conv, weight, bias, mean, var = (p.to(x.dtype) for p in spatial)
    maps = torch.stack((y.amax(1), y.mean(1)), 1)
    f = F.conv2d(maps, conv, padding=conv.shape[2] // 2)  # (N, 1, H, W)
    statistics = torch.stack((mean, var))  # an empty batch leaves them as they are
    if training and f.numel():
        mean, var = f.mean().view(1), f.var(correction=0).view(1)
        statistics = torch.stack((mean, f.var().view(1))).detach()
    return y * torch.sigmoid((f - mean) * torch.rsqrt(var + eps) * weight + bias), statistics


def weigh(x: Tensor, *layer: Any) -> Tensor:
    """Compute a layer in evaluation; see `ops`."""
    return weigh_forward(x, *(*layer, False))[0]


def withhold_net(net: Sequence[Tensor], spatial: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of what `weigh_backward` is not given, as `withhold`."""
    return [p.clone() for p in (*net[1::2], *spatial[2:])]


def weigh_forward(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Compute a layer; save what the backward is not given; see `ops`."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        y, statistics = weighed(x.double(), net, spatial, eps, training)
    statistics = statistics.to(statistics_dtype(x.dtype))
    saved, y = withhold_net(net, spatial), y.to(x.dtype).contiguous(memory_format=format_of(x))
    return y, saved, statistics if training else statistics[:, :0].clone()


def weigh_backward(
    g: Tensor,
    x: Tensor,
    saved: Sequence[Tensor],
    net: Sequence[Tensor],
    spatial: Sequence[Tensor],
    eps: float,
    training: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the gradients of `weigh_forward`, which is computed again; see `ops`."""

    def forward(x: Tensor, net: Any, spatial: Any) -> Tensor:
        return weighed(x, net, [*spatial, *running], eps, training)[0]

    if len(net) == 2:
        net = [p for pair in zip(net, saved, strict=False) for p in pair]
    spatial, running = [*spatial, *saved[2:3]], saved[3:]
    inputs: list[Any] = [x.double(), *([p.double() for p in part] for part in (net, spatial))]
    with differentiable(), torch.autocast(x.device.type, enabled=False):
        dx, *gradients = torch.func.vjp(forward, *inputs)[1](g.double())
    dtype = statistics_dtype(x.dtype)
    dnet, dspatial = ([p.to(dtype) for p in part] for part in gradients)
    return dx.to(x.dtype).contiguous(memory_format=format_of(x)), dnet, dspatial
