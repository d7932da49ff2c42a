"""The operators on the CPU in torch calls, and in C what `native` has where that was built.

The torch calls are made over as many samples at a time as a cache holds.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icasa.kernels import native
from icasa.kernels.ops import empty_gate_gradients, empty_moments, statistics_dtype

CHUNK = 1 << 18  # elements of x that are worked on at a time: with its scratch, a few MB

Gate = Tensor | None


def chunks(x: Tensor, *maps: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Slices of the batch, and the maps in them in the statistics dtype."""
    step = max(1, CHUNK // max(1, x[0].numel() if len(x) else 0))
    dtype = statistics_dtype(x.dtype)
    maps = tuple(m.flatten().view(x.shape) for m in maps)  # strides are free where a size is 1
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        yield part, [m[part].to(dtype) for m in maps]


def halves(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the channel half and the spatial half of x (N, C, *S) as views (N, G, C/2G, *S)."""
    split = torch.unflatten(x, 1, (groups, 2, x.shape[1] // (2 * groups)))
    return split[:, :, 0], split[:, :, 1]


def per_plane(value: Tensor, groups: int) -> Tensor:
    """Shape value (N, C/2) to broadcast against a half."""
    return torch.unflatten(value, 1, (groups, value.shape[1] // groups))[..., None, None]


def shuffled(y: Tensor, shuffle: bool) -> Tensor:
    """View y (N, C, H, W) as (N, 2, C/2, H, W) in the channel order before the shuffle."""
    half = y.shape[1] // 2
    if shuffle:
        return torch.unflatten(y, 1, (half, 2)).transpose(1, 2)
    return torch.unflatten(y, 1, (2, half))


def moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Means along each axis, and moments of the planes; see ``ops``."""
    out = empty_moments(x, axes, groups)
    z_h, z_w, s, mean, lost, var = out
    for part, (xs,) in chunks(x, x):
        if axes:
            torch.mean(xs, 2, out=z_w[part])
        rows = torch.mean(xs, 3, out=z_h[part]) if axes else xs.mean(3)
        if groups:
            for half, to in zip(halves(rows.mean(2), groups), (s, mean), strict=True):
                to[part].view_as(half).copy_(half)
            centred = (halves(xs, groups)[1] - per_plane(mean[part], groups)).flatten(3)
            torch.mean(centred, 3, out=lost[part].view_as(centred[..., 0]))
            norm = torch.linalg.vector_norm(centred, dim=3).flatten(1)
            torch.mul(norm, norm, out=var[part]).div_(centred.shape[3])
            var[part] -= lost[part].square()
    return out


def spatial_gate(x: Tensor, a: Tensor, b: Tensor, mean: Tensor, groups: int) -> Tensor:
    """Return sigmoid(a (x - mean) + b) for the spatial half x (N, G, C/2G, H, W)."""
    t = x - per_plane(mean, groups)
    return t.mul_(per_plane(a, groups)).add_(per_plane(b, groups)).sigmoid_()


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
    """Gate x by rows and columns, by planes and elements, and mix the two; see ``ops``."""
    y = x.new_empty(x.shape)
    share = 1.0 if beta is None else beta.item()
    for part, (xs,) in chunks(x, x):
        out = y[part] if y.dtype == xs.dtype else torch.empty_like(xs)
        if g_h is not None and g_w is not None:
            torch.mul(xs, (g_h[part] * share).unsqueeze(3), out=out)
            out.mul_(g_w[part].unsqueeze(2))
        if gate is not None and a is not None and b is not None and mean is not None:
            v = torch.empty_like(xs)
            (x1, x2), (v1, v2) = halves(xs, groups), halves(v, groups)
            torch.mul(x1, per_plane(gate[part], groups), out=v1)
            torch.mul(x2, spatial_gate(x2, a[part], b[part], mean[part], groups), out=v2)
            to, v = shuffled(out, shuffle), shuffled(v, False)
            to.copy_(v) if g_h is None else to.add_(v, alpha=1 - share)
        if residual:
            out.add_(xs)
        if out.dtype != y.dtype:
            y[part].copy_(out)
    return y


def mix_backward(
    g: Tensor,
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
) -> tuple[Tensor, ...]:
    """Gradients of ``mix``; see ``ops``."""
    dx = x.new_empty(x.shape)
    grads = empty_gate_gradients(x, (g_h, g_w, beta, gate, a, b))
    dg_h, dg_w, dbeta, dgate, da, db = grads
    share = 1.0 if beta is None else beta.item()
    rest = 1.0 if beta is None else 1.0 - share
    dbeta.zero_()
    for part, (xs, gs) in chunks(x, x, g):
        out = dx[part] if dx.dtype == xs.dtype else torch.empty_like(xs)
        if g_h is not None and g_w is not None:
            coordinate_backward(out, gs, xs, g_h[part], g_w[part], dg_h[part], dg_w[part])
            if beta is not None:
                dbeta += (dg_h[part] * g_h[part]).sum()
                out *= share
        if gate is not None and a is not None and b is not None and mean is not None:
            v = torch.empty_like(xs)
            shuffled(v, False).copy_(shuffled(gs, shuffle))
            gates = (gate[part], a[part], b[part], mean[part])
            to = (dgate[part], da[part], db[part])
            weighed = shuffle_backward(v, xs, *gates, groups, *to)
            if beta is not None:
                dbeta -= weighed
            out.copy_(v) if g_h is None else out.add_(v, alpha=rest)
        if residual:
            out += gs
        if out.dtype != dx.dtype:
            dx[part].copy_(out)
    for gradient, factor in ((dg_h, share), (dg_w, share), (dgate, rest), (da, rest), (db, rest)):
        gradient *= factor
    return dx, *grads


def coordinate_backward(
    dx: Tensor, g: Tensor, x: Tensor, g_h: Tensor, g_w: Tensor, dg_h: Tensor, dg_w: Tensor
) -> None:
    """Fill in the gradients of sum(g x g_h g_w)."""
    rows, columns = g_h.unsqueeze(3), g_w.unsqueeze(2)
    gx = g * x
    torch.mul(gx, rows, out=dx)
    torch.sum(dx, 2, out=dg_w)
    torch.sum(gx.mul_(columns), 3, out=dg_h)
    torch.mul(g, rows, out=dx).mul_(columns)


def shuffle_backward(
    g: Tensor,
    x: Tensor,
    gate: Tensor,
    a: Tensor,
    b: Tensor,
    mean: Tensor,
    groups: int,
    dgate: Tensor,
    da: Tensor,
    db: Tensor,
) -> Tensor:
    """Turn g, in the channels' order before the shuffle, into dx, and fill in the gates' gradients.

    Returns the sum of g times the gated x.
    """
    (x1, x2), (g1, g2) = halves(x, groups), halves(g, groups)
    planes = (-2, -1)
    dgate.copy_((g1 * x1).sum(planes).flatten(1))
    g1.mul_(per_plane(gate, groups))
    sigmoid = spatial_gate(x2, a, b, mean, groups)
    gx = g2 * x2
    dt = torch.ops.aten.sigmoid_backward(gx, sigmoid)
    weighed = (dgate * gate).sum() + gx.mul_(sigmoid).sum()
    db.copy_(dt.sum(planes).flatten(1))
    g2.mul_(sigmoid)
    torch.sub(x2, per_plane(mean, groups), out=sigmoid)
    da.copy_(sigmoid.mul_(dt).sum(planes).flatten(1))
    g2.add_(dt.mul_(per_plane(a, groups)))
    return weighed


def moments_backward(
    dx: Tensor,
    x: Tensor,
    dz_h: Tensor,
    dz_w: Tensor,
    ds: Tensor,
    dmean: Tensor,
    dvar: Tensor,
    mean: Tensor,
    lost: Tensor,
    axes: bool,
    groups: int,
) -> Tensor:
    """Add to dx what the gradients of the moments give; see ``ops``."""
    y = x.new_empty(x.shape)
    H, W = x.shape[2:]
    for part, (xs, dxs) in chunks(x, x, dx):
        out = y[part] if y.dtype == xs.dtype else torch.empty_like(xs)
        rows = (dz_h[part] / W).unsqueeze(3) if axes else xs.new_zeros(*xs.shape[:2], 1, 1)
        if groups:
            slope = dvar[part] * (2 / (H * W))
            level = ds[part] / (H * W), dmean[part] / (H * W) - slope * lost[part]
            for half, value in zip(halves(rows, groups), level, strict=True):
                half += per_plane(value, groups)
        torch.add(dxs, rows, out=out)
        if axes:
            out += (dz_w[part] / H).unsqueeze(2)
        if groups:
            centred = halves(xs, groups)[1] - per_plane(mean[part], groups)
            to = halves(out, groups)[1]
            to.addcmul_(centred, per_plane(slope, groups))
        if out.dtype != y.dtype:
            y[part].copy_(out)
    return y


def axis_gates(z_h: Tensor, z_w: Tensor, ica: Sequence[Tensor], eps: float) -> list[Tensor]:
    """Gates of rows and columns, Eq. 8-10."""
    taps, tap_bias, mix, mix_bias, to_h, h_bias, to_w, w_bias, *norm = (
        p.to(z_h.dtype) for p in ica
    )
    z = torch.cat((z_h, z_w), 2)  # (N, C, H + W)
    f = F.conv1d(z, taps, tap_bias, padding=taps.shape[2] // 2, groups=len(taps))
    f = F.conv1d(f, mix, mix_bias)  # (N, M, H + W)
    if norm:
        weight, bias, mean, variance = norm
        f = F.batch_norm(f, mean, variance, weight, bias, eps=eps)
    f_h, f_w = torch.split(F.hardswish(f), [z_h.shape[2], z_w.shape[2]], 2)
    return [
        torch.sigmoid(F.conv1d(f_h, to_h, h_bias)),
        torch.sigmoid(F.conv1d(f_w, to_w, w_bias)),
    ]


def plane_gates(
    s: Tensor, lost: Tensor, var: Tensor, sa: Sequence[Tensor], eps: float
) -> list[Tensor]:
    """Gates of planes and the lines of elements, Eq. 13 and 14."""
    # Planes are numbered group by group, and all groups share the parameters.
    w1, b1, w2, b2, gamma, shift = (p.to(s.dtype).repeat(s.shape[1] // len(p)) for p in sa)
    a = w2 * gamma * torch.rsqrt(var + eps)
    return [torch.sigmoid(torch.addcmul(b1, w1, s)), a, torch.addcmul(b2, w2, shift) - a * lost]


def attend(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Gate,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> Tensor:
    """Gate x by what its moments give in evaluation; see ``ops``."""
    z_h, z_w, s, mean, lost, var = moments(x, bool(ica), groups)
    axes = axis_gates(z_h, z_w, ica, norm_eps) if ica else (None, None)
    planes = (*plane_gates(s, lost, var, sa, group_eps), mean) if sa else (None,) * 4
    gates: list[Any] = [*axes, beta, *planes, groups, shuffle, residual]
    return mix(x, *gates)


def in_c(x: Tensor) -> bool:
    """Whether the C serves maps like x."""
    return native.LIBRARY is not None and x.dtype in native.TYPES and x.numel() > 0


def _attend(x: Tensor, *others: Any) -> Tensor:
    """Choose the body of ``attend`` by the map."""
    return native.attend(x, *others) if in_c(x) else attend(x, *others)


BODIES: dict[str, Callable[..., Any]] = {
    "moments": moments,
    "mix": mix,
    "mix_backward": mix_backward,
    "moments_backward": moments_backward,
    "attend": _attend,
    "attend_forward": native.attend_forward,
    "attend_backward": native.attend_backward,
}
for _name, _body in BODIES.items():
    torch.library.impl(f"icasa::{_name}", "CPU", torch.no_grad()(_body))
