"""The operators: their schemas, what each computes, and their outputs' shapes for tracing.

One family serves ICA, CA, SA and ICASA, another SE, ECA and CBAM; `reference` computes both in
plain PyTorch. A map x is (N, C, H, W); a size may be 0. On the CPU y and dx are in channels_last if
x is, else contiguous.

In the first family channels have two halves, as SA divides them into G groups: c with
c % (C/G) < C/2G is of the channel half, the others of the spatial half; both are numbered
k = 0 .. C/2 - 1 in the order of c.

``attend(x, ica, sa, beta, norm_eps, group_eps, groups, shuffle, residual) -> y``
    What a layer computes in evaluation. It has no backward. Parameters are of any floating type;
    either list may be empty, and beta (1,) is there when neither is.
    ``ica``, of width M and k taps: depthwise weight (C, 1, k) and bias (C), pointwise weight
    (M, C, 1) and bias (M), weight (C, M, 1) and bias (C) of the map to each axis, H first, then
    weight, bias, running mean and running variance (M) of the BatchNorm unless there is none.
    CA has taps of 1. u = x g_h g_w, with g = sigmoid(F(h_swish(BN(DSConv([z_h, z_w]))))), Eq. 6-11.
    ``sa``, each (C/2G): channel weight and bias, spatial weight and bias, GroupNorm weight and
    bias. v = x sigmoid(W1 s + b1) in the channel half, x sigmoid(W2 GN(x) + b2) in the spatial
    half, Eq. 12-14; with ``shuffle`` source channel j * C/2 + k then goes to 2k + j.
    y = beta u + (1 - beta) v (Eq. 5), or the one branch that is given; + x if ``residual``. y has
    the type of x.

``attend_forward(x, <as attend>, training) -> (y, saved, statistics)``
    `attend`, where with ``training`` the BatchNorm takes the batch's own mean and variance:
    statistics (2, M) are this mean and the unbiased variance, nothing without. saved is for the
    backward, tensors that the backend chooses, of O(N C (H + W)) elements.

``attend_backward(g, x, saved, <as attend_forward>) -> (dx, dica, dsa, dbeta)``
    Gradients of sum(g * y). Those of the parameters, like the statistics, are float64 for a
    float64 map and float32 for others. ica and sa are the weights alone, as a bias may have changed
    since the forward; dica and dsa have after the gradient of each weight that of its bias.

The second family is on the CPU alone:

``weigh(x, net, spatial, eps) -> y``
    What a layer computes in evaluation. It has no backward. ``net`` makes a gate of each plane from
    the plane means: of SE and CBAM weight (M, C) and bias (M), weight (C, M) and bias (C) of two
    linear maps with ReLU between, or of ECA weight (1, 1, k) of a convolution over the channels.
    u = x sigmoid(net(mean of x)). ``spatial``, of CBAM alone: weight (1, 2, k, k) of a convolution,
    then weight, bias, running mean and running variance (1) of the BatchNorm. With it
    u = x sigmoid(net(mean of x) + net(max of x)) and, of u over the channels,
    y = u sigmoid(BN(conv([max, mean]))), else y = u. Equal maxima share their gradient, as they do
    in `torch.amax`. y has the type of x.

``weigh_forward(x, net, spatial, eps, training) -> (y, saved, statistics)``
    The same, with training and statistics (2, 1) as in `attend_forward`. saved is for the backward,
    tensors that the backend chooses, of O(N (C + H W)) elements, without ``spatial`` O(N C).

``weigh_backward(g, x, saved, net, spatial, eps, training) -> (dx, dnet, dspatial)``
    Gradients of sum(g * y), as those of `attend_backward`; net and spatial are the weights alone.

What the C promises, for maps of finite numbers and parameters of common size:

- Exactness. Take any part of a map, such as the rows that are not loud: the largest error of y and
  of dx there is at most ten times that of plain PyTorch, relative to the largest exact value there,
  or 1e-6 (in a half-precision type its eps); where PyTorch has no digit right it says nothing. The
  same holds for each parameter's gradient and each running statistic as a whole.
- Range. Up to |x| = 1e36 every result is finite that float32 can hold.
- Infinity and NaN in x reach what they reach in plain PyTorch, no more and no less, and in
  evaluation, forward and backward, no bit of another sample's y and dx. In CBAM they reach the
  gradients of the taps that meet them; a convolution of PyTorch may multiply the padding, too.
- Bits. The same call gives the same bits, with any number of threads, with gradients or without,
  and in evaluation whatever the other samples are. Another instruction set (SSE2, AVX2, AVX-512)
  sums in another order, as plain PyTorch does: they agree as far as the exactness above says.
- A bias may change in place between forward and backward, a weight may not, as in plain PyTorch.

The backends describe the step between the two passes over x by its moments:
    z_h (N, C, H), the mean over W, and z_w (N, C, W), that over H; s (N, C/2), the plane mean of
    the channel half; mean and var (N, C/2), the plane mean and biased variance of the spatial half,
    and mean_lo (N, C/2), what mean lost when it was rounded: the exact mean is mean + mean_lo.
    With a = W2 gamma / sqrt(var + eps) and b = W2 shift + b2 - a mean_lo the gate of Eq. 14 is
    sigmoid(a (x - mean) + b).
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import profiler

from icasa.kernels import native, reference, triton
from icasa.kernels.sizes import check_layer, check_like, check_net, format_of

LAYER = (
    "Tensor[] ica, Tensor[] sa, Tensor? beta, float norm_eps, float group_eps, int groups, "
    "bool shuffle, bool residual"
)
NET = "Tensor[] net, Tensor[] spatial, float eps"
SCHEMAS = {
    "attend": f"(Tensor x, {LAYER}) -> Tensor",
    "attend_forward": f"(Tensor x, {LAYER}, bool training) -> (Tensor, Tensor[], Tensor)",
    "attend_backward": f"(Tensor g, Tensor x, Tensor[] saved, {LAYER}, bool training) "
    "-> (Tensor, Tensor[], Tensor[], Tensor)",
    "weigh": f"(Tensor x, {NET}) -> Tensor",
    "weigh_forward": f"(Tensor x, {NET}, bool training) -> (Tensor, Tensor[], Tensor)",
    "weigh_backward": f"(Tensor g, Tensor x, Tensor[] saved, {NET}, bool training) "
    "-> (Tensor, Tensor[], Tensor[])",
}
for _name, _schema in SCHEMAS.items():
    torch.library.define(f"icasa::{_name}", _schema, tags=torch.Tag.pt2_compliant_tag)
OPS = torch.ops.icasa


def register(device: str, *functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Register operators for a type of device, and return them by name."""
    for function in functions:
        torch.library.impl(f"icasa::{function.__name__}", device)(function)
    return {function.__name__: function for function in functions}


