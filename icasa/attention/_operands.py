"""The tensors that a kernel takes of each layer, or why it may not stand in for it.

One rule for every part: it must be as its class builds it, neither replaced, hooked, pruned,
parametrised nor overridden.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from icasa.activation import HSwish
from icasa.conv import DepthwiseSeparableConv

# What a layer's forward computes with.
COMPUTING = ("gates", "_attend", "_squeeze", "_normalise", "beta")
SA_PARAMETERS = ("channel_weight", "channel_bias", "spatial_weight", "spatial_bias")

Shape = tuple[int, int, int]  # of the weight of a convolution


class Operands(NamedTuple):
    """What `kernels.attend` takes of a layer, in its order."""

    ica: Sequence[Tensor] = ()
    sa: Sequence[Tensor] = ()
    beta: Tensor | None = None
    norm_eps: float = 0.0
    group_eps: float = 0.0
    groups: int = 0
    shuffle: bool = False
    residual: bool = False
    norm: nn.BatchNorm1d | None = None  # the BatchNorm, if it takes the statistics of the batch


class PlaneOperands(NamedTuple):
    """What `kernels.weigh` takes of a layer, in its order."""

    net: Sequence[Tensor]
    spatial: Sequence[Tensor] = ()
    eps: float = 0.0
    norm: nn.BatchNorm2d | None = None  # where it takes the statistics of the batch


class Refusal(NamedTuple):
    """Why no kernel may stand in for a layer; `got` is put into words only if it is shown."""

    expected: str
    got: Any
    hint: str = "restore the layer's own part"


def _is_own(cls: type) -> bool:
    """Whether a class is one of this package's layers, which import this file."""
    return cls.__module__.startswith("icasa.attention.")


def gather(layer: Any) -> Operands | PlaneOperands | Refusal:
    """Return the tensors of a layer, if it computes as the class of this package that it is of."""
    cls, state = type(layer), layer.__dict__
    for own in cls.__mro__:  # not by next, which older Dynamo does not trace
        if _is_own(own):
            break
    for name in COMPUTING:
        overridden = cls is not own and getattr(cls, name, None) is not getattr(own, name, None)
        if overridden or name in state:
            return Refusal(f"the {name} of {own.__name__}", f"another on {cls.__name__}")
    return OPERANDS[own.__name__](layer)


def _refuse_part(name: str, module: Any, *classes: type | str) -> Refusal | None:
    """Say that the module ``name`` is of none of the classes, or must be called for its hooks."""
    kind = type(module)
    if kind not in classes and not (kind.__name__ in classes and _is_own(kind)):
        expected = " or ".join(cls if isinstance(cls, str) else cls.__name__ for cls in classes)
        return Refusal(f"{expected} as {name}", f"{module} as {name}")
    hooks = module._forward_pre_hooks or module._forward_hooks or "forward" in module.__dict__
    if hooks or module._backward_pre_hooks or module._backward_hooks:
        return Refusal(f"{name} without hooks", "hooks or another forward", "remove them")
    return None


def _ica_operands(layer: Any) -> Operands | Refusal:
    """Gather those of Eq. 8: a depthwise-separable convolution; then those of `_axis_operands`."""
    reduce = layer._modules["reduce"]
    refused = _refuse_part("reduce", reduce, DepthwiseSeparableConv)
    if refused:
        return refused
    C, M = layer.channels, layer.width
    return _axis_operands(layer, reduce._modules, ((C, 1, layer.kernel_size), (M, C, 1)))


def _ca_operands(layer: Any) -> Operands | Refusal:
    """Gather those of CA as of an ICA whose depthwise convolution changes nothing."""
    C, M = layer.channels, layer.width
    found = _axis_operands(layer, {"reduce": layer._modules["reduce"]}, ((M, C, 1),))
    if isinstance(found, Refusal):
        return found
    weight = found.ica[0]
    depthwise = weight.new_ones((C, 1, 1)), weight.new_zeros(C)
    # Not by _replace, which older Dynamo does not trace.
    return Operands([*depthwise, *found.ica], norm_eps=found.norm_eps, norm=found.norm)


