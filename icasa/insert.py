"""Put an attention layer after chosen modules of an existing model, and take it out again."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icasa._places import CHANNEL_FIRST, HANDLE, Place, find_places
from icasa._trace import Trace
from icasa.attention import LAYERS

Layer = Callable[[int], nn.Module]  # from channels
# Methods that fold norms into convolutions, or branches into one.
FUSE = ("fuse", "fuse_model", "forward_fuse", "switch_to_deploy", "reparameterize")


class Insertion(NamedTuple):
    """One layer put in by :func:`insert_attention`: module name, channels, layer, rule.

    The rule says why the place was chosen: ``"addition"`` (a residual addition in a forward of
    ``example``), ``"shortcut"`` (an attribute of the block), ``"name"`` (the name of its class),
    ``"pattern"`` or ``"type"`` (the value of ``where``).
    """

    name: str
    channels: int
    layer: nn.Module
    rule: str


class FadeIn(nn.Module):
    r"""A layer that starts as the identity: :math:`y = x + \gamma\, (f(x) - x)`, γ = 0 at first."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Fade from ``x`` to the layer's output."""
        return x + self.gamma.to(x.dtype) * (self.layer(x) - x)  # type: ignore[no-any-return]

    def no_weight_decay(self) -> set[str]:
        """Names of gamma and of what the layer itself spares."""
        inner = getattr(self.layer, "no_weight_decay", None)
        return {"gamma", *(f"layer.{name}" for name in (inner() if callable(inner) else ()))}


def insert_attention(
    model: nn.Module,
    layer: Layer,
    *,
    where: str | type[nn.Module],
    identity: bool = False,
    example: Tensor | tuple[Any, ...] | None = None,
) -> list[Insertion]:
    """Put a new ``layer(channels)`` after each chosen module of ``model``, in place.

    The layer becomes the module's child ``attention``. A forward hook applies it to the module's
    output. So every old key of the state_dict keeps its name, and an old checkpoint loads with
    ``strict=False``; only the keys of the new layers are missing. In a chosen Sequential, the layer
    goes after its last module.

    ``where="residual"`` puts the layer at the end of the main path of each innermost residual
    block, before the addition: after the last norm in ResNet and MobileNet, after the MLP in
    ConvNeXt. Gates, layer scale and DropPath come after the layer. With ``example``, one forward
    shows which outputs are added. Without ``example``, a block counts as residual if it has an
    attribute for a shortcut (``downsample``, ``shortcut``, ``skip``, ``has_skip``,
    ``use_res_connect``, ..., not False), or else if its class name is like ...ResidualBlock. The
    layer then goes after its last child with a convolution or a norm. ``Insertion.rule`` names the
    rule. Before an addition the channels must keep their order: build SA and ICASA with
    ``shuffle=False``. A module with several names gets one layer, under the first name.

    A hook runs only if its module is called. So convert to SyncBatchNorm and fuse norms before this
    function. Wrap in DistributedDataParallel and make the optimiser after it.

    Args:
        model: any module. If anything fails, it is not changed.
        layer: from channels to a module, for example ``functools.partial(ICASA, shuffle=False)``.
        where: a pattern of qualified names such as ``"layer?.*.bn3"`` (``*`` also matches dots), a
            type of module, or ``"residual"``.
        identity: start as the identity, for pretrained networks: the output is
            x + γ (layer(x) - x) with a learnt γ that starts at 0.
        example: an input of the model, a tensor or a tuple of arguments. One forward of a copy
            shows the residual additions, and the channels of modules that do not name them.

    Returns:
        (name, channels, layer, rule) of each inserted layer, in the model's order.

    Raises:
        ValueError: if no place is found (the message names alternatives), if a place has attention
            already, if its channels are unknown or not on axis 1, or if the layer does not take
            these channels or the number of spatial axes.

    Warns:
        UserWarning: if a layer may be lost when the model fuses its norms, or if no module gives
            the output that a residual addition adds.

    >>> from torch import nn
    >>> from icasa import SE, insert_attention
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    >>> [place[:2] for place in insert_attention(model, SE, where=nn.BatchNorm2d)]
    [('1', 16)]
    """
    trace = None if example is None else _trace(model, example)
    places = find_places(model, where, trace)
    done = [
        Insertion(p.name, p.channels, _build(model, layer, p, identity, trace is not None), p.rule)
        for p in places
    ]
    _warn_of_fusion(model, places)
    for place, (_, _, built, _) in zip(places, done, strict=True):
        target, hook = place.module, _attend_last if place.channels_last else _attend
        target.attention = built
        target.attention_handle = target.register_forward_hook(hook)  # type: ignore[assignment]
    return done


