"""Fast bodies of what ICA, SA and ICASA do to a whole map (N, C, H, W); this is their only door.

A layer is one operator, `attend`, in evaluation without gradients, and on the CPU, where its C
was compiled, one with a backward where it learns. Where these cannot serve, it takes the moments of
x, turns these small tensors into gates by its own submodules, and mixes. Either way this is about 3
passes over x forward and 5 backward, and little more than x is kept for the backward. `ops` says
what the operators compute; `reference`, `native` and `triton` are their bodies.
"""

import importlib.util
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from icasa.kernels import native, reference
from icasa.kernels.layout import in_one_piece
from icasa.kernels.layout import laid_out_as as laid_out_as
from icasa.kernels.ops import WIDEST, statistics_dtype

OPS = torch.ops.icasa
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda") if importlib.util.find_spec("triton") else ("cpu",)
PLAIN = (Tensor, nn.Parameter)  # and no subclass
IN_TORCH = 1 << 18  # elements below which the fast path is no gain where it is in torch calls
# Before torch had is_exporting, an export could not be told from a compilation.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class Net(NamedTuple):
    """What the operator ``attend`` takes of a layer."""

    tensors: Sequence[Tensor | None]  # parameters and running statistics, in the operator's order
    eps: float  # of the norm
    called: Sequence[nn.Module] = ()  # modules whose call the operator skips
    widest: int = 0  # most channels and taps that a body has to hold
    training: nn.BatchNorm1d | None = None  # the norm, where it takes the batch's statistics


NOTHING = Net((), 0.0)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a second derivative; by torch's once_differentiable some are silently wrong."""

    @wraps(backward)
    def refuse_or_run(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError(
                "the fast path has no second derivative, got create_graph=True; "
                "build the layer with fused=False"
            )
        return backward(ctx, *grads)

    return refuse_or_run


class _Moments(torch.autograd.Function):
    """x itself and its moments: the gradient of ``mix`` comes back through x, to be completed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
        z_h, z_w, s, mean, lost, var = OPS.moments(x, axes, groups)
        ctx.save_for_backward(x, mean, lost)
        ctx.options = axes, groups
        ctx.mark_non_differentiable(lost)  # its gradient is part of that of mean
        return x.view_as(x), z_h, z_w, s, mean, lost, var

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, lost = ctx.saved_tensors
        dx, dz_h, dz_w, ds, dmean, _, dvar = (grad.contiguous() for grad in grads)
        given = dx, x, dz_h, dz_w, ds, dmean, dvar, mean, lost
        return OPS.moments_backward(*given, *ctx.options), None, None


class _Mix(torch.autograd.Function):
    """The gated map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *gates_and_options: Any) -> Tensor:
        gates, ctx.options = gates_and_options[:7], gates_and_options[7:]
        ctx.save_for_backward(x, *gates)
        return OPS.mix(x, *gates_and_options)  # type: ignore[no-any-return]

    @staticmethod
    @_once
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *gates = ctx.saved_tensors
        dx, *grads = OPS.mix_backward(g.contiguous(), x, *gates, *ctx.options)
        a, db = gates[4], grads[5]
        grads.append(None if a is None else -a * db)
        given = (None if gate is None else grad for gate, grad in zip(gates, grads, strict=True))
        return dx, *given, None, None, None


class _Attend(torch.autograd.Function):
    """``attend_forward``, from its tensors in a row as `_split` parts them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, counts: Sequence[int], options: Sequence[Any], *row: Tensor
    ) -> tuple[Tensor, Tensor]:
        ica, sa, beta, running = _split(row, counts)
        given = x, [*ica, *running], sa, beta[0] if beta else None
        y, kept, statistics = OPS.attend_forward(*given, *options)
        ctx.save_for_backward(x, kept, *ica, *sa, *beta)
        ctx.mark_non_differentiable(statistics)
        ctx.counts, ctx.options = counts, options[2:]  # without both eps
        return y, statistics

    @staticmethod
    @_once
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, *row = ctx.saved_tensors
        ica, sa, beta, _ = _split(row, ctx.counts)
        given = grads[0].contiguous(), x, kept, ica, sa, beta[0] if beta else None
        dx, dica, dsa, dbeta = OPS.attend_backward(*given, *ctx.options)
        pairs = zip(row, [*dica, *dsa, *[dbeta] * len(beta)], strict=True)
        gradients = [gradient.to(p.dtype) for p, gradient in pairs]
        return dx, None, None, *gradients, *[None] * ctx.counts[3]


def _split(row: Sequence[Tensor], counts: Sequence[int]) -> list[list[Tensor]]:
    """Part a row into ICA's parameters, SA's, beta and the running statistics of ICA's norm."""
    tensors = iter(row)
    return [list(islice(tensors, count)) for count in counts]


