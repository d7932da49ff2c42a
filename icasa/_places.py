"""The places of a model that a pattern, a type or ``"residual"`` means."""

import difflib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from icasa._trace import Call, Residual, Trace
from icasa.attention import LAYERS

HANDLE = "attention_handle"  # attribute that marks a module as followed by an inserted layer
# Their channels are on axis 1: every convolution and every batch, instance or group norm of torch.
CHANNEL_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm),
)
# Attributes of residual blocks: the shortcut, or the flag for it.
SHORTCUTS = (
    *("downsample", "shortcut", "skip", "skip_connection", "residual", "use_res_connect"),
    *("has_skip", "apply_residual", "use_residual", "add"),
)
# Children that are not on the main path.
SIDE_BRANCHES = (*SHORTCUTS, "se", "se_block", "se_module", "attn", "attention")
# Class names that say that the input is added. Other blocks, such as DenseNet's, add nothing.
RESIDUAL = re.compile(r"Residual$|Res(idual|[Nn]et)?(Basic)?(Block|Bottleneck|Unit)(V?\d+)?$")
# Class names of blocks of any kind: what holds several is a stage.
BLOCK = re.compile(r"(?<!Drop)(Block|Bottleneck|Layer)(V?\d\w*)?$")
LAYER_TYPES = (*CHANNEL_FIRST, nn.Linear, nn.LayerNorm)

LAST, NO_MODULE = "channels are last", "no module gives what is added alone"
EXAMPLE = "give example=, an input of the model"
GOT_LAST = (
    "got channels on the last axis; choose a convolution or a module that moves them to axis 1"
)


class Place(NamedTuple):
    """Where a layer goes: what :class:`Insertion` needs before there is one."""

    name: str
    module: nn.Module
    channels: int
    rule: str
    shape: tuple[int, ...] | None  # of an output, channels on axis 1; made up without an example
    channels_last: bool = False


def find_places(model: nn.Module, where: str | type[nn.Module], trace: Trace | None) -> list[Place]:
    """Places in the model's order, as a traced forward shows them or as modules declare them."""
    if where == "residual":
        return _residual_by_name(model) if trace is None else _residual_by_trace(model, trace)
    return _matching(model, where, trace)


def _matching(model: nn.Module, where: Any, trace: Trace | None) -> list[Place]:
    """Modules that a pattern of names or a type chooses."""
    modules = {name: module for name, module in _modules(model) if name}
    if isinstance(where, str):
        found = {n: m for n, m in modules.items() if fnmatchcase(n, where)}
        rule, text, known = "pattern", where, set(modules)
    elif isinstance(where, type) and issubclass(where, nn.Module):
        found = {n: m for n, m in modules.items() if isinstance(m, where)}
        rule, text, known = "type", where.__name__, {type(m).__name__ for m in modules.values()}
    else:
        expected = "where to be a pattern of names, a type of nn.Module or 'residual'"
        raise ValueError(f"expected {expected}, got {where!r}")
    if not found:
        near = difflib.get_close_matches(text, known, n=5, cutoff=0.3) or sorted(known)[:5]
        raise ValueError(f"expected where to match a module, got {text!r}; similar names: {near}")
    ends = _first_names(_last_module(*item) for item in found.items())
    if trace is None:
        return [_declared_place(model, n, m, m, rule) for n, m in ends.items()]
    first = {module: name for name, module in model.named_modules()}  # as the trace names them
    return [_seen_place(_only_call(n, trace.calls[first[m]]), m, rule) for n, m in ends.items()]


def _first_names(named: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.Module]:
    """Of a module's several names the first."""
    first: dict[nn.Module, str] = {}
    for name, module in named:
        first.setdefault(module, name)
    return {name: module for module, name in first.items()}