def remove_attention(model: nn.Module) -> list[str]:
    """Remove the layers that :func:`insert_attention` put in; keys and outputs are as before.

    Args:
        model: the module that the layers were put into, or a copy of it.

    Returns:
        Names of the modules whose layer was removed.

    >>> from torch import nn
    >>> from icasa import SE, insert_attention, remove_attention
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    >>> places = insert_attention(model, SE, where="0")
    >>> remove_attention(model)
    ['0']
    """
    holders = {name: module for name, module in model.named_modules() if hasattr(module, HANDLE)}
    for module in holders.values():
        module.attention_handle.remove()
        del module.attention, module.attention_handle
    return list(holders)


def _attend(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    # A function of this file rather than a closure, so that the model still pickles.
    return module.attention(output)  # type: ignore[no-any-return, operator]


def _attend_last(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return module.attention(output.movedim(-1, 1)).movedim(1, -1)  # type: ignore[no-any-return, operator]


def _build(model: nn.Module, layer: Layer, place: Place, identity: bool, traced: bool) -> nn.Module:
    """Make a place's layer, as the module is in device, dtype and mode, and try it."""
    if isinstance(layer, nn.Module):
        got = f"the module {type(layer).__name__}"
        raise ValueError(
            f"expected layer to be a function of the channels, got {got}; give a class"
        )
    try:
        built = layer(place.channels)
    except ValueError as error:
        at = f"the {place.channels} channels of {place.name!r}"
        raise ValueError(f"expected a layer for {at}, got an error: {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"expected layer(channels) to be a module, got {built!r}; give its class")
    owners = (p for m in (place.module, model) for p in m.parameters() if p.is_floating_point())
    like = next(owners, torch.empty(0))
    built.to(like).eval()
    if place.shape is not None and (traced or isinstance(built, LAYERS)):
        _try(built, like.new_zeros(1, *place.shape[1:]), place.name)
    return (FadeIn(built).to(like) if identity else built).train(place.module.training)


def _try(built: nn.Module, x: Tensor, name: str) -> None:
    expected = (
        f"expected a layer that keeps the shape (N, {str(tuple(x.shape[1:]))[1:]} of {name!r}"
    )
    try:
        with torch.no_grad():
            shape = getattr(built(x), "shape", None)
    except Exception as error:
        raise ValueError(f"{expected}, got an error: {error}") from error
    if shape != x.shape:
        raise ValueError(f"{expected}, got {shape and tuple(shape)} from {type(built).__name__}")


def _warn_of_fusion(model: nn.Module, places: Iterable[Place]) -> None:
    """Warn of layers that would be lost with their module, a convolution or norm."""
    for place in places:
        parts = place.name.split(".")
        around = (model.get_submodule(".".join(parts[:n])) for n in range(len(parts)))
        fuses = [type(m).__name__ for m in around if any(hasattr(m, name) for name in FUSE)]
        if fuses and isinstance(place.module, CHANNEL_FIRST):
            kind = type(place.module).__name__
            warnings.warn(
                f"{fuses[-1]} has a method that may fuse {kind} {place.name!r}; the layer "
                "after it would then be lost or moved; choose the whole module around it, "
                "or fuse first",
                stacklevel=3,
            )
            return  # one warning, not one for each block


def _trace(model: nn.Module, example: Any) -> Trace:
    """Follow one forward of a copy without inserted layers, so that nothing changes."""
    if not isinstance(example, (Tensor, tuple)):
        got = type(example).__name__
        raise ValueError(f"expected example to be a tensor or a tuple of arguments, got {got}")
    probe = copy.deepcopy(model).eval()
    remove_attention(probe)
    trace = Trace(probe, LAYERS)
    try:
        trace.run(probe, example if isinstance(example, tuple) else (example,))
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected example to be an input of the model, got {got}") from error
    return trace