def option(fused: bool | None, ndim: int) -> bool | None:
    """Return a layer's ``fused`` if it is None, False or True, the last with two spatial axes."""
    if fused not in (None, False, True):
        raise ValueError(f"fused must be None, False or True, got {fused!r}")
    if fused and ndim != 2:
        raise ValueError(f"fused=True wants ndim=2, got ndim={ndim}; build it with fused=None")
    return fused


def usable(
    x: Tensor,
    lengths: Tensor | None,
    fused: bool | None,
    *called: nn.Module,
    rebuilt: bool = False,
) -> bool:
    r"""Whether a layer takes the fast path for ``x``.

    Args:
        x: the layer's input, (N, C, \*S).
        lengths: valid positions, which the fast path does not know.
        fused: False for never; None where it serves and is known to be no slower, a plain map
            on the CPU that is not being exported or watched by a dispatch mode; True for always.
            Of a map that is not contiguous a copy is taken.
        called: modules whose call the fast path skips, the two branches of ICASA.
        rebuilt: whether one of these, SA's norm or the gates, was replaced by another.

    Raises:
        ValueError: if ``fused`` is True and the fast path cannot serve.
    """
    if fused is False or (fused is None and not _pays(x)):
        return False
    obstacle = _obstacle(x, lengths, called)
    if rebuilt:
        obstacle = "knows its own branches, norm and gates alone, got another; put them back"
    if fused and obstacle:
        raise ValueError(f"fused=True {obstacle}, or build the layer with fused=None")
    if fused and x.is_cuda:
        from icasa.kernels.triton import ops  # noqa: F401 (registers, and is slow to import)
    return not obstacle


def _pays(x: Tensor) -> bool:
    """Whether the fast path is known to be no slower."""
    # On CUDA it must be asked for: the Triton bodies ran in its interpreter, on no device yet.
    if type(x) not in PLAIN or x.is_cuda or is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    # What watches torch's operators, as a counter of FLOPs does, is shown these.
    if not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack():
        return False
    return reference.in_c(x) or in_parts(x, None)


def in_parts(x: Tensor, fused: bool | None) -> bool:
    """Whether to take the fast path by moments and a mix, where `attend` does not serve."""
    return fused is True or (x.numel() >= IN_TORCH and x.is_contiguous())


def _obstacle(x: Tensor, lengths: Tensor | None, called: tuple[nn.Module, ...]) -> str:
    """Say what stands in the way of the fast path, nothing where it is free."""
    if lengths is not None:
        return "wants no lengths, got lengths; leave them out"
    if x.ndim != 4:
        return f"wants x of shape (N, C, H, W), got {tuple(x.shape)}; give it 4 axes"
    if x.device.type not in DEVICES:
        return f"wants x on one of {list(DEVICES)}, got {x.device}; move x (cuda needs triton)"
    if x.dtype not in DTYPES:
        return f"wants x of one of {list(DTYPES)}, got {x.dtype}; call x.float()"
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return "cannot run under torch.func transforms or forward-mode AD, got one; leave it"
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return "cannot be traced by torch.jit, got a trace; use torch.export"
    for module in called:
        if hooked(module) or _has_any_global_hook():  # type: ignore[no-untyped-call]
            return f"does not call {type(module).__name__}, got hooks on it; remove them"
    return ""


def hooked(module: nn.Module) -> bool:
    """Whether a call of the module calls anything but the forward of its class."""
    forward = module._forward_pre_hooks or module._forward_hooks or "forward" in module.__dict__
    return bool(forward or module._backward_pre_hooks or module._backward_hooks)


def own_gates(layer: nn.Module, of: Any) -> bool:
    """Whether the layer's ``gates`` are those of the class ``of``, which the fast path computes."""
    own: Any = type(layer)
    return own.gates is of.gates and "gates" not in layer.__dict__


