"""Argument and tensor checks shared by the layers: what was wanted, what came, the mend."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1, numpy's too."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return int(value)


def check_odd_int(name: str, value: int) -> int:
    """Return ``value`` if it is an odd integer of at least 1, so that it has a centre."""
    value = check_positive_int(name, value)
    if value % 2 == 0:
        raise ValueError(
            f"{name} must be odd to keep the length, got {value}; use {value - 1} or {value + 1}"
        )
    return value


def check_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def check_ndim(ndim: int) -> int:
    """Return ``ndim`` if it is 1, 2 or 3, the spatial axes that a layer can have."""
    check_one_of("ndim", check_positive_int("ndim", ndim), (1, 2, 3))
    return ndim


def check_input(layer: Any, x: Tensor) -> None:
    """Raise unless ``x`` is floating (N, C, *S) with the channels and spatial axes of ``layer``."""
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # a trace cannot hold a check and would warn of it
    ndim = getattr(layer, "ndim", 2)
    if x.ndim == ndim + 2 and x.shape[1] == layer.channels and x.is_floating_point():
        return
    wanted = f"(N, {layer.channels}, {('L', 'H, W', 'D, H, W')[ndim - 1]})"
    got = f"{type(layer).__name__} wants x of shape {wanted}, got {tuple(x.shape)}"
    if x.ndim != ndim + 2:
        mends = []
        if x.ndim == ndim + 1:
            mends.append("add the batch axis with x.unsqueeze(0)")
        if hasattr(layer, "ndim") and 3 <= x.ndim <= 5:
            mends.append(f"build the layer with ndim={x.ndim - 2}")
        raise ValueError(f"{got}; {' or '.join(mends) or f'reshape x to {ndim + 2} axes'}")
    if x.shape[1] != layer.channels:
        raise ValueError(
            f"{got}; build the layer with channels={x.shape[1]} "
            "or permute the channel axis to dim 1"
        )
    name = type(layer).__name__
    mend = "take x.real or x.abs()" if x.is_complex() else "call x.float()"
    raise ValueError(f"{name} wants a floating point x, got {x.dtype}; {mend} first")


def check_range(name: str, value: float, low: float, high: float) -> float:
    """Return ``value`` if it is a number in [low, high]."""
    if not isinstance(value, Real) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_per_sample(name: str, value: Tensor, x: Tensor) -> None:
    """Raise unless ``value`` is a tensor with one entry per sample."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} must be a tensor of shape ({len(x)},), got {type(value).__name__}; "
            f"number the ids and wrap them in torch.tensor"
        )
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"{name} must have shape ({len(x)},), one entry per sample, got {tuple(value.shape)}"
        )
    check_same_device(name, value, x)


def check_same_device(name: str, value: Tensor, x: Tensor) -> None:
    """Raise unless ``value`` lies where ``x`` lies."""
    if value.device != x.device:
        raise ValueError(
            f"{name} must lie on x's device {x.device}, got {value.device}; "
            f"call {name}.to(x.device) first"
        )
