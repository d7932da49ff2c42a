"""Follow tensors through one forward, to see which modules' outputs reach residual additions."""

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # the path that torch documents

# Operators by their effect on their largest input. A shortcut consists of these two kinds alone.
SCALES = re.compile(
    r"(mul|div|add|sub|clone|copy|_to_copy|reshape|_unsafe_view|lift_fresh|\w*dropout)_?$"
)
PROJECTS = re.compile(r"conv|norm|pool|pad|upsample|slice|^cat|mm$|linear|mean|add_?$|sub_?$")
# Operators whose output has its channels on axis 1, or on the last axis.
CHANNELS_FIRST = re.compile(r"conv|(batch|group|instance)_norm")
CHANNELS_LAST = re.compile(r"^(add)?mm$|^linear$|(layer|rms)_norm")


class Value:
    """The content of a tensor as one operator computed it: a node of the forward's graph."""

    def __init__(self, time: int, operator: str = "", sources: tuple["Value", ...] = ()) -> None:
        self.time = time
        self.operator = operator
        self.sources = sources  # the inputs that depend on the example, largest first
        self.is_data = bool(sources)  # depends on the example, as no parameter or buffer does
        self.learned = False  # is a parameter, or computed from parameters alone
        self.is_layer = False  # is the output of a convolution, linear layer or norm
        self.scales = False  # is its source, times or plus what is smaller or a parameter
        self.channels: tuple[int, int] | None = None  # number and stride, from the last layer on

    def channel_axis(self, tensor: Tensor) -> int | None:
        """Axis of the channels in ``tensor``, a view of this value; None if that cannot be told."""
        sizes = zip(tensor.shape, tensor.stride(), strict=True)
        return next((n for n, size in enumerate(sizes) if n and size == self.channels), None)


class Call(NamedTuple):
    """One call of a module."""

    name: str
    shape: tuple[int, ...]  # of the output; () if that is not one tensor
    axis: int  # of the channels
    value: Value | None
    returns_input: bool
    around: tuple[int, ...]  # start times of the calls in progress


