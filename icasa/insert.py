"""Put an attention layer after chosen modules of an existing model, and take it out again."""

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icasa import attention

Layer = Callable[[int], nn.Module]  # from channels
LAYERS = tuple(getattr(attention, name) for name in attention.__all__)
# Their channels lie on axis 1: every convolution and every batch, instance or group norm of torch.
CHANNEL_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
HANDLE = "attention_handle"  # attribute that marks a module as followed by an inserted layer
# What residual blocks call their shortcut, or the flag for it.
SHORTCUTS = ("downsample", "shortcut", "skip", "skip_connection", "use_res_connect", "has_skip")
ASIDE = (*SHORTCUTS, "se", "attn", "attention")  # children that are not on its main path

CHANNEL_LAST = "has its channels last, not (N, C, ...); choose a convolution or what permutes them"


class Insertion(NamedTuple):
    """One place of :func:`insert_attention`: the module's name, its channels, the new layer."""

    name: str
    channels: int
    layer: nn.Module


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

    The layer becomes the module's child ``attention``, and a forward hook applies it to the output.
    So every old key of the state_dict keeps its name: an old checkpoint loads with
    ``strict=False``, missing the layers' keys alone. A Sequential ends in its last module.

    ``where="residual"`` is the last convolution or channel-first norm registered on the main path
    of each innermost residual block: the norm before the addition in ResNet and MobileNet, the
    depthwise convolution in ConvNeXt. A block has ``downsample``, ``shortcut``, ``skip``,
    ``skip_connection``, ``use_res_connect`` or ``has_skip``, not False, or else a norm and a class
    named ...Block (not ...ConvBlock), ...Bottleneck or ...Residual. The shortcut fixes the order of
    the channels there: give SA and ICASA ``shuffle=False``. A module that the model holds under
    several names gets one layer, under the first.

    A hook needs its module to be called: convert to SyncBatchNorm and fuse norms before this, wrap
    in DistributedDataParallel and make the optimiser after it.

    Args:
        model: any module; it is left as it was if anything fails.
        layer: from channels to a module, for example ``functools.partial(ICASA, shuffle=False)``.
        where: a pattern of qualified names such as ``"layer?.*.bn3"`` (``*`` also crosses dots), a
            type of module, or ``"residual"``.
        identity: start as the identity, for pretrained nets: x + γ (layer(x) - x), γ learnt from 0.
        example: an input of the model, a tensor or a tuple of arguments, to see the channels where
            modules do not name them and to check every place, in one forward of a copy.

    Returns:
        (name, channels, layer) of each place in the model's order.

    Raises:
        ValueError: if nothing matches (the message lists near names), a place has attention
            already, its channels are unknown or not on axis 1, or the layer refuses them.

    >>> from torch import nn
    >>> from icasa import SE
    >>> from icasa.insert import insert_attention
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    >>> [place[:2] for place in insert_attention(model, SE, where=nn.BatchNorm2d)]
    [('1', 16)]
    """
    places = _places(model, where)
    if example is None:
        channels = {name: _declared(name, target) for name, target in places.items()}
    else:
        channels = _traced(model, places, example)
    done = []
    for name, target in places.items():
        built = _build(layer, channels[name], name, identity)
        parameters = (p for m in (target, model) for p in m.parameters() if p.is_floating_point())
        like = next(parameters, torch.empty(0))
        done.append(Insertion(name, channels[name], built.to(like).train(target.training)))
    for target, (_, _, built) in zip(places.values(), done, strict=True):
        target.attention = built
        target.attention_handle = target.register_forward_hook(_attend)  # type: ignore[assignment]
    return done


def remove_attention(model: nn.Module) -> list[str]:
    """Undo :func:`insert_attention`: state_dict and outputs are as before.

    Args:
        model: any module, also a copy of the one that the layers were put into.

    Returns:
        Names of the modules that lost their layer.

    >>> from torch import nn
    >>> from icasa import SE
    >>> from icasa.insert import insert_attention, remove_attention
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


