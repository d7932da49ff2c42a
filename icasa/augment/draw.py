"""Random numbers on the device of the batch, from the caller's generator."""

import torch
from torch import Tensor


def uniform(x: Tensor, *shape: int, generator: torch.Generator | None) -> Tensor:
    """Return float32 draws from [0, 1) on x's device."""
    check_generator(x, generator)
    return torch.rand(*shape, generator=generator, device=x.device, dtype=torch.float32)


def integers(draw: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """Return draws from [0, 1) as integers from ``low`` to ``high``, both included."""
    return low + (draw * (high - low + 1)).long()


def check_generator(x: Tensor, generator: torch.Generator | None) -> None:
    """Raise unless the generator, if there is one, is on the device of ``x``."""
    if generator is not None and generator.device.type != x.device.type:
        raise ValueError(
            f"expected generator on x's device {x.device}, got {generator.device}; "
            f"make it with torch.Generator({x.device.type!r})"
        )
