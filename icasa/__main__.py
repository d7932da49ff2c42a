"""Environment report: versions, processor, backends, and whether each layer runs a fused kernel.

``python -m icasa`` prints what a bug report should contain.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from icasa import attention
from icasa.environment import environment
from icasa.kernels import backend

CHANNELS = 16
PLAIN = "PyTorch's operators"


class _Operators(TorchFunctionMode):
    """Record the calls of this library's own operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if str(func).startswith("icasa."):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def operators(layer: nn.Module, x: Tensor) -> list[str]:
    """Names of the fused operators that ``layer`` calls for ``x``."""
    seen = _Operators()
    with torch.set_grad_enabled(layer.training), seen:
        layer(x)
    return seen.names


def path(make: Callable[..., nn.Module], device: str, train: bool) -> str:
    """Name the backend that a fresh layer runs on, or say why it uses PyTorch's operators."""
    layer: Any = make(CHANNELS, device=device).train(train)
    x = torch.ones(8, CHANNELS, 56, 56, device=device)
    if not hasattr(layer, "fused"):
        return f"{PLAIN}: this layer has no fused kernel"
    if operators(layer, x):
        return f"fused, backend {backend(device)}"
    layer.fused = True
    try:
        layer(x)
    except ValueError as error:
        return f"{PLAIN}: {error}"
    if backend(device) == "torch":
        return f"{PLAIN}: the C library is missing"
    return f"{PLAIN}: fused=None chooses them here; fused=True uses backend {backend(device)}"


def describe_backend(device: str) -> str:
    """Name the backend of a device, or say why it has none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            name = backend(device)
        except ValueError as error:  # a GPU without triton
            return f"none: {error}"
    if name != "torch":
        return name
    missing = "no C library: none in the wheel for this platform, or no C compiler at installation"
    return f"torch ({caught[0].message if caught else missing})"


def report() -> str:
    """Return the lines of the report, a name and its value each."""
    lines = environment()
    for device in ["cpu", *["cuda"] * torch.cuda.is_available()]:
        lines[f"backend on {device}"] = describe_backend(device)
        for name in attention.__all__:
            layer = getattr(attention, name)
            evaluation, training = (path(layer, device, train) for train in (False, True))
            both = f"{evaluation}; in training {training}"
            lines[f"{name} on {device}"] = evaluation if evaluation == training else both
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report())
