"""What `benchmarks.gpu` checks before it times: operators and layers on a device, by float64.

Each check raises an AssertionError that names the case and the tensor. They run on any device, on
the CPU in the tests of this file.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import double, gradients, use_path
from icasa import ICA, ICASA, SA

OPS = torch.ops.icasa
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROUNDED = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}  # error of a map
MAPS = (  # shape and groups; the row of 4100 is longer than a tile
    ((2, 8, 19, 100), 2),
    ((3, 12, 7, 7), 3),
    ((2, 16, 56, 56), 4),
    ((1, 4, 1, 5), 1),
    ((2, 6, 40, 224), 3),
    ((1, 4, 3, 4100), 2),
    ((65, 2, 1, 1), 1),
)
PARTS = {"ICA": (True, False), "SA": (False, True), "ICASA": (True, True)}
MAKES: dict[str, Callable[[int], nn.Module]] = {
    "ICA": ICA,
    "SA": SA,
    "ICASA": ICASA,
    "ICASA aligned": lambda channels: ICASA(channels, shuffle=False, residual=True),
}


def randomised(layer: nn.Module, seed: int = 0) -> nn.Module:
    """Move every parameter off its initial value: a fresh SA would hide a wrong norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return layer


def same(name: str, got: Sequence[Tensor], again: Sequence[Tensor]) -> None:
    """Raise unless two runs gave the same bits, and none of them memory that nobody wrote."""
    for i, (a, b) in enumerate(zip(got, again, strict=True)):
        if not torch.equal(a, b):  # NaN too, with which new memory is filled
            raise AssertionError(f"{name}, tensor {i}: two runs differ, or are NaN")


def distance(got: Tensor, want: Tensor, unit: float) -> float:
    """Return the norm of got - want over that of want, but at least over `unit`."""
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, wanted {tuple(want.shape)}")
    want = want.detach().double()
    return ((got.detach().double() - want).norm() / want.norm().clamp(min=unit)).item()


def near(name: str, got: Tensor, want: Tensor, tolerance: float, unit: float) -> None:
    """Raise unless got is within `tolerance` of want."""
    error = distance(got, want, unit)
    if not error <= tolerance:  # NaN too
        raise AssertionError(f"{name}: error {error:.2g}, tolerance {tolerance:.2g}")


def check_operator(
    name: str,
    arguments: Sequence[Any],
    device: torch.device,
    tolerances: tuple[float, float],
    unit: float = 1e-3,
) -> None:
    """Compare an operator with its float64 CPU body.

    There is a tolerance for its first result and one for the others, with `unit` as for `near`.
    """

    def run(move: Callable[[Tensor], Tensor]) -> list[Tensor]:
        moved = [move(a) if isinstance(a, Tensor) else a for a in arguments]
        out = getattr(OPS, name)(*moved)
        out = [out] if isinstance(out, Tensor) else list(out)
        if name == "moments":  # what mean lost when it was rounded is the body's own
            out[4] = out[3].double() + out[4]
        return out

    got = run(lambda t: t.to(device))
    same(name, got, run(lambda t: t.to(device)))
    want = run(lambda t: t.cpu().double())
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        near(f"{name}, tensor {i}", a.cpu(), b, tolerances[i > 0], unit if i else 1e-3)


def check_operators(
    shape: Sequence[int], groups: int, dtype: torch.dtype, offset: float, device: torch.device
) -> None:
    """Compare the four operators on one kind of map, for each layer and with each option."""
    N, C, H, W = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def numbers(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x, g = (numbers(*shape) + offset).to(dtype), numbers(*shape).to(dtype)
    mean = OPS.moments(x.double(), False, groups)[3].float()
    exact, rounded = 5e-5, ROUNDED[dtype]
    coordinate = [numbers(N, C, length).sigmoid() for length in (H, W)]
    half = [numbers(N, C // 2) for _ in range(6)]
    for name, (axes, planes) in PARTS.items():
        G = groups if planes else 0
        check_operator("moments", (x, axes, G), device, (exact, exact))
        gates = [*coordinate, torch.tensor([0.3]), half[0].sigmoid(), half[1], half[2], mean]
        given = [axes, axes, name == "ICASA", *[planes] * 4]
        gates = [gate if there else None for gate, there in zip(gates, given, strict=True)]
        for shuffle, residual in ((True, False), (False, True)):
            options = (*gates, G, shuffle and planes, residual)
            check_operator("mix", (x, *options), device, (rounded, rounded))
            unit = 1e-3 + offset  # what the sums of x are made of
            check_operator("mix_backward", (g, x, *options), device, (rounded, exact), unit)
        empty = torch.empty(0)
        small = [numbers(N, C, H), numbers(N, C, W)] if axes else [empty, empty]
        small += [*half[3:], mean, 1e-5 * half[0]] if planes else [empty] * 5
        check_operator("moments_backward", (g, x, *small, axes, G), device, (rounded, rounded))


def lay_out(x: Tensor, layout: str) -> Tensor:
    """Return the values of x in another layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return torch.stack((x, x + 1), dim=-1)[..., 0] if layout == "sliced" else x


def check_layer(
    name: str, train: bool, dtype: torch.dtype, offset: float, layout: str, device: torch.device
) -> None:
    """Compare a fused layer with float64: at most thrice as far from it as eager is."""
    generator = torch.Generator().manual_seed(0)
    eager = use_path(randomised(MAKES[name](24)), fused=False).to(device, dtype).train(train)
    fused = use_path(copy.deepcopy(eager), fused=True)
    x, g = (torch.randn(3, 24, 17, 33, generator=generator).to(device) for _ in range(2))
    x, g = lay_out((x + offset).to(dtype), layout), g.to(dtype)
    want = gradients(double(eager).train(train), x.double(), g.double())
    results = {path: gradients(layer, x, g) for path, layer in (("eager", eager), ("fused", fused))}
    title = f"fused {name}, train={train}, {dtype}, mean {offset:g}, {layout}"
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    if not results["fused"][0].is_contiguous(memory_format=wanted):
        raise AssertionError(f"{title}: not in the memory format of x")
    unit = max(w.norm().item() for w in want[1:]) / 10  # for gradients that should cancel
    slack = ROUNDED[dtype] * (3 + offset / 30)  # x - mean has lost the digits of the mean
    for i, (exact, e, f) in enumerate(zip(want, *results.values(), strict=True)):
        near(f"{title}, tensor {i}", f, exact, slack + 3 * distance(e, exact, unit), unit)
    with torch.no_grad():  # in evaluation the small net is an operator too
        y, eager_y = (path(x) for path in (fused, eager))
    allowed = slack + 3 * distance(eager_y, want[0], unit)
    near(f"{title}, without gradients", y, want[0], allowed, unit)


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield everything to check, by name."""
    for dtype in DTYPES:
        far = 30.0 if dtype == torch.float16 else 1000.0  # float16 sums would overflow
        maps = MAPS if dtype == torch.float32 else MAPS[1:3]  # each compiles 18 kernels
        for (shape, groups), offset in itertools.product(maps, (0.0, far)):
            case = (shape, groups, dtype, offset)
            yield f"operators {case}", partial(check_operators, *case, device)
        # Far from zero, a small net of 16-bit numbers is noise, on whatever path.
        offsets = (0.0, far) if dtype == torch.float32 else (0.0,)
        layouts = ("contiguous", "channels_last", "sliced")
        for options in itertools.product(MAKES, (True, False), (dtype,), offsets, layouts):
            yield f"layer {options}", partial(check_layer, *options, device)
