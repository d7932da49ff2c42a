"""Fast bodies of what ICA, SA and ICASA do to a whole map (N, C, H, W); this is their only door.

A layer takes the moments of x, turns these small tensors into gates by its own submodules, and
mixes: about 3 passes over x forward and 5.5 backward, and x alone is kept for the backward. `ops`
says what the operators compute; `cpu` and `triton_ops` are their bodies.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from icasa.kernels import cpu, planes
from icasa.kernels.ops import statistics_dtype

OPS = torch.ops.icasa
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda") if importlib.util.find_spec("triton") else ("cpu",)
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
WORTHWHILE = 1 << 18  # elements below which the torch calls of `cpu` are no gain
# Before torch had is_exporting, an export could not be told from a compilation.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class _Moments(torch.autograd.Function):
    """x itself and its moments: the gradient of ``mix`` comes back through x, to be completed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
        z_h, z_w, s, mean, var = OPS.moments(x, axes, groups)
        ctx.save_for_backward(x, mean)
        ctx.options = axes, groups
        return x.view_as(x), z_h, z_w, s, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean = ctx.saved_tensors
        dx, *small = (grad.contiguous() for grad in grads)
        return OPS.moments_backward(dx, x, *small, mean, *ctx.options), None, None


class _Mix(torch.autograd.Function):
    """The gated map."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *gates_and_options: Any) -> Tensor:
        gates, ctx.options = gates_and_options[:7], gates_and_options[7:]
        ctx.save_for_backward(x, *gates)
        return OPS.mix(x, *gates_and_options)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *gates = ctx.saved_tensors
        dx, *grads = OPS.mix_backward(g.contiguous(), x, *gates, *ctx.options)
        a, db = gates[4], grads[5]
        grads.append(None if a is None else -a * db)
        given = (None if gate is None else grad for gate, grad in zip(gates, grads, strict=True))
        return dx, *given, None, None, None


def option(fused: bool | None, ndim: int) -> bool | None:
    """Return a layer's ``fused`` if it is None, False or True, the last with two spatial axes."""
    if fused not in (None, False, True):
        raise ValueError(f"fused must be None, False or True, got {fused!r}")
    if fused and ndim != 2:
        raise ValueError(f"fused=True wants ndim=2, got ndim={ndim}; build it with fused=None")
    return fused


def usable(x: Tensor, lengths: Tensor | None, fused: bool | None, *called: nn.Module) -> bool:
    r"""Whether a layer takes the fast path for ``x``.

    Args:
        x: the layer's input, (N, C, \*S).
        lengths: valid positions, which the fast path does not know.
        fused: False for never; None where it serves and is known to be no slower, a plain
            contiguous map on the CPU that is not being exported; True for always, with a copy of a
            map in another layout.
        called: modules whose call the fast path skips.

    Raises:
        ValueError: if ``fused`` is True and the fast path cannot serve.
    """
    if fused is False:
        return False
    obstacle = _obstacle(x, lengths, called)
    if fused and obstacle:
        raise ValueError(f"fused=True {obstacle}, or build the layer with fused=None")
    if fused and x.is_cuda:
        from icasa.kernels import triton_ops  # noqa: F401 (registers, and is slow to import)
    if fused or obstacle:
        return not obstacle
    plain = type(x) in (Tensor, nn.Parameter) and x.is_contiguous()
    # On CUDA it must be asked for: the Triton bodies ran in its interpreter, on no device yet.
    quick = not x.is_cuda and (cpu.in_c(x) or x.numel() >= WORTHWHILE)
    return plain and quick and not is_exporting() and x.numel() > 0


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
        if any(getattr(module, hooks) for hooks in HOOKS):
            return f"does not call {type(module).__name__}, got hooks on it; remove them"
    return ""


def moments(x: Tensor, *, axes: bool = False, groups: int = 0) -> tuple[Tensor, ...]:
    """Return x to be given to `mix`, then z_h, z_w, s, mean, var as the operator ``moments``."""
    x = x.contiguous()
    if not torch.is_grad_enabled():
        return x, *OPS.moments(x, axes, groups)
    return _Moments.apply(x, axes, groups)  # type: ignore[no-any-return, no-untyped-call]


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


def laid_out_as(x: Tensor, y: Tensor) -> Tensor:
    """Return contiguous ``y`` in the memory format of ``x``."""
    if not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return y.contiguous(memory_format=torch.channels_last)
    return y


def body(device: str) -> str:
    """Name what serves float32 maps on a type of device: "c" or "torch", or "triton"."""
    if device not in DEVICES:
        raise ValueError(f"no body for {device!r}, only for {list(DEVICES)}")
    if device == "cuda":
        return "triton"
    return "torch" if planes.LIBRARY is None else "c"
