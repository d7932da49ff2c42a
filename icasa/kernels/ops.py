"""The operators behind the fast path: their schemas, and shapes for tracing.

Both passes over a feature map x (N, C, H, W), contiguous, each with its backward, and both with the
small net between them, for evaluation and, on the CPU, with a backward of its own. What is not an
x-sized map has x's statistics dtype, float64 for float64 and float32 for others, and is contiguous.
A size may be 0. Channels have two halves, as SA divides them into G groups: c with
c % (C/G) < C/2G is of the channel half, the others of the spatial half; both are numbered
k = 0 .. C/2 - 1 in the order of c. An output that does not apply has no elements.

``moments(x, axes, groups) -> (z_h, z_w, s, mean, lost, var)``
    With ``axes``, z_h (N, C, H) is the mean over W and z_w (N, C, W) that over H. With ``groups``
    G > 0, s (N, C/2) is the plane mean of the channel half; mean and var (N, C/2) are the plane
    mean and biased variance of the spatial half, and lost (N, C/2) is what mean lost when it was
    rounded: the exact mean is mean + lost. The variance is of centred values.

``mix(x, g_h, g_w, beta, gate, a, b, mean, groups, shuffle, residual) -> y``
    Coordinate part, when g_h (N, C, H) and g_w (N, C, W) are given: u = x * g_h * g_w.
    Shuffle part, when gate, a, b and mean (N, C/2) are given: v = x * gate in the channel half,
    v = x * sigmoid(a * (x - mean) + b) in the spatial half; with ``shuffle`` source channel
    j * C/2 + k then goes to 2k + j.
    y = beta * u + (1 - beta) * v, with beta (1,), or the one part that is given; + x if
    ``residual``. y has x's dtype; it is rounded once.

``mix_backward(g, x, <as mix>) -> (dx, dg_h, dg_w, dbeta, dgate, da, db)``
    Gradients of sum(g * y), g contiguous. That of mean is -a * db.

``moments_backward(dx, x, dz_h, dz_w, ds, dmean, dvar, mean, lost, axes, groups) -> dx'``
    dx' = dx + dz_h / W + dz_w / H + [channel half] ds / HW
    + [spatial half] (dmean + 2 * dvar * (x - mean - lost)) / HW, a new tensor; neither dx nor x
    changes.

``attend(x, ica, sa, beta, norm_eps, group_eps, groups, shuffle, residual) -> y``
    What a layer computes in evaluation: moments, gates, mix. It has no backward. Parameters are of
    any floating type; either list may be empty, and beta (1,) is there when neither is.
    ``ica``, of width M and k taps, neither above `WIDEST`: depthwise weight
    (C, 1, k) and bias (C), pointwise weight (M, C, 1) and bias (M), weight (C, M, 1) and bias (C)
    of the map to each axis, H first, then weight, bias, running mean and running variance (M) of
    the BatchNorm unless there is none. g = sigmoid(F(h_swish(BN(DSConv([z_h, z_w]))))), Eq. 8-10.
    ``sa``, each (C/2G): channel weight and bias, spatial weight and bias, GroupNorm weight and
    bias. gate = sigmoid(W1 s + b1), a = W2 gamma / sqrt(var + eps),
    b = W2 shift + b2 - a * lost, Eq. 13 and 14.

``attend_forward(x, <as attend>, training) -> (y, kept, statistics)``
    ``attend``, where with ``training`` the BatchNorm takes the batch's own mean and variance:
    statistics (2, M) are this mean and the unbiased variance, nothing without. kept is for
    the backward, a vector in an order that the body chooses, of O(N C (H + W)) elements.

``attend_backward(g, x, kept, ica, sa, beta, groups, shuffle, residual, training)
-> (dx, dica, dsa, dbeta)``
    Gradients of sum(g * y), those of the parameters in the statistics dtype. ica is without the
    running statistics.

The last two have a body on the CPU alone, only where its C was compiled, and take no float64 and no
size of 0; wherever they cannot serve, a layer puts itself together from the first four.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WIDEST = 64  # most channels M and taps k that the bodies of `attend` hold in registers
GATES = (
    "Tensor? g_h, Tensor? g_w, Tensor? beta, Tensor? gate, Tensor? a, Tensor? b, Tensor? mean, "
    "int groups, bool shuffle, bool residual"
)
SCHEMAS = {
    "moments": "(Tensor x, bool axes, int groups) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "mix": f"(Tensor x, {GATES}) -> Tensor",
    "mix_backward": f"(Tensor g, Tensor x, {GATES}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "moments_backward": "(Tensor dx, Tensor x, Tensor dz_h, Tensor dz_w, Tensor ds, Tensor dmean, "
    "Tensor dvar, Tensor mean, Tensor lost, bool axes, int groups) -> Tensor",
    "attend": "(Tensor x, Tensor[] ica, Tensor[] sa, Tensor? beta, float norm_eps, "
    "float group_eps, int groups, bool shuffle, bool residual) -> Tensor",
    "attend_forward": "(Tensor x, Tensor[] ica, Tensor[] sa, Tensor? beta, float norm_eps, "
    "float group_eps, int groups, bool shuffle, bool residual, bool training) "
    "-> (Tensor, Tensor, Tensor)",
    "attend_backward": "(Tensor g, Tensor x, Tensor kept, Tensor[] ica, Tensor[] sa, "
    "Tensor? beta, int groups, bool shuffle, bool residual, bool training) "
    "-> (Tensor, Tensor[], Tensor[], Tensor)",
}
for _name, _schema in SCHEMAS.items():
    torch.library.define(f"icasa::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of means, variances and gates for maps of ``dtype``."""
    return torch.promote_types(dtype, torch.float32)


