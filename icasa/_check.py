"""Argument and tensor checks shared by the layers: what was wanted, what came, the mend."""

from torch import Tensor


def positive_int(name: str, value: int) -> int:
    """Return ``value`` if it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {value!r}")
    return value


def odd_int(name: str, value: int) -> int:
    """Return ``value`` if it is an odd integer of at least 1, so that it has a centre."""
    if positive_int(name, value) % 2 == 0:
        raise ValueError(
            f"{name} must be odd to keep the length, got {value}; use {value - 1} or {value + 1}"
        )
    return value


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise unless ``value`` is among ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def feature_map(layer: str, x: Tensor, channels: int, ndim: int) -> None:
    """Raise unless ``x`` is floating, with ``channels`` channels and ``ndim`` spatial axes."""
    axes = ("L",) if ndim == 1 else ("H", "W") if ndim == 2 else ("D", "H", "W")
    wanted = f"(N, {channels}, {', '.join(axes)})"
    if x.ndim != ndim + 2:
        hint = (
            "add the batch axis with x.unsqueeze(0)"
            if x.ndim == ndim + 1
            else f"or build the layer with ndim={x.ndim - 2}"
            if 3 <= x.ndim <= 5
            else f"reshape it to {ndim + 2} axes"
        )
        raise ValueError(f"{layer} wants x of shape {wanted}, got {tuple(x.shape)}; {hint}")
    if x.shape[1] != channels:
        raise ValueError(
            f"{layer} wants x of shape {wanted}, got {tuple(x.shape)}; "
            f"build the layer with channels={x.shape[1]} or permute the channel axis to dim 1"
        )
    if not x.is_floating_point():
        raise ValueError(f"{layer} wants a floating point x, got {x.dtype}; call x.float() first")
