"""The process that `benchmarks.compare` keeps for a checkout: it times calls of the icasa there.

It runs in the root of a checkout, any from 645bba3 on, and uses public names of the layers alone. A
line of JSON on stdin is a message, a line of JSON on stdout its answer; it ends with stdin.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import icasa


def answer(**values: Any) -> None:
    """Write a line."""
    print(json.dumps(values), flush=True)


def backend() -> str:
    """Name what serves the CPU, by its name now or by that at 645bba3."""
    kernels: Any = icasa.kernels
    return str((getattr(kernels, "backend", None) or kernels.body)("cpu"))


def gradients(layer: nn.Module, x: Tensor, cotangent: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward: the output, then the gradient of x and of every parameter."""
    x = x.detach().requires_grad_()
    y = layer(x)
    return (y, *torch.autograd.grad(y, (x, *layer.parameters()), cotangent))


def use_path(layer: nn.Module, fused: bool | None) -> nn.Module:
    """Set the path of a layer and of its branches."""
    for module in layer.modules():
        if hasattr(module, "fused"):
            module.fused = fused
    return layer


def error(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Return the largest relative L2 error; a tenth of the largest norm is the least unit."""
    unit = max(e.norm().item() for e in expected) / 10
    pairs = zip(got, expected, strict=True)
    return max(((g.double() - e).norm() / (e.norm() + unit)).item() for g, e in pairs)


def make(
    layer: str, fused: bool | None, train: bool, shape: list[int], channels_last: bool, seed: int
) -> Callable[[], Any]:
    """Build a call, answer its error by float64 and its seconds, and return it."""
    torch.manual_seed(seed)
    module = getattr(icasa, layer)(shape[1]).train(train)
    with torch.no_grad():
        for p in module.parameters():  # off its initial value: a fresh SA would hide a wrong norm
            p.add_(0.3 * torch.randn(p.shape))
    exact = use_path(copy.deepcopy(module).double(), False)
    use_path(module, fused)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, g = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))

    def call(net: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        return gradients(net, *tensors) if train else (net(tensors[0]),)

    wrong = error(call(module, x, g), call(exact, x.double(), g.double()))
    answer(error=wrong, seconds=min(timed(lambda: call(module, x, g), 1) for _ in range(5)))
    return lambda: call(module, x, g)


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of a call, the mean of `repeats` after one that warms the caches."""
    run()
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - begin) / repeats


def main() -> None:
    """Answer until stdin ends."""
    torch.set_num_threads(int(sys.argv[1]))
    answer(icasa=str(icasa.__file__), backend=backend())
    for line in sys.stdin:
        message = json.loads(line)
        if "make" in message:
            options = message["make"]
            torch.set_grad_enabled(options["train"])
            run = make(**options)
        else:
            answer(seconds=timed(run, message["time"]))


if __name__ == "__main__":
    main()