def empty_moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Return the outputs of ``moments``, to be filled."""
    N, C, H, W = x.shape
    none = x.new_empty(0, dtype=statistics_dtype(x.dtype))
    z_h, z_w = (none.new_empty((N, C, n) if axes else 0) for n in (H, W))
    s = none.new_empty((N, C // 2) if groups else 0)
    return z_h, z_w, s, *(torch.empty_like(s) for _ in range(3))


def empty_gate_gradients(x: Tensor, gates: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """Return the outputs of ``mix_backward`` after dx, to be filled, for the gates g_h to b."""
    dtype = statistics_dtype(x.dtype)
    return tuple(x.new_empty((0,) if gate is None else gate.shape, dtype=dtype) for gate in gates)


def empty_kept(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], *options: Any
) -> tuple[Tensor, Tensor]:
    """Return the outputs of ``attend_forward`` after y, to be filled."""
    N, C, H, W = x.shape
    training = options[-1]
    M = len(ica[2]) if ica else 0
    axes = (2 * N * C + N * M) * (H + W) + C + M if ica else 0
    kept = x.new_empty(axes + (7 * (N * C // 2) if sa else 0), dtype=torch.float32)
    return kept, kept.new_empty(2, M if training else 0)


def empty_gradients(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], beta: Tensor | None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the outputs of ``attend_backward`` after dx, to be filled."""
    dica, dsa = ([x.new_empty(p.shape, dtype=torch.float32) for p in part] for part in (ica, sa))
    return dica, dsa, x.new_empty(0 if beta is None else 1, dtype=torch.float32)


def _empty_mix_backward(g: Tensor, x: Tensor, *gates_and_options: Any) -> tuple[Tensor, ...]:
    return (_empty_map(x), *empty_gate_gradients(x, gates_and_options[:6]))


def _empty_map(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


torch.library.register_fake("icasa::moments", empty_moments)
torch.library.register_fake("icasa::mix", _empty_map)
torch.library.register_fake("icasa::mix_backward", _empty_mix_backward)
torch.library.register_fake("icasa::moments_backward", lambda dx, x, *others: _empty_map(x))
torch.library.register_fake("icasa::attend", _empty_map)
torch.library.register_fake(
    "icasa::attend_forward", lambda x, *layer: (_empty_map(x), *empty_kept(x, *layer))
)
torch.library.register_fake(
    "icasa::attend_backward",
    lambda g, x, kept, ica, sa, beta, *options: (
        _empty_map(x),
        *empty_gradients(x, ica, sa, beta),
    ),
)