def implement(
    device: str, choose: Callable[[Tensor, Sequence[Tensor]], Any]
) -> dict[str, Callable[..., Any]]:
    """Register the first family for a type of device, and return it by name.

    ``choose`` names the backend for x and the parameters of ICA.
    """

    def attend(x: Tensor, ica: Any, sa: Any, beta: Any, *options: Any) -> Any:
        check_layer(x, ica, sa, beta, options[2], options[3])
        return choose(x, ica).attend(x, ica, sa, beta, *options)

    def attend_forward(x: Tensor, ica: Any, sa: Any, beta: Any, *options: Any) -> Any:
        check_layer(x, ica, sa, beta, options[2], options[3], training=options[5])
        return choose(x, ica).attend_forward(x, ica, sa, beta, *options)

    def attend_backward(
        g: Tensor, x: Tensor, saved: Any, ica: Any, sa: Any, beta: Any, *options: Any
    ) -> Any:
        check_layer(x, ica, sa, beta, options[2], options[3], training=options[5], biases=False)
        check_like("g", g, x, x.shape)
        return choose(x, ica).attend_backward(g, x, saved, ica, sa, beta, *options)

    return register(device, attend, attend_forward, attend_backward)


def on_cpu(x: Tensor, ica: Sequence[Tensor] = ()) -> Any:
    """Return the backend of a map on the CPU: the C where it serves, else plain PyTorch."""
    return native if native.serves(x, ica) else reference


def weigh(x: Tensor, net: Any, spatial: Any, eps: float) -> Any:
    """Check and compute `weigh` on the CPU."""
    check_net(x, net, spatial)
    return on_cpu(x).weigh(x, net, spatial, eps)