def _served(x: Tensor, net: Net, mixed: bool) -> bool:
    """Whether the operators compute what the modules of ``net`` would for ``x``.

    With `mixed` precision float32 parameters do for a map of any type, and are taken as they are.
    """
    if net.widest > WIDEST or any(hooked(module) for module in net.called):
        return False
    if net.called and _has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    dtype, device = x.dtype, x.device
    for p in net.tensors:  # a loop, as a generator would take half as long again
        if p is None or type(p) not in PLAIN or p.device != device:
            return False
        if p.dtype != dtype and not (mixed and p.dtype == torch.float32):
            return False
    return True


def moments(x: Tensor, *, axes: bool = False, groups: int = 0) -> tuple[Tensor, ...]:
    """Return x to be given to `mix`, then what the operator ``moments`` does."""
    x = in_one_piece(x)
    if not torch.is_grad_enabled():
        return x, *OPS.moments(x, axes, groups)
    return _Moments.apply(x, axes, groups)  # type: ignore[no-any-return, no-untyped-call]


def attend(
    x: Tensor,
    *,
    ica: Callable[[], Net | None] | None = None,
    sa: Callable[[], Net | None] | None = None,
    beta: Tensor | None = None,
    groups: int = 0,
    shuffle: bool = False,
    residual: bool = False,
) -> Tensor | None:
    """Return what a layer makes of ``x`` by one operator, None where none can serve.

    A layer then calls its submodules.

    Args:
        x: the layer's input.
        ica: says what ICA is made of, or None where the operator does not compute that.
        sa: likewise of SA.
        beta: the weight of ICA, where there are both.
        groups: those of SA.
        shuffle: whether SA shuffles its channels.
        residual: whether x is added.
    """
    mixed, nets = torch.is_autocast_enabled(x.device.type), []
    for branch in (ica, sa):
        net = NOTHING if branch is None else branch()
        if net is None or not _served(x, net, mixed):
            return None
        nets.append(net)
    if beta is not None and (type(beta) not in PLAIN or beta.device != x.device):
        return None
    norm, lists = nets[0].training, [net.tensors for net in nets]
    options = (*[net.eps for net in nets], groups, shuffle, residual)
    learns = norm is not None or torch.is_grad_enabled()
    if learns and (x.is_cuda or not reference.in_c(x) or is_exporting()):
        return None
    x = in_one_piece(x)
    if not learns:
        return OPS.attend(x, *lists, beta, *options)  # type: ignore[no-any-return]
    y, statistics = _learn(x, lists, beta, *options, norm is not None)
    if norm is not None:
        _track(norm, *statistics)
    return y


def _learn(
    x: Tensor, lists: Sequence[Sequence[Any]], beta: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    """Return what ``attend_forward`` does, but for what it keeps for the backward."""
    ica, sa = lists
    if not torch.is_grad_enabled():
        y, _, statistics = OPS.attend_forward(x, ica, sa, beta, *options)
        return y, statistics
    parts = ica[:10], sa, () if beta is None else (beta,), ica[10:]
    counts = [len(part) for part in parts]
    return _Attend.apply(x, counts, options, *chain(*parts))  # type: ignore[no-any-return, no-untyped-call]


@torch.no_grad()
def _track(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics of a norm towards those of a batch."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance)):
        # In the wider type: in half precision a variance may be past what its own type can hold.
        running.copy_(torch.lerp(running.to(now.dtype), now, norm.momentum))


def mix(
    x: Tensor,
    *,
    g_h: Tensor | None = None,
    g_w: Tensor | None = None,
    beta: Tensor | None = None,
    gate: Tensor | None = None,
    a: Tensor | None = None,
    b: Tensor | None = None,
    mean: Tensor | None = None,
    groups: int = 0,
    shuffle: bool = False,
    residual: bool = False,
) -> Tensor:
    """Gate ``x`` by the operator ``mix``, with gates of any floating type."""
    dtype = statistics_dtype(x.dtype)
    gates = (
        gate if gate is None else gate.to(dtype).contiguous()
        for gate in (g_h, g_w, beta, gate, a, b, mean)
    )
    call = _Mix.apply if torch.is_grad_enabled() else OPS.mix
    return call(x, *gates, groups, shuffle, residual)  # type: ignore[no-any-return, no-untyped-call]


def body(device: str) -> str:
    """Name what serves float32 maps on a type of device: "c" or "torch", or "triton"."""
    if device not in DEVICES:
        raise ValueError(f"no body for {device!r}, only for {list(DEVICES)}")
    if device == "cuda":
        return "triton"
    return "torch" if native.LIBRARY is None else "c"