def _axis_operands(layer: Any, reduce: Any, shapes: Sequence[Shape]) -> Operands | Refusal:
    """Gather the convolutions ``reduce``, with weights of ``shapes``, the norm, and Eq. 9 and 10.

    Modules are read from the dicts: an attribute of a module takes ten times as long.
    """
    modules = layer._modules
    norm, expand = modules["norm"], modules["expand"]
    refused = (
        _refuse_part("norm", norm, nn.BatchNorm1d, nn.Identity)
        or _refuse_part("act", modules["act"], HSwish)
        or _refuse_part("expand", expand, nn.ModuleList)
    )
    if refused:
        return refused
    C, M = layer.channels, layer.width
    shapes = (*shapes, (C, M, 1), (C, M, 1))
    convs = {**reduce, **expand._modules}
    if len(convs) != len(shapes):
        return Refusal(f"{len(shapes)} convolutions", list(convs))
    tensors: list[Tensor] = []
    for (name, conv), shape in zip(convs.items(), shapes, strict=True):
        found = _conv_tensors(name, conv, shape)
        if isinstance(found, Refusal):
            return found
        tensors += found
    if type(norm) is nn.Identity:
        return Operands(tensors)
    found = _norm_tensors(norm, M)
    if isinstance(found, Refusal):
        return found
    return Operands([*tensors, *found], norm_eps=norm.eps, norm=norm if norm.training else None)


