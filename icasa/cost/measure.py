"""Measurements behind `icasa.cost`: what a model costs with each attention layer in it.

`compare` puts each layer into a copy of a model and measures it against the plain model.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from icasa._check import check_positive_int
from icasa.attention import CA, CBAM, ECA, ICA, ICASA, SA, SE
from icasa.cost.count import macs, saved_bytes
from icasa.cost.latency import Latency, latencies
from icasa.insert import insert_attention

Layer = Callable[[int], nn.Module]  # from channels
PLAIN = "plain"  # the row of the model without a layer
logger = logging.getLogger("icasa.cost")


class Cost(NamedTuple):
    """Cost of the model with one layer, for one batch size on one device; see :func:`compare`."""

    layer: str
    device: str
    batch_size: int
    places: int
    parameters: int
    macs: int
    saved: int
    forward: Latency
    step: Latency | None


def compare(
    model: nn.Module,
    x: Tensor | tuple[Any, ...],
    *,
    layers: Mapping[str, Layer] | None = None,
    where: str | type[nn.Module] = "residual",
    batch_sizes: Sequence[int] | None = None,
    devices: Sequence[torch.device | str] | None = None,
    rounds: int | None = None,
    warmup: int | None = None,
    step: bool = True,
    seed: int = 0,
) -> list[Cost]:
    """Measure ``model`` without attention, and copies of it with each layer.

    :func:`icasa.insert_attention` puts the layers into the copies. In each round every model is
    timed once, in a new random order, by the wall clock, synchronised on CUDA. The ratio to the
    plain model is taken within each round. Section 3.2 of Li et al. 2026 times a batch size of 1
    with ``warmup=100, rounds=1000``.

    Args:
        model: any module; it is not changed.
        x: an input with its batch axis, or a tuple of arguments.
        layers: from a name to a function that builds a layer from its channels. Default: all
            layers of icasa for the number of spatial axes of ``x``, SA and ICASA with
            ``shuffle=False``.
        where: the places, as in :func:`icasa.insert_attention`.
        batch_sizes: ``x`` is repeated or shortened to each size. Default: the size of ``x``.
        devices: for example ``["cpu", "cuda"]``. Default: that of ``x``.
        rounds: timed calls of each model. Default: 30; for slow models as many as fit in half a
            minute, at least 5.
        warmup: untimed calls of each model before, at least 1. Default: 5; for slow models as many
            as fit in 5 seconds.
        step: also measure a training step: a forward in training mode and the backward from the
            mean square of the outputs, without the optimiser. Frozen parameters stay frozen.
        seed: seed of the order.

    Returns:
        A :class:`Cost` for each device, batch size and model, the plain model first. ``macs`` are
        the multiply-accumulates of a forward of the batch, half of the count of torch's
        FlopCounterMode, with PyTorch's operators. ``saved`` is the number of bytes that the forward
        of a step saves for its backward, without parameters and buffers (0 with ``step=False``).

    Raises:
        ValueError: if the model fails on ``x``, if there is no place for a layer, or if a layer
            cannot be built for its place.

    >>> import torch
    >>> from torch import nn
    >>> from icasa import SE
    >>> from icasa.cost import compare
    >>> model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    >>> costs = compare(model, torch.randn(2, 3, 8, 8), layers={"SE": SE}, where="0", rounds=2)
    >>> [(cost.layer, cost.places, cost.parameters, cost.macs) for cost in costs]
    [('plain', 0, 448, 31104), ('SE', 1, 497, 31168)]
    """
    args = x if isinstance(x, tuple) else (x,)
    tensors = [a for a in args if isinstance(a, Tensor) and a.ndim]
    if not tensors:
        got = type(x).__name__
        raise ValueError(f"expected a tensor with a batch axis as x, or a tuple of them, got {got}")
    for name, given in (("rounds", rounds), ("warmup", warmup)):
        check_positive_int(name, 1 if given is None else given)
    sizes = [check_positive_int("batch_sizes", n) for n in batch_sizes or [len(tensors[0])]]
    targets = [_check_device(device) for device in devices or [tensors[0].device]]
    first = next(model.parameters(), tensors[0])
    if layers is None:
        layers = default_layers(max(1, tensors[0].ndim - 2))
    models = _insert(model, _move(args, first.device), layers, where)
    costs = []
    for device in targets:
        for _, net in models.values():
            net.to(device)
        for size in sizes:
            batch = _move(_resize(args, size), device)
            logger.info("%s, batch size %d", device, size)
            forward, saved, steps = _measure(models, batch, device, rounds, warmup, step, seed)
            for name, (count, net) in models.items():
                counts = count, _parameters(net), macs(net, *batch), saved[name]
                row = Cost(name, str(device), size, *counts, forward[name], steps.get(name))
                costs.append(row)
    return costs


def default_layers(ndim: int = 2) -> dict[str, Layer]:
    """Return all layers for ``ndim`` spatial axes by name, SA and ICASA with ``shuffle=False``."""
    shuffled = {"SA": partial(SA, shuffle=False), "ICASA": partial(ICASA, shuffle=False)}
    anywhere: dict[str, Any] = {"ICA": ICA, **shuffled, "CA": CA, "SE": SE}
    made: dict[str, Layer] = {name: partial(layer, ndim=ndim) for name, layer in anywhere.items()}
    if ndim == 2:
        made["ECA"], made["CBAM"] = ECA, CBAM
    return made


def _insert(
    model: nn.Module, args: tuple[Any, ...], layers: Mapping[str, Layer], where: Any
) -> dict[str, tuple[int, nn.Module]]:
    """Return the number of places and a copy of the model, by the layer that was put into it."""
    if PLAIN in layers or not layers:
        raise ValueError(f"expected names of layers other than {PLAIN!r}, got {list(layers)}")
    shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
    plain = copy.deepcopy(model).eval()
    with torch.no_grad():
        _attempt(f"a forward of the model on x of shape {shapes}", partial(plain, *args))
    try:
        places = insert_attention(copy.deepcopy(model), nn.Identity, where=where, example=args)
    except ValueError as error:
        raise ValueError(f"no places for a layer: {error}") from error
    logger.info("places: %s", ", ".join(place.name for place in places))
    models = {PLAIN: (0, plain)}
    for name, layer in layers.items():
        attended = copy.deepcopy(model)
        try:
            places = insert_attention(attended, layer, where=where, example=args)
        except Exception as error:  # whatever the user's layer raises
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            message = f"{name} does not fit: {kind}{error}; leave it out of layers"
            raise ValueError(message) from error
        models[name] = len(places), attended
    return models


def _measure(
    models: Mapping[str, tuple[int, nn.Module]],
    batch: tuple[Any, ...],
    device: torch.device,
    rounds: int | None,
    warmup: int | None,
    step: bool,
    seed: int,
) -> tuple[dict[str, Latency], dict[str, int], dict[str, Latency]]:
    """Return the latency of a forward, the bytes saved and the latency of a step, by model."""
    nets = {name: net.eval() for name, (_, net) in models.items()}

    def clock(what: str, call: Callable[..., Any]) -> dict[str, Latency]:
        runs = {
            name: partial(_attempt, f"the {what} of {name}", partial(call, net, *batch))
            for name, net in nets.items()
        }
        return latencies(runs, what, device=device, rounds=rounds, warmup=warmup, seed=seed)

    with torch.no_grad():
        forward = clock("forward", _forward)
    saved, steps = dict.fromkeys(nets, 0), {}
    if step:
        for net in nets.values():
            net.train()
        steps = clock("step", _step)
        for name, net in nets.items():
            net.zero_grad()
            spared = (*net.parameters(), *net.buffers())
            saved[name] = saved_bytes(partial(net, *batch), spared)
    return forward, saved, steps


def _forward(net: nn.Module, *batch: Any) -> None:
    net(*batch)


def _step(net: nn.Module, *batch: Any) -> None:
    """Forward and backward, where anything needs a gradient."""
    net.zero_grad()
    loss = sum(out.square().mean() for out in _outputs(net(*batch)))
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]


def _outputs(out: Any) -> list[Tensor]:
    """Floating tensors in what a model returns, in dicts and sequences too."""
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() else []
    if isinstance(out, Mapping):
        out = tuple(out.values())
    parts = out if isinstance(out, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _outputs(part)]


def _check_device(name: torch.device | str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (AssertionError, RuntimeError) as error:  # the former where torch has no CUDA
        line = str(error).split("\n")[0]
        raise ValueError(f"expected a device of this machine, got {name!r}: {line}") from error


def _attempt(what: str, run: Callable[[], Any]) -> Any:
    """Run what the user's model computes; whatever it raises is an input that does not fit."""
    try:
        return run()
    except Exception as error:
        line = str(error).strip().split("\n")[0]
        raise ValueError(f"{what} fails: {type(error).__name__}: {line}") from error


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _resize(args: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    """Repeat or shorten every tensor to a batch size."""
    return tuple(
        a[torch.arange(size, device=a.device) % len(a)] if isinstance(a, Tensor) and a.ndim else a
        for a in args
    )


def _move(args: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    return tuple(a.to(device) if isinstance(a, Tensor) else a for a in args)
