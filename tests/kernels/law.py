"""The law of exactness: how far a fast layer may be from float64, judged group by group.

A group is the loud part of a map, or what is left of it, or a tensor that is no map. Over a group
the largest error, in units of its largest exact value, is at most ten times that of plain torch, or
1e-6 where that is more (in a half-precision type its eps). float64 has no kernel of its own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icasa.attention.sa import channel_shuffle
from tests.kernels.test_layers import insist, outcome
from tests.strategies import lay_out

FLOORS = {torch.float32: 1e-6, **{t: torch.finfo(t).eps for t in (torch.bfloat16, torch.float16)}}


class Inputs(NamedTuple):
    """A map, an incoming gradient, and which elements of the map are loud."""

    x: Tensor
    g: Tensor
    loud: Tensor


def _randn(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _part(axes):
    """Make one index along each of `axes`, a name of each in "nchw", loud."""

    def disturb(x, v, generator):
        loud = torch.ones_like(x, dtype=torch.bool)
        for axis, name in enumerate("nchw"):
            if name in axes:
                index = torch.randint(x.shape[axis], (1,), generator=generator)
                one = torch.zeros(x.shape[axis], dtype=torch.bool)
                one[index] = True
                loud = loud & one.view([-1 if a == axis else 1 for a in range(4)])
        return torch.where(loud, v * (1 + 0.1 * x), x), loud

    return disturb


def _flat(axes):
    """Likewise, all its elements of one value."""

    def disturb(x, v, generator):
        _, loud = _part(axes)(x, v, generator)
        return torch.where(loud, v, x), loud

    return disturb


def _added(axes):
    def disturb(x, v, generator):
        _, loud = _part(axes)(x, v, generator)
        return torch.where(loud, x + v, x), loud

    return disturb


def _heavy(x, v, generator):
    tails = torch.rand(x.shape, generator=generator, dtype=torch.float64).clamp(min=1 / v)
    x = x / tails
    return x, x.abs() > 10


def _ramp(axis):
    def disturb(x, v, generator):
        steps = torch.linspace(0, v, x.shape[axis], dtype=torch.float64)
        x = x + steps.view([-1 if a == axis else 1 for a in range(4)])
        return x, x.abs() > 10

    return disturb


def _offset(x, v, generator):
    return x + v, torch.zeros_like(x, dtype=torch.bool)


def _constant(x, v, generator):
    return torch.full_like(x, v), torch.zeros_like(x, dtype=torch.bool)


DISTURBANCES = {
    "noise": lambda x, v, generator: (x, torch.zeros_like(x, dtype=torch.bool)),
    "heavy tails": _heavy,
    "loud row": _part("h"),
    "loud flat row": _flat("h"),
    "loud offset row": _added("h"),
    "loud row of a plane": _part("nch"),
    "loud column": _part("w"),
    "loud flat column": _flat("w"),
    "loud pixel": _part("nchw"),
    "loud pixel of every plane": _part("hw"),
    "loud sample": _part("n"),
    "loud offset sample": _added("n"),
    "loud channel": _part("c"),
    "loud offset channel": _added("c"),
    "ramp of rows": _ramp(2),
    "ramp of columns": _ramp(3),
    "offset": _offset,
    "constant": _constant,
}


def draw(kind, strength, shape, dtype, seed, layout="contiguous"):
    """Inputs of `shape` with one kind of disturbance of a strength."""
    generator = torch.Generator().manual_seed(seed)
    x, g = _randn(shape, generator), _randn(shape, generator)
    x, loud = DISTURBANCES[kind](x, strength, generator)
    limit = torch.finfo(dtype).max / 4
    x, g = (lay_out(t.to(dtype), layout) for t in (x.clamp(-limit, limit), g))
    return Inputs(x, g, loud)


def groups(name, value, loud, shuffle):
    """Name and mask of each group of a tensor."""
    if name not in ("y", "dx"):
        return {"": torch.ones_like(value, dtype=torch.bool)}
    if name == "y" and shuffle:
        loud = loud | channel_shuffle(loud)
    return {kind: mask for kind, mask in (("quiet", ~loud), ("loud", loud)) if mask.any()}


def ratio(value, exact):
    """Largest error in units of the largest exact value, infinite where there is NaN alone here.

    Infinity stands for every number past what the type can hold.
    """
    limit = torch.finfo(value.dtype).max
    value, exact = (t.double().clamp(-limit, limit) for t in (value, exact))
    error, unit = (value - exact).abs().max().item(), exact.abs().max().item()
    if error == 0 or math.isnan(unit):
        return 0.0
    return error / unit if unit > 0 and not math.isnan(error) else math.inf


def outcomes(layer, inputs):
    """What the fast path, plain torch and float64 make of the inputs."""
    x, g = inputs.x, inputs.g
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    return outcome(insist(layer, True), x, g), outcome(insist(layer, False), x, g), exact


def ratios(layer, inputs):
    """By tensor and group: the ratio of the fast path, that of plain torch, and the floor."""
    shuffle, found = getattr(getattr(layer, "sa", layer), "shuffle", False), {}
    fused, plain, exact = outcomes(layer, inputs)
    for name, value in fused.items():
        if not value.is_floating_point():
            continue
        for group, mask in groups(name, value, inputs.loud, shuffle).items():
            want = exact[name][mask]
            pair = (ratio(tensors[name][mask], want) for tensors in (fused, plain))
            found[f"{name} {group}".strip()] = (*pair, FLOORS[value.dtype])
    return found


def breaches(layer, inputs):
    """What breaks the law: {tensor and group: (its ratio, what is allowed)}.

    Plain torch may be right by luck, above all in a tensor of few elements. So where a group is
    beyond ten times its ratio, this is measured on four inputs next to the given one too. A group
    of which plain torch has no digit right is not judged: it is what far larger terms leave.
    """
    allowed, got = {}, {}
    for name, (fused, plain, floor) in ratios(layer, inputs).items():
        got[name], allowed[name] = fused, max(10 * plain, floor) if plain < 1 else math.inf
    for factor in (1 + 2**-10, 1 - 2**-10, 1 + 2**-8, 1 - 2**-8):
        if any(not got[name] <= allowed[name] for name in got):
            near = inputs._replace(x=inputs.x * factor)
            for name, (_, plain, _) in ratios(layer, near).items():
                allowed[name] = max(allowed[name], 10 * plain)
    return {name: (got[name], allowed[name]) for name in got if not got[name] <= allowed[name]}