def _conv_tensors(name: str, conv: Any, shape: Shape) -> list[Tensor] | Refusal:
    """Return weight and bias of a convolution that keeps the length of its axis."""
    refused = _refuse_part(name, conv, nn.Conv1d)
    if refused:
        return refused
    own = conv._parameters
    weight, bias = own.get("weight"), own.get("bias")
    groups = shape[0] if name == "depthwise" else 1
    options = conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    if (
        weight is None
        or bias is None
        or weight.shape != shape
        or options != ((1,), (shape[2] // 2,), (1,), groups, "zeros")
    ):
        return Refusal(f"a convolution of shape {shape} with bias as {name}", f"{conv} as {name}")
    return [weight, bias]


def _norm_tensors(norm: Any, width: int) -> list[Tensor] | Refusal:
    """Return parameters and running statistics of a BatchNorm."""
    own, buffers = norm._parameters, norm._buffers
    found = [own.get("weight"), own.get("bias")]
    found += [buffers.get("running_mean"), buffers.get("running_var")]
    if [None if p is None else p.shape for p in found] != [(width,)] * 4:
        return Refusal(f"norm with parameters and statistics of {width} channels", norm)
    if norm.training and (norm.momentum is None or not norm.track_running_stats):
        return Refusal("norm with a momentum and track_running_stats=True in training", norm)
    return found


def _sa_operands(layer: Any) -> Operands | Refusal:
    """Gather those of Eq. 13 and 14: a weight and a bias for each half, and those of the norm."""
    own, norm = layer._parameters, layer._modules["norm"]
    refused = _refuse_part("norm", norm, "PlaneNorm")
    if refused:
        return refused
    half = layer.channels // (2 * layer.groups)
    tensors = [own.get(name) for name in SA_PARAMETERS]
    tensors += [norm._parameters.get("weight"), norm._parameters.get("bias")]
    for name, p in zip((*SA_PARAMETERS, "norm.weight", "norm.bias"), tensors, strict=True):
        if p is None or p.shape != (half,):
            got = "none (pruned or parametrised)" if p is None else f"shape {tuple(p.shape)}"
            return Refusal(f"a parameter {name} of shape ({half},)", got)
    if not norm.num_groups == norm.num_channels == half:
        return Refusal(f"norm with {half} groups of one channel", norm)
    return Operands((), tensors, None, 0.0, norm.eps, layer.groups, layer.shuffle)


def _icasa_operands(layer: Any) -> Operands | Refusal:
    """Gather those of Eq. 5: those of both branches, and beta."""
    branches: list[Any] = []
    for name in ("ica", "sa"):
        branch = layer._modules[name]
        found = _refuse_part(name, branch, name.upper()) or gather(branch)
        if isinstance(found, Refusal):
            return found
        if (branch.channels, branch.ndim) != (layer.channels, layer.ndim):
            got = f"one for {branch.channels} and ndim={branch.ndim}"
            return Refusal(f"{name} for {layer.channels} channels and ndim=2", got)
        branches.append(found)
    ica, sa = branches
    beta = layer.beta if layer.bounded else layer.raw_beta  # as the property, a call less
    if beta.shape != (1,):
        return Refusal("beta of shape (1,)", f"shape {tuple(beta.shape)}", "give it one element")
    eps = (ica.norm_eps, sa.group_eps)
    return Operands(
        ica.ica, sa.sa, beta, *eps, sa.groups, sa.shuffle, residual=layer.residual, norm=ica.norm
    )


def _se_operands(layer: Any) -> PlaneOperands | Refusal:
    """Two linear maps, from all channels to any number of hidden units and back."""
    tensors: list[Tensor] = []
    for name in ("squeeze", "excite"):
        linear = layer._modules[name]
        refused = _refuse_part(name, linear, nn.Linear)
        if refused:
            return refused
        tensors += [linear._parameters.get("weight"), linear._parameters.get("bias")]
    M = layer._modules["squeeze"].out_features
    shapes = [(M, layer.channels), (M,), (layer.channels, M), (layer.channels,)]
    if [None if p is None else p.shape for p in tensors] != shapes:
        return Refusal(f"squeeze and excite with parameters of shapes {shapes}", layer)
    return PlaneOperands(tensors)


def _cbam_operands(layer: Any) -> PlaneOperands | Refusal:
    """Return those of SE, then a convolution of the maps over the channels and its norm."""
    conv, norm, k = layer._modules["conv"], layer._modules["norm"], layer.kernel_size
    refused = (
        _refuse_part("conv", conv, nn.Conv2d)
        or _refuse_conv(conv, (1, 2, k, k))
        or _refuse_part("norm", norm, nn.BatchNorm2d)
    )
    found = refused or _se_operands(layer)
    tensors = refused or _norm_tensors(norm, 1)
    if isinstance(found, Refusal):
        return found
    if isinstance(tensors, Refusal):
        return tensors
    spatial = [conv._parameters["weight"], *tensors]
    return PlaneOperands(found.net, spatial, norm.eps, norm if norm.training else None)


def _eca_operands(layer: Any) -> PlaneOperands | Refusal:
    """Take a convolution over the channels that keeps their number."""
    conv, k = layer._modules["conv"], layer.kernel_size
    refused = _refuse_part("conv", conv, nn.Conv1d) or _refuse_conv(conv, (1, 1, k))
    return refused or PlaneOperands([conv._parameters["weight"]])


def _refuse_conv(conv: Any, shape: tuple[int, ...]) -> Refusal | None:
    """Say that a convolution without bias does not keep the size of its input."""
    own, axes = conv._parameters, len(shape) - 2
    options = conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    kept = (1,) * axes, (shape[2] // 2,) * axes, (1,) * axes, 1, "zeros"
    weight = own.get("weight")
    if weight is None or weight.shape != shape or own.get("bias") is not None or options != kept:
        return Refusal(f"a convolution of shape {shape} without bias as conv", f"{conv} as conv")
    return None


OPERANDS: dict[str, Callable[[Any], Operands | PlaneOperands | Refusal]] = {
    "CA": _ca_operands,
    "SE": _se_operands,
    "ECA": _eca_operands,
    "CBAM": _cbam_operands,
    "ICA": _ica_operands,
    "SA": _sa_operands,
    "ICASA": _icasa_operands,
}
