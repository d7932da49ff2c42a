"""Argument and tensor checks of the layers: each message says "expected ..., got ...; hint"."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.fx import Proxy

AXES = {1: "L", 2: "HW", 3: "DHW"}  # names of the spatial axes


def check_positive_int(name: str, value: int) -> int:
    """Return ``value`` as an int if it is an integer of at least 1, numpy's too."""
    return _check_int(name, value, 1)


def check_non_negative_int(name: str, value: int) -> int:
    """Return ``value`` as an int if it is an integer of at least 0, numpy's too."""
    return _check_int(name, value, 0)


def _check_int(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"expected {name} to be an integer >= {least}, got {value!r}")
    return int(value)


def check_odd_int(name: str, value: int) -> int:
    """Return ``value`` if it is an odd integer of at least 1, so that it has a centre."""
    value = check_positive_int(name, value)
    if value % 2 == 0:
        raise ValueError(
            f"expected {name} to be odd, to keep the length, got {value}; "
            f"use {value - 1} or {value + 1}"
        )
    return value


def check_one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {list(allowed)}, got {value!r}")


def check_ndim(ndim: int) -> int:
    """Return ``ndim`` if it is 1, 2 or 3, the spatial axes that a layer can have."""
    check_one_of("ndim", check_positive_int("ndim", ndim), (1, 2, 3))
    return ndim


def check_input(layer: Any, x: Tensor) -> None:
    """Raise unless ``x`` is floating (N, C, *S) with the channels and spatial axes of ``layer``."""
    if isinstance(x, Proxy) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return  # a trace by torch.fx or torch.jit cannot hold a check
    if not isinstance(x, Tensor):
        name, got = type(layer).__name__, type(x).__name__
        raise ValueError(f"{name} expected a tensor x, got {got}; call torch.as_tensor(x) first")
    ndim = getattr(layer, "ndim", 2)
    fits = x.ndim == ndim + 2 and x.shape[1] == layer.channels and x.is_floating_point()
    if fits and 0 not in x.shape[2:]:
        return
    name, axes = type(layer).__name__, AXES[ndim]
    shape = f"(N, {layer.channels}, {', '.join(axes)})"
    error = f"{name} expected x of shape {shape}, got {tuple(x.shape)}"
    if x.ndim != ndim + 2:
        hints = []
        if x.ndim == ndim + 1:
            hints.append("add the batch axis with x.unsqueeze(0)")
        if hasattr(layer, "ndim") and 3 <= x.ndim <= 5:
            hints.append(f"build the layer with ndim={x.ndim - 2}")
        raise ValueError(f"{error}; {' or '.join(hints) or f'reshape x to {ndim + 2} axes'}")
    if x.shape[1] != layer.channels:
        raise ValueError(
            f"{error}; build the layer with channels={x.shape[1]} "
            "or permute the channel axis to dim 1"
        )
    if fits:
        empty = " and ".join(axis for axis, size in zip(axes, x.shape[2:], strict=True) if not size)
        raise ValueError(f"{error} with an empty {empty}; check the pooling or cropping before it")
    hint = "take x.real or x.abs()" if x.is_complex() else "call x.float()"
    raise ValueError(f"{name} expected a floating point x, got {x.dtype}; {hint} first")


def check_range(name: str, value: float, low: float, high: float) -> float:
    """Return ``value`` if it is a number in [low, high]."""
    if not isinstance(value, Real) or not low <= value <= high:
        raise ValueError(f"expected {name} to be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def check_per_sample(name: str, value: Tensor, x: Tensor) -> None:
    """Raise unless ``value`` is a tensor with one entry per sample."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"expected {name} to be a tensor of shape ({len(x)},), got {type(value).__name__}; "
            f"number the ids and wrap them in torch.tensor"
        )
    if value.shape != x.shape[:1]:
        raise ValueError(
            f"expected {name} of shape ({len(x)},), one entry per sample, got {tuple(value.shape)}"
        )
    check_same_device(name, value, x)


def check_same_device(name: str, value: Tensor, x: Tensor, of: str = "x") -> None:
    """Raise unless ``value`` is on the device of ``x``, which the caller knows as ``of``."""
    if value.device != x.device:
        raise ValueError(
            f"expected {name} on {of}'s device {x.device}, got {value.device}; "
            f"call {name}.to({of}.device) first"
        )
