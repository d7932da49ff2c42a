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


def draw_layer(
    name: str, shape: Sequence[int], groups: int, numbers: Callable[..., Tensor]
) -> tuple[list[Tensor], list[Tensor], Tensor | None]:
    """Draw the parameters of a layer as the operators take them: of ICA, of SA, and beta."""
    C, M, half = shape[1], 8, shape[1] // (2 * groups)
    sizes = [(C, 1, 3), (C,), (M, C, 1), (M,), (C, M, 1), (C,), (C, M, 1), (C,), *[(M,)] * 4]
    ica, sa = PARTS[name]
    coordinate = [0.3 * numbers(*size) for size in sizes] if ica else []
    if ica:
        coordinate[-1] = coordinate[-1].exp()  # a variance
    shuffle = [0.3 * numbers(half) for _ in range(6)] if sa else []
    return coordinate, shuffle, torch.tensor([0.3]) if ica and sa else None


def run_operators(
    g: Tensor, x: Tensor, ica: list[Tensor], sa: list[Tensor], *options: Any
) -> dict[str, list[Tensor]]:
    """Return the outputs of the three operators on one map, by their names."""
    y, saved, statistics = OPS.attend_forward(x, ica, sa, *options)
    dx, dica, dsa, dbeta = OPS.attend_backward(g, x, saved, ica[:10:2], sa[::2], *options)
    return {
        "attend": [OPS.attend(x, ica, sa, *options[:-1])],
        "attend_forward": [y, statistics],
        "attend_backward": [dx, *dica, *dsa, dbeta],
    }


def check_operators(
    shape: Sequence[int], groups: int, dtype: torch.dtype, offset: float, device: torch.device
) -> None:
    """Compare the operators with the CPU in float64 on one kind of map, for each layer."""
    generator = torch.Generator().manual_seed(sum(shape))

    def numbers(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x, g = (numbers(*shape) + offset).to(dtype), numbers(*shape).to(dtype)
    slack = 3 + offset / 30  # x - mean has lost the digits of the mean
    for name, training in itertools.product(PARTS, (True, False)):
        ica, sa, beta = draw_layer(name, shape, groups, numbers)
        options = (1e-5, 1e-5, groups if sa else 0, bool(sa), training, training and bool(ica))

        def run(move: Callable[[Tensor], Tensor]) -> dict[str, list[Tensor]]:
            layer = [move(p) for p in ica], [move(p) for p in sa]  # noqa: B023 (called at once)
            mixed = None if beta is None else move(beta)  # noqa: B023
            return run_operators(move(g), move(x), *layer, mixed, *options)  # noqa: B023

        got, again = (run(lambda t: t.to(device)) for _ in range(2))
        for operator, exact in run(lambda t: t.cpu().double()).items():
            title = f"{operator} of {name}"
            same(title, got[operator], again[operator])
            unit = max(t.norm().item() for t in exact) / 10  # for gradients that should cancel
            for i, (a, b) in enumerate(zip(got[operator], exact, strict=True)):
                tolerance = slack * (5e-5 if i else ROUNDED[dtype])
                near(f"{title}, tensor {i}", a.cpu(), b, tolerance, unit)


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