def weigh_forward(x: Tensor, net: Any, spatial: Any, eps: float, training: bool) -> Any:
    """Likewise `weigh_forward`."""
    check_net(x, net, spatial, training)
    return on_cpu(x).weigh_forward(x, net, spatial, eps, training)


def weigh_backward(g: Tensor, x: Tensor, saved: Any, net: Any, spatial: Any, *options: Any) -> Any:
    """Likewise `weigh_backward`."""
    check_net(x, net, spatial, options[1], biases=False)
    check_like("g", g, x, x.shape)
    return on_cpu(x).weigh_backward(g, x, saved, net, spatial, *options)


ON_CPU = SimpleNamespace(
    **implement("CPU", on_cpu), **register("CPU", weigh, weigh_forward, weigh_backward)
)
# PyTorch has no public names for these. A version without one for modes has none active; one that
# cannot tell a batch of gradients always goes through the dispatcher.
dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", int)
_functorch = getattr(torch._C, "_functorch", None)
is_batch = getattr(_functorch, "is_legacy_batchedtensor", lambda x: True)
function_modes = getattr(torch._C, "_len_torch_function_stack", int)


def operators(x: Tensor) -> Any:
    """Return the operators, or for a map on the CPU what they call, if nothing watches them.

    A call through the dispatcher takes as long as the gates of a small map. A compiler, a mode
    of torch, a profiler, a subclass of Tensor and a batch of gradients see the operator called.
    """
    watched = (
        torch.compiler.is_compiling()  # first: a compiler cannot trace the others
        or type(x) not in (Tensor, nn.Parameter)
        or is_batch(x)
        or dispatch_modes()
        or function_modes()
        or getattr(profiler, "_is_profiler_enabled", True)
    )
    return OPS if watched or x.device.type != "cpu" else ON_CPU


def _refuse_batch(*args: Any) -> NoReturn:
    raise RuntimeError(
        "expected one gradient at a time for the fast path, got a batch of them "
        "(is_grads_batched=True, a vectorised Jacobian or vmap); build the layer with fused=False"
    )


for _name in ("attend_backward", "weigh_backward"):
    torch.library.impl(f"icasa::{_name}", ("Batched", "FuncTorchBatched"))(_refuse_batch)


def keeps_format(x: Tensor) -> bool:
    """Whether x is in channels_last, and y and dx are to be."""
    return x.device.type != "cuda" and format_of(x) == torch.channels_last


def _fake_attend(x: Tensor, *layer: Any) -> Tensor:
    last = keeps_format(x)
    return torch.empty_like(
        x, memory_format=torch.channels_last if last else torch.contiguous_format
    )


def _fake_forward(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], *others: Any
) -> tuple[Tensor, list[Tensor], Tensor]:
    vector, statistics = native.empty_saved(x, ica, sa, others[-1])
    saved = [torch.empty_like(p) for p in reference.withhold(ica, sa)]
    if native.serves(x, ica):
        saved = [vector]
    elif x.is_cuda and triton.serves(x):
        saved = [*triton.empty_moments(x, bool(ica), others[3]), *saved]
    return _fake_attend(x), saved, statistics.to(reference.statistics_dtype(x.dtype))


def _fake_backward(
    g: Tensor, x: Tensor, saved: Any, ica: Any, sa: Any, beta: Tensor | None, *others: Any
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    return _fake_attend(x), *native.empty_gradients(x, ica, sa, beta)


torch.library.register_fake("icasa::attend", _fake_attend)
torch.library.register_fake("icasa::attend_forward", _fake_forward)
torch.library.register_fake("icasa::attend_backward", _fake_backward)


def _fake_weigh_forward(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    vector, statistics = native.empty_gates(x, net, spatial, training)
    saved = [vector] if native.serves(x) else reference.withhold_net(net, spatial)
    return _fake_attend(x), saved, statistics.to(reference.statistics_dtype(x.dtype))


def _fake_weigh_backward(
    g: Tensor, x: Tensor, saved: Any, net: Any, spatial: Any, *options: Any
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return _fake_attend(x), *native.empty_net(x, net, spatial)


torch.library.register_fake("icasa::weigh", _fake_attend)
torch.library.register_fake("icasa::weigh_forward", _fake_weigh_forward)
torch.library.register_fake("icasa::weigh_backward", _fake_weigh_backward)