def _declared_place(
    model: nn.Module, name: str, module: nn.Module, last: nn.Module, rule: str
) -> Place:
    """Take the channels and the number of spatial axes from ``last``, a module in the place."""
    channels = _channels_from_attributes(name, last)
    for modules in ([last], model.modules()):
        bases = (base.__name__ for m in modules for base in type(m).__mro__)
        axes = {int(base[-2]) for base in bases if base[-2:] in ("1d", "2d", "3d")}
        if len(axes) == 1:
            return Place(name, module, channels, rule, (1, channels, *[8] * axes.pop()))
    return Place(name, module, channels, rule, None)


def _channels_from_attributes(name: str, module: nn.Module) -> int:
    if type(module).forward in (nn.Linear.forward, nn.LayerNorm.forward):
        raise ValueError(f"expected (N, C, ...) from {name!r}, {GOT_LAST}")
    for key in ("num_features", "out_channels", "num_channels"):
        value = getattr(module, key, None)
        if isinstance(value, int) and value > 0:
            return value
    kind = type(module).__name__
    raise ValueError(f"expected a module that names its channels, got {kind} {name!r}; {EXAMPLE}")


def _only_call(name: str, calls: list[Call]) -> Call:
    if len(calls) == 1 and len(calls[0].shape) >= 3:
        return calls[0]._replace(name=name)
    got = [call.shape or "no single tensor" for call in calls] or "no call"
    hint = "choose a module that is called once in a forward and returns one tensor"
    raise ValueError(f"expected one output (N, C, ...) of {name!r}, got {got}; {hint}")


def _seen_place(call: Call, module: nn.Module, rule: str) -> Place:
    """Take the channels from a call; only before an addition may they be last."""
    last = call.axis != 1
    if last and (rule != "addition" or call.axis != len(call.shape) - 1):
        raise ValueError(f"expected (N, C, ...) from {call.name!r}, {GOT_LAST}")
    batch, *axes = call.shape
    shape = (batch, axes.pop(call.axis - 1), *axes)
    return Place(call.name, module, shape[1], rule, shape, last)


def _residual_by_name(model: nn.Module) -> list[Place]:
    """Find the blocks that an attribute or their class name calls residual, and their ends."""
    places: dict[nn.Module, Place] = {}
    for name, block in _modules(model):
        rule = _rule(block)
        inner = list(_modules(block, name, SIDE_BRANCHES))[1:]
        if rule and not any(_rule(module) for _, module in inner):
            place = _end_by_registration(model, name, block, rule)
            places.setdefault(place.module, place)
    if not places:
        expected = (
            "expected residual blocks with an attribute for the shortcut or a known class name"
        )
        hint = f"{EXAMPLE}, to see its additions, or {_alternatives(model)}"
        raise ValueError(f"{expected}, got none in {type(model).__name__}; {hint}")
    return list(places.values())


def _rule(block: nn.Module) -> str | None:
    """Say what tells that a block is residual, if anything does."""
    if type(block).forward in (nn.Sequential.forward, nn.Module.forward):
        return None  # containers add nothing themselves
    flags = {name: getattr(block, name) for name in SHORTCUTS if hasattr(block, name)}
    flags = {n: f for n, f in flags.items() if f is None or isinstance(f, (bool, nn.Module))}
    # downsample=False is an identity for a shortcut; the other flags say that there is none.
    if any(flag is False and name != "downsample" for name, flag in flags.items()):
        return None
    if set(flags) == {"downsample"} and any(
        BLOCK.search(type(m).__name__) for _, m in list(_modules(block, "", SIDE_BRANCHES))[1:]
    ):
        return None  # a stage of blocks, and a layer between stages
    if flags:
        return "shortcut"
    return "name" if RESIDUAL.search(type(block).__name__) else None