class Residual(NamedTuple):
    """An addition of a shortcut and a main path that contains no such addition itself."""

    block: str  # name of the module that adds
    channels_first: bool
    ends: list[list[Call]]  # on the main path, from its end: calls with one output, outermost first


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record the calls and the residual additions of one forward of a model.

    A tensor is identified by its storage and by the elements of it that it shows. So views, writes
    in place, autograd functions and ``inference_mode`` need no rules of their own. What happens
    inside ``opaque`` modules is left out.
    """

    def __init__(self, model: nn.Module, opaque: tuple[type[nn.Module], ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self.residuals: list[Residual] = []
        self._opaque = opaque
        self._time = 0
        self._frames: list[tuple[str, nn.Module, int, set[Value]]] = []  # name, start, inputs
        self._values: dict[Any, dict[Any, Value]] = defaultdict(dict)  # by storage, by elements
        self._ended: dict[Value, list[Call]] = defaultdict(list)
        self._added: set[Value] = set()
        for parameter in model.parameters():
            self._value(parameter).learned = True
        for name, module in model.named_modules():
            module.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            module.register_forward_hook(partial(self._leave, name))

    def run(self, model: nn.Module, example: tuple[Any, ...]) -> None:
        """Call the model once."""
        for tensor in _tensors(example):
            self._value(tensor).is_data = True
        with torch.no_grad(), self:
            model(*example)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record what it computed from what."""
        inputs = {id(x): x for x in _tensors((args, kwargs or {}))}  # out= may be an input too
        given = [(x, self._value(x)) for x in inputs.values()]
        out = func(*args, **(kwargs or {}))
        name = getattr(getattr(func, "overloadpacket", func), "__name__", str(func))
        writes = name.endswith("_") or "out" in (kwargs or {})  # or it returns an input as it is
        for tensor in _tensors(out):
            if writes or id(tensor) not in inputs:
                self._record(name, given, tensor)
        return out

    def _record(self, name: str, given: list[tuple[Tensor, Value]], out: Tensor) -> None:
        storage, elements = _storage(out), _elements(out)
        written = any(out is x for x, _ in given)
        viewed = [(x, value) for x, value in given if _storage(x) == storage]
        if viewed and not written:
            if elements not in self._values[storage]:
                kind = "slice" if viewed[0][0].shape[1:2] == out.shape[1:2] else "part"
                self._values[storage][elements] = self._compute(kind, viewed[:1], out)
            return
        value = self._compute(name, given, out)
        if name in ("add", "add_"):
            self._add(value, [x for x, v in given if v.is_data], out)
        old = self._values[storage] if written else {}  # a new tensor may reuse a freed storage
        self._values[storage] = {key: self._new("write", v, value) for key, v in old.items()}
        self._values[storage][elements] = value

    def _new(self, operator: str, *sources: Value) -> Value:
        self._time += 1
        return Value(self._time, operator, tuple(v for v in sources if v.is_data))

    def _compute(self, name: str, given: list[tuple[Tensor, Value]], out: Tensor) -> Value:
        inputs = sorted(((x, v) for x, v in given if v.is_data), key=lambda pair: -pair[0].numel())
        value = self._new(name, *(v for _, v in inputs))
        learned = any(v.learned for _, v in given)
        value.learned = learned and not inputs
        if inputs:
            sizes = [x.numel() for x, _ in inputs]
            alone = len(sizes) == 1 or sizes[0] > sizes[1]
            value.scales = bool(SCALES.match(name)) and alone and sizes[0] == out.numel()
            axis = inputs[0][1].channel_axis(inputs[0][0])
            if axis is not None and inputs[0][0].ndim == out.ndim:
                value.channels = out.shape[axis], out.stride(axis)
        for pattern, axis in ((CHANNELS_LAST, -1), (CHANNELS_FIRST, 1)):
            if pattern.search(name) and out.ndim > 1:
                value.is_layer = learned and bool(inputs)
                value.channels = out.shape[axis], out.stride(axis)
        return value

    def _value(self, tensor: Tensor) -> Value:
        known = self._values[_storage(tensor)]
        return known.setdefault(_elements(tensor), Value(self._time))

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = {self._value(x) for x in _tensors((args, kwargs))}
        self._time += 1
        self._frames.append((name, module, self._time, inputs))

    def _leave(self, name: str, module: nn.Module, args: Any, out: Any) -> None:
        _, _, _, inputs = self._frames.pop()
        if any(isinstance(frame[1], self._opaque) for frame in self._frames):
            return
        around = tuple(frame[2] for frame in self._frames)
        if isinstance(out, Tensor):
            value = self._value(out)
            axis = value.channel_axis(out) or 1
            call = Call(name, tuple(out.shape), axis, value, value in inputs, around)
            self._ended[value].append(call)
        else:
            call = Call(name, (), 1, None, False, around)
        self.calls[name].append(call)

    def _add(self, value: Value, terms: list[Tensor], out: Tensor) -> None:
        inside = any(isinstance(frame[1], self._opaque) for frame in self._frames)
        if [x.shape for x in terms] != 2 * [out.shape] or out.ndim < 3 or inside:
            return
        # A module without parameters only adds; the block is around it.
        blocks = (f for f in reversed(self._frames) if any(True for _ in f[1].parameters()))
        block, _, start, _ = next(blocks, ("", None, 0, None))
        if (paths := self._split(value.sources, start)) is not None:
            shortcut, main = paths
            sides = zip(value.sources, terms, strict=True)
            axes = {side: side.channel_axis(term) for side, term in sides}
            axis = axes[shortcut] or axes[main] or 1
            value.channels = out.shape[axis], out.stride(axis)
            self._added.add(value)
            self.residuals.append(Residual(block, axis == 1, list(self._ends(main, start))))

    def _split(self, terms: tuple[Value, ...], start: int) -> tuple[Value, Value] | None:
        """Tell the shortcut of an addition from its main path; None if it has none."""
        for projected in (False, True):
            for shortcut, main in (terms, terms[::-1]):
                for origin, fewest in _origins(shortcut, start, projected):
                    path = _between(origin, main, start)
                    layers = sum(v.is_layer for v in path)
                    linear = all(v.scales or PROJECTS.search(v.operator) for v in path)
                    if layers > fewest and not (projected and linear) and not path & self._added:
                        return shortcut, main
        return None

    def _ends(self, main: Value, start: int) -> Iterator[list[Call]]:
        while main.time >= start:
            calls = [c for c in self._ended[main] if start in c.around and not c.returns_input]
            if calls and not main.scales:
                yield calls[::-1]
            if len(main.sources) != 1 and not main.scales:
                return
            main = main.sources[0]


def _origins(shortcut: Value, start: int, projected: bool) -> Iterator[tuple[Value, int]]:
    """Go back along what a shortcut scales, or projects, and count the layers on the way."""
    layers = 0
    while True:
        yield shortcut, layers
        passes = projected and len(shortcut.sources) == 1 and PROJECTS.search(shortcut.operator)
        if shortcut.time < start or not (shortcut.scales or passes):
            return
        layers += shortcut.is_layer
        shortcut = shortcut.sources[0]


def _between(origin: Value, main: Value, start: int) -> set[Value]:
    """Values of a block on the way from ``origin`` to ``main``; none if there is no such way."""
    while main.scales and main is not origin:
        main = main.sources[0]
    path, reached, todo = set(), False, [] if main is origin else [main]
    while todo:
        value = todo.pop()
        reached |= value is origin
        if value is not origin and value.time >= start and value not in path:
            path.add(value)
            todo += value.sources
    return path if reached else set()


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (tuple, list, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(branch)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()._cdata  # a data_ptr would be 0 for all of the meta device


def _elements(tensor: Tensor) -> tuple[Any, ...]:
    """Offset, strides and sizes, merged so that all views of the same elements have the same."""
    merged = [tensor.storage_offset()]
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if len(merged) > 1 and merged[-2] * merged[-1] == stride:
            merged[-1] *= size
        elif size > 1:
            merged += [stride, size]
    return tuple(merged)
