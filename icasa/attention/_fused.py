"""The fast path: whether a kernel may stand in for a layer.

A layer's forward asks `run_kernel` first, and computes its equations where that returns None. A
kernel stands in for a layer only while all of it is as its class builds it, which `_operands`
checks. A layer with another part is left to PyTorch as a whole; ``fused=True`` says which part that
is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import Proxy
from torch.nn.modules import module as modules

from icasa import kernels
from icasa._check import check_one_of
from icasa.attention._operands import Operands, PlaneOperands, Refusal, gather

# PyTorch has no public name for this. A version without it has no transforms active.
_transforms = getattr(torch._C, "_are_functorch_transforms_active", bool)
GLOBAL_HOOKS = [
    getattr(modules, f"_global_{kind}_hooks", {})
    for kind in ("forward_pre", "forward", "backward_pre", "backward")
]

PLAIN = (Tensor, nn.Parameter)  # and no subclass


def check_fused(fused: bool | None, ndim: int) -> bool | None:
    """Return a layer's ``fused`` if it is None, False or True, the last with two spatial axes."""
    check_one_of("fused", fused, (None, False, True))
    if fused and ndim != 2:
        raise ValueError(f"expected ndim=2 with fused=True, got ndim={ndim}; use fused=None")
    return fused


def run_kernel(layer: Any, x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return what a layer computes of x by a kernel, or None where PyTorch's operators are to run.

    Raises:
        ValueError: if the layer was built with ``fused=True`` and a kernel may not stand in for it.
    """
    if layer.fused is False or (layer.fused is None and not _is_worthwhile(layer, x)):
        return None
    found = _refuse_input(x, lengths) or gather(layer)
    if not isinstance(found, Refusal):
        found = _refuse_tensors(found, x) or found
    if isinstance(found, Refusal):
        if layer.fused:
            raise ValueError(
                f"{type(layer).__name__} with fused=True expected {found.expected}, "
                f"got {found.got}; {found.hint}, or use fused=None"
            )
        return None
    if layer.fused is None and isinstance(found, Operands) and not kernels.is_faster(x, found.ica):
        return None
    operands: list[Any]
    *operands, norm = found  # not a slice, which older Dynamo does not trace
    compute: Any = kernels.attend if isinstance(found, Operands) else kernels.weigh
    y: Tensor
    y, statistics = compute(x, *operands, norm is not None)
    if norm is not None and statistics is not None:
        _track(norm, *statistics)
    return y


def _is_worthwhile(layer: Any, x: Tensor) -> bool:
    """Whether ``fused=None`` looks for a kernel for x; in this order, as most calls come here."""
    if type(x) not in PLAIN or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    if torch.compiler.is_compiling():
        if kernels.is_exporting():
            return False
    elif kernels.dispatch_modes():
        return False  # what watches PyTorch's operators, as a counter of FLOPs does, is shown these
    if x.ndim != 4 or not kernels.is_faster(x):
        return False
    units = _hidden_units(layer)
    return not units or kernels.net_is_faster(x, units, torch.is_grad_enabled())


def _hidden_units(layer: Any) -> int:
    """Return those of SE, whose number decides whether a kernel pays; 0 of any other layer."""
    modules = layer._modules
    squeeze = None if "conv" in modules else modules.get("squeeze")
    return getattr(squeeze, "out_features", 0)


def _refuse_input(x: Tensor, lengths: Tensor | None) -> Refusal | None:
    """Say what about the input or the call stands in the way."""
    if isinstance(x, Proxy) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return Refusal("no trace by torch.jit or torch.fx", "a trace", "use torch.export")
    if lengths is not None:
        return Refusal("no lengths", "lengths", "leave them out")
    if x.ndim != 4:
        return Refusal("x of shape (N, C, H, W)", tuple(x.shape), "reshape x to 4 axes")
    if x.device.type not in kernels.DEVICES:
        devices = list(kernels.DEVICES)
        return Refusal(f"x on one of {devices}", x.device, "move x (cuda needs triton)")
    if x.dtype not in kernels.TYPES:
        return Refusal(f"x of one of {list(kernels.TYPES)}", x.dtype, "call x.float()")
    if _transforms() or getattr(forward_ad, "_current_level", -1) >= 0:
        return Refusal("no torch.func transform or forward-mode AD", "one", "leave it out")
    if any(GLOBAL_HOOKS):
        return Refusal("no global module hooks", "some", "remove them")
    return None


def _list_tensors(found: Operands | PlaneOperands) -> list[Tensor]:
    """Return all tensors of a layer; no property, which older Dynamo does not trace."""
    if isinstance(found, PlaneOperands):
        return [*found.net, *found.spatial]
    return [*found.ica, *found.sa, *([] if found.beta is None else [found.beta])]


def _refuse_tensors(found: Operands | PlaneOperands, x: Tensor) -> Refusal | None:
    """Say which tensor is not a plain one of x's type and device; autocast takes float32 too."""
    dtype, device = x.dtype, x.device
    if isinstance(found, PlaneOperands) and device.type != "cpu":
        return Refusal("x on the CPU, where alone this layer has a kernel", device, "move x")
    beta = getattr(found, "beta", None)
    for p in _list_tensors(found):
        if p.dtype is dtype and type(p) in PLAIN and p.device == device:
            continue  # as nearly every one, on every call
        mixed = torch.is_autocast_enabled(device.type)
        if type(p) not in PLAIN and not kernels.is_exporting():
            return Refusal("plain parameters", type(p).__name__, "convert them")
        if p.device != x.device:
            return Refusal(f"parameters on {x.device}", p.device, "move the layer or x")
        if p.dtype != x.dtype and p is not beta and not (mixed and p.dtype == torch.float32):
            return Refusal(f"parameters of {x.dtype}", p.dtype, "convert the layer or x")
    return None


@torch.no_grad()
def _track(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics of a BatchNorm towards those of the batch."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    for running, batch in ((norm.running_mean, mean), (norm.running_var, variance)):
        # In the wider type: in half precision a variance may be past what its own type can hold.
        running.copy_(torch.lerp(running.to(batch.dtype), batch, norm.momentum))