def _end_by_registration(model: nn.Module, name: str, block: nn.Module, rule: str) -> Place:
    """Last child with layers, whole, so that it survives a fusion of the norm in it."""
    end, last = None, None
    for child, module in block.named_children():
        layers = [m for _, m in _modules(module) if isinstance(m, LAYER_TYPES)]
        if layers and child not in SIDE_BRANCHES:
            end, last = (f"{name}.{child}" if name else child, module), layers[-1]
    if end is None or not isinstance(last, CHANNEL_FIRST):
        expected = f"expected a convolution or channel-first norm at the end of {name!r}"
        got = f"{type(last).__name__}, whose channels may be last" if last else "no layer"
        hint = f"{EXAMPLE}, to see its additions, or {_alternatives(model)}"
        raise ValueError(f"{expected} ({type(block).__name__}), got {got}; {hint}")
    return _declared_place(model, *_last_module(*end), last, rule)


def _alternatives(model: nn.Module) -> str:
    """Values for ``where`` that fit the model."""
    found = [(n, type(m).__name__) for n, m in _modules(model) if isinstance(m, CHANNEL_FIRST)]
    if not found:
        return "choose a model with convolutions"
    kind = Counter(kind for _, kind in found).most_common(1)[0][0]
    return f"give where=, a type such as {kind} or a pattern of names such as {found[-1][0]!r}"


def _residual_by_trace(model: nn.Module, trace: Trace) -> list[Place]:
    """Find the ends of the main paths that reach a residual addition in a forward."""
    modules = {name: module for name, module in _modules(model) if name}
    places: dict[str, Place] = {}
    left: dict[str, list[str]] = {LAST: [], NO_MODULE: []}
    for residual in trace.residuals:
        if not residual.channels_first:
            left[LAST].append(residual.block)
        elif (call := _end_of_path(residual, modules, trace)) is None:
            left[NO_MODULE].append(residual.block)
        else:
            places[call.name] = _seen_place(call, modules[call.name], "addition")
    skipped = [f"{len(names)} ({why}: {names[0]!r})" for why, names in left.items() if names]
    if not places:
        got = " and ".join(skipped or ["none"])
        expected = (
            f"expected residual additions of (N, C, ...), got {got} in {type(model).__name__}"
        )
        raise ValueError(f"{expected}; {_alternatives(model)}")
    if skipped:
        text = " and ".join(skipped)
        warnings.warn(f"residual additions without a layer: {text}", stacklevel=4)
    return [places[name] for name in modules if name in places]


def _end_of_path(residual: Residual, modules: dict[str, nn.Module], trace: Trace) -> Call | None:
    """Find the outermost module at the end of a main path whose other calls end one as well."""
    ends = {r.ends[0][0].value for r in trace.residuals if r.ends}
    traced = {modules[name]: calls for name, calls in trace.calls.items() if name in modules}
    for calls in residual.ends:
        for name in (call.name for call in calls if call.name in modules):
            own = traced[_last_module(name, modules[name])[1]]
            if len(own) == 1 or ends.issuperset(call.value for call in own):
                return own[0]
    return None


def _modules(
    module: nn.Module, prefix: str = "", skip: tuple[str, ...] = ()
) -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, without what is inside attention layers or under a name in ``skip``."""
    yield prefix, module
    for child, inner in [] if isinstance(module, LAYERS) else module.named_children():
        if child not in skip and not (child == "attention" and hasattr(module, HANDLE)):
            yield from _modules(inner, f"{prefix}.{child}" if prefix else child, skip)


def _last_module(name: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Go to the last module of a Sequential, whose output is the same."""
    while type(module).forward is nn.Sequential.forward and module._modules:
        last = next(reversed(module._modules))
        name, module = f"{name}.{last}", module.get_submodule(last)
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        got = f"the container {type(module).__name__}"
        raise ValueError(
            f"expected a module with an output at {name!r}, got {got}; choose one in it"
        )
    if isinstance(module, LAYERS) or hasattr(module, "attention"):
        hint = "call remove_attention(model) first or choose another place"
        raise ValueError(
            f"expected {name!r} without attention, but it has attention already; {hint}"
        )
    return name, module
