"""Draw layers, types, layouts, threads and maps at random, and hold the C to the law of exactness.

``python -m tests.fuzz --cases 500`` counts its cases. Of the first that fails it prints a smaller
one that fails too, with what it breaks: the law (tests/kernels/law.py), or the same bits whatever
the number of threads, with gradients and without. ``--case`` runs a printed one again.
"""

import argparse
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

import icasa
from icasa.kernels import native
from tests.kernels import law
from tests.kernels.test_exact import LOUDEST, put_in
from tests.kernels.test_layers import insist, outcome
from tests.kernels.test_situations import transposed
from tests.strategies import LAYOUTS, lay_out, randomise

CLASSES = {name: getattr(icasa, name) for name in ("CA", "ICA", "SA", "ICASA", "SE", "ECA", "CBAM")}
SIZES = (1, 2, 3, 5, 7, 8, 16, 17, 33, 64, 130, 257)
ELEMENTS = 1 << 16  # of the largest map, which is past native.PARALLEL
OPTIONS: dict[str, tuple[Any, ...]] = {  # the simplest value first
    "reduction": (32, 1, 2, 5),
    "kernel_size": (3, 1, 5, 9),
    "norm": (True, False),
    "groups": (1, 2, 3, 4),
    "shuffle": (False, True),
    "bounded": (False, True),
    "residual": (False, True),
}
TAKEN = {
    "CA": ("reduction",),
    "ICA": ("reduction", "kernel_size", "norm"),
    "SA": ("groups", "shuffle"),
    "ICASA": tuple(OPTIONS),
    "SE": ("reduction",),
    "ECA": ("kernel_size",),
    "CBAM": ("reduction", "kernel_size"),
}

STATELESS = ("SA", "SE", "ECA")  # without a BatchNorm


class Case(NamedTuple):
    """One layer and one map."""

    layer: str
    options: dict[str, Any]
    mode: str
    dtype: str
    shape: tuple[int, int, int, int]
    layout: str
    weights: str
    threads: int
    kind: str
    strength: float
    seed: int


def divisor(layer: str, options: dict[str, Any]) -> int:
    """What the number of channels is a multiple of."""
    return 2 * options.get("groups", 1) if "SA" in layer else 1


def draw(random_: random.Random) -> Case:
    """Any case."""
    layer = random_.choice(list(CLASSES))
    options = {name: random_.choice(OPTIONS[name]) for name in TAKEN[layer]}
    mode = random_.choice(
        ("eval", "train", "frozen") if layer not in STATELESS else ("eval", "train")
    )
    dtype = random_.choice(list(LOUDEST))
    step = divisor(layer, options)
    channels = step * random_.choice((1, 2, 3, 5, 8, 17))
    while True:
        shape = (random_.choice((1, 2, 3, 5, 9)), channels, *random_.choices(SIZES, k=2))
        if torch.Size(shape).numel() <= ELEMENTS:
            break
    kind, strength = random_.choice(list(law.DISTURBANCES)), random_.uniform(0, LOUDEST[dtype])
    name, layout = str(dtype).removeprefix("torch."), random_.choice(LAYOUTS)
    rest = random_.choice((1, 2, 3)), kind, round(10**strength, 3), random_.randrange(10**6)
    weights = random_.choice(("contiguous", "transposed"))
    return Case(layer, options, mode, name, shape, layout, weights, *rest)


def simpler(case: Case) -> Iterator[Case]:
    """Cases that differ in one thing, by a simpler value."""
    for name, value in case.options.items():
        if value != OPTIONS[name][0] and name != "groups":
            yield case._replace(options={**case.options, name: OPTIONS[name][0]})
    for field, value in (
        ("mode", "eval"),
        ("dtype", "float32"),
        ("layout", "contiguous"),
        ("weights", "contiguous"),
        ("threads", 1),
        ("kind", "noise"),
        ("strength", float(f"{case.strength:.0e}")),
    ):
        if getattr(case, field) != value:
            yield case._replace(**{field: value})
    step = divisor(case.layer, case.options)
    for axis, size in enumerate(case.shape):
        for less in {
            step if axis == 1 else 1,
            size // 2 // step * step if axis == 1 else size // 2,
        }:
            if 0 < less < size:
                yield case._replace(shape=(*case.shape[:axis], less, *case.shape[axis + 1 :]))


def failures(case: Case) -> dict[str, Any]:
    """What a case breaks, by name."""
    dtype = getattr(torch, case.dtype)
    layer = CLASSES[case.layer](case.shape[1], dtype=dtype, **case.options)
    layer = put_in(randomise(layer, case.seed), case.mode)
    if case.weights == "transposed":
        layer = transposed(layer)
    inputs = law.draw(case.kind, case.strength, case.shape, dtype, case.seed)
    x, g = (lay_out(t, case.layout) for t in (inputs.x, inputs.g))
    try:
        torch.set_num_threads(case.threads)
        found = law.breaches(layer, inputs._replace(x=x, g=g))
        many = outcome(insist(layer, True), x, g)
        with torch.no_grad():
            bare = insist(layer, True)(x)
        torch.set_num_threads(1)
        one = outcome(insist(layer, True), x, g)
    except Exception as error:  # a fault too, to be shown with its case
        return {"raised": repr(error)}
    pairs = {**{name: (value, one[name]) for name, value in many.items()}, "bare": (bare, one["y"])}
    for name, (a, b) in pairs.items():
        if not torch.equal(a.nan_to_num(), b.nan_to_num()):
            found[f"bits of {name}"] = (a.double() - b.double()).abs().max().item()
    return found


def minimise(case: Case) -> Case:
    """A case that fails, and no simpler one does."""
    for other in simpler(case):
        if failures(other):
            return minimise(other)
    return case


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--cases", type=int, default=500)
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--case", help="a printed case, to be run alone")
    args = flags.parse_args()
    if native.LIBRARY is None:
        raise SystemExit("the C kernels were not compiled at installation: nothing to try")
    if args.case:
        case = eval(args.case, {"Case": Case})
        raise SystemExit(f"{case}\nbreaks {failures(case) or 'nothing'}")
    random_, start = random.Random(args.seed), time.perf_counter()
    for i in range(args.cases):
        case = draw(random_)
        if failures(case):
            small = minimise(case)
            raise SystemExit(f"case {i} of seed {args.seed}: {small}\nbreaks {failures(small)}")
    seconds = time.perf_counter() - start
    print(f"{args.cases} cases of seed {args.seed} hold the law, {seconds:.0f} s")


if __name__ == "__main__":
    main()