def _build(layer: Layer, channels: int, name: str, identity: bool) -> nn.Module:
    try:
        built = layer(channels)
    except ValueError as error:
        raise ValueError(f"no layer for the {channels} channels of {name!r}: {error}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"layer(channels) must give a module, got {built!r}; give its class")
    return FadeIn(built) if identity else built


def _outside(
    module: nn.Module, prefix: str = "", aside: tuple[str, ...] = ()
) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, without what is inside attention layers or under a name in ``aside``."""
    yield prefix, module
    for child, inner in [] if isinstance(module, LAYERS) else module.named_children():
        if child not in aside and not (child == "attention" and hasattr(module, HANDLE)):
            yield from _outside(inner, f"{prefix}.{child}" if prefix else child, aside)


def _places(model: nn.Module, where: str | type[nn.Module]) -> dict[str, nn.Module]:
    modules = {name: module for name, module in _outside(model) if name}
    known = {type(module).__name__ for module in modules.values()}
    if where == "residual":
        places = _residual_ends(modules)
    elif isinstance(where, str):
        places, known = {n: m for n, m in modules.items() if fnmatchcase(n, where)}, set(modules)
    elif isinstance(where, type) and issubclass(where, nn.Module):
        places = {n: m for n, m in modules.items() if isinstance(m, where)}
    else:
        raise ValueError(f"where must be a pattern, a type of nn.Module or 'residual', got {where}")
    if not places:
        wanted = where if isinstance(where, str) else where.__name__
        near = difflib.get_close_matches(wanted, known, n=5, cutoff=0.3) or sorted(known)[:5]
        raise ValueError(f"where={wanted!r} matches no module of the model; near it: {near}")
    ends = dict(_end(name, module) for name, module in places.items())
    first = {module: name for name, module in reversed(ends.items())}  # of a module's several names
    return {name: module for name, module in ends.items() if first[module] == name}


def _residual_ends(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    ends: dict[str, nn.Module] = {}
    for name, block in modules.items():
        path = list(_outside(block, name, ASIDE))
        if _is_residual(block) and not any(_is_residual(inner) for _, inner in path[1:]):
            ends.update([(n, m) for n, m in path if isinstance(m, CHANNEL_FIRST)][-1:])
    return ends


def _is_residual(module: nn.Module) -> bool:
    flags = [getattr(module, name) for name in SHORTCUTS if hasattr(module, name)]
    if flags:
        return not any(flag is False for flag in flags)
    named = re.search(r"(?<!Conv)Block$|Bottleneck$|Residual$", type(module).__name__)
    return bool(named) and any("Norm" in type(m).__name__ for m in module.modules())


def _end(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Go to the last module of a Sequential, whose output is the same."""
    while type(module).forward is nn.Sequential.forward and module._modules:
        last = next(reversed(module._modules))
        name, module = f"{name}.{last}", module.get_submodule(last)
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise ValueError(f"{name!r} is a container without a last module; choose a module in it")
    if isinstance(module, LAYERS) or hasattr(module, "attention"):
        mend = "call remove_attention(model) first or choose another place"
        raise ValueError(f"{name!r} has attention already; {mend}")
    return name, module


def _declared(name: str, module: nn.Module) -> int:
    if type(module).forward in (nn.Linear.forward, nn.LayerNorm.forward):
        raise ValueError(f"{name!r} {CHANNEL_LAST}")
    for key in ("num_features", "out_channels", "num_channels"):
        value = getattr(module, key, None)
        if isinstance(value, int) and value > 0:
            return value
    raise ValueError(f"{type(module).__name__} {name!r} names no channels; give example=, an input")


def _traced(model: nn.Module, names: Iterable[str], example: Any) -> dict[str, int]:
    """See the channels of each output in one forward of a copy, so that nothing changes."""
    probe = copy.deepcopy(model).eval()
    places = {probe.get_submodule(name): name for name in names}
    channels: dict[str, int] = {}
    last = 0  # width of the last axis where a Linear or LayerNorm ran last

    def record(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal last
        if isinstance(module, (nn.Linear, nn.LayerNorm, *CHANNEL_FIRST)):
            last = 0 if isinstance(module, CHANNEL_FIRST) else output.shape[-1]
        if (name := places.get(module)) is not None:
            shape = tuple(getattr(output, "shape", ()))
            if len(shape) < 3 or name in channels:
                got = f"{shape} twice" if name in channels else shape or type(output).__name__
                raise ValueError(f"{name!r} must give (N, C, ...) once a forward, gave {got}")
            if shape[-1] == last:
                raise ValueError(f"{name!r} {CHANNEL_LAST}, or give an example of another width")
            channels[name] = shape[1]

    for module in probe.modules():
        module.register_forward_hook(record)
    with torch.no_grad():
        probe(*(example if isinstance(example, tuple) else (example,)))
    if idle := [name for name in places.values() if name not in channels]:
        raise ValueError(f"{idle} are not called in a forward, so that no hook can follow them")
    return channels
