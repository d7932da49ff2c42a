"""Convert weights between icasa's layers and the official ones or timm's: renamed and reshaped."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from icasa._check import check_one_of
from icasa.attention import CA, CBAM, ECA, LAYERS, SA, SE

FIXED = {"ndim": 2, "shuffle": True}  # options that no peer has otherwise
Layer = TypeVar("Layer", bound=nn.Module)
Shape = tuple[int, ...]
Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Peer:
    name: str
    keys: Mapping[str, str]  # our submodule or parameter -> theirs
    conv2d: bool = True  # whether its linear maps are 1x1 convolutions
    biases: tuple[str, ...] = ()  # ours that the peer may lack: all of them or none
    bias: bool = True  # whether the peer has them by default
    swapped: str = ""  # our weight whose two input maps stand in the other order there
    momentum: float | None = None  # of the norm, where it is not ours

    def key(self, ours: str) -> str:
        module, _, leaf = ours.rpartition(".")
        if ours not in self.keys and module not in self.keys:
            raise ValueError(
                f"{self.name} expected the keys of a plain layer, got {ours}; "
                f"remove parametrizations first"
            )
        return self.keys.get(ours) or f"{self.keys[module]}.{leaf}"

    def shape(self, ours: str, shape: Shape) -> Shape:
        if "." not in ours:  # the gates of SA
            return (1, *shape, 1, 1)
        return (*shape, 1, 1)[:4] if self.conv2d and len(shape) > 1 else shape


_SA = {"channel_weight": "cweight", "channel_bias": "cbias", "norm": "gn"}
_SA |= {"spatial_weight": "sweight", "spatial_bias": "sbias"}
_CA = {"reduce": "conv1", "norm": "bn1", "expand.0": "conv_h", "expand.1": "conv_w"}
_CA_BIASES = ("reduce.bias", "expand.0.bias", "expand.1.bias")
_CBAM = {"squeeze": "ChannelGate.mlp.1", "excite": "ChannelGate.mlp.3"}
_CBAM |= {"conv": "SpatialGate.spatial.conv", "norm": "SpatialGate.spatial.bn"}
_CBAM_TIMM = {"squeeze": "channel.fc1", "excite": "channel.fc2"}
_CBAM_TIMM |= {"conv": "spatial.conv.conv", "norm": "spatial.conv.bn"}
_MLP_BIASES = ("squeeze.bias", "excite.bias")
# Source -> our layer -> its peer there.
PEERS: dict[str, dict[type[nn.Module], _Peer]] = {
    "official": {
        SA: _Peer("sa_layer", _SA),
        CA: _Peer("CoordAtt", _CA),
        CBAM: _Peer("CBAM", _CBAM, conv2d=False),
        ECA: _Peer("eca_layer", {"conv": "conv"}, conv2d=False),
    },
    "official_mbv2": {
        CA: _Peer("CoordAtt", {**_CA, "expand.0": "conv2", "expand.1": "conv3"}),
    },
    "timm": {
        SE: _Peer("SEModule", {"squeeze": "fc1", "excite": "fc2"}, biases=_MLP_BIASES),
        ECA: _Peer("EcaModule", {"conv": "conv"}, conv2d=False),
        CBAM: _Peer("CbamModule", _CBAM_TIMM, True, _MLP_BIASES, False, "conv.weight", 0.1),
        CA: _Peer("CoordAttn", _CA, biases=_CA_BIASES, bias=False),
    },
}
# Our layer -> what its peers' weights show: quantity -> (our key, axis of their shape).
SHOWN: dict[type[nn.Module], dict[str, tuple[str, int]]] = {
    SA: {"half": ("channel_weight", 1)},
    CA: {"channels": ("reduce.weight", 1), "width": ("reduce.weight", 0)},
    SE: {"channels": ("squeeze.weight", 1), "width": ("squeeze.weight", 0)},
    ECA: {"kernel_size": ("conv.weight", 2)},
}
SHOWN[CBAM] = {**SHOWN[SE], "kernel_size": ("conv.weight", 3)}


class _Entry(NamedTuple):
    """One tensor of a model as its source has it."""

    key: str
    shape: Shape
    peer: _Peer | None = None  # None outside our layers
    swapped: bool = False
    biases: frozenset[str] = frozenset()  # all that their layer has, for one that it may lack


def _peer(layer: type[nn.Module], source: str) -> tuple[type[nn.Module], _Peer]:
    check_one_of("source", source, tuple(PEERS))
    for ours, peer in PEERS[source].items():
        if issubclass(layer, ours):
            return ours, peer
    has, name = ", ".join(ours.__name__ for ours in PEERS[source]), layer.__name__
    fits = [s for s, peers in PEERS.items() if any(issubclass(layer, ours) for ours in peers)]
    raise ValueError(
        f"source {source!r} expected one of {has}, got {name}; sources that have it: {fits}"
    )


def _entries(model: nn.Module, source: str) -> dict[str, _Entry]:
    """Map each key of ``model`` to that tensor at the source."""
    entries = {key: _Entry(key, tuple(v.shape)) for key, v in model.state_dict().items()}
    layers = [m for m in model.named_modules(remove_duplicate=False) if isinstance(m[1], LAYERS)]
    if not layers:
        raise ValueError(f"expected a model with a layer of icasa, got {type(model).__name__}")
    for name, layer in layers:
        peer, own = _peer(type(layer), source)[1], layer.state_dict()
        for option, value in FIXED.items():
            if getattr(layer, option, value) != value:
                got = getattr(layer, option)
                raise ValueError(
                    f"{peer.name} expected {option}={value}, got {option}={got}; "
                    f"build {type(layer).__name__} with {option}={value}"
                )
        dot = f"{name}." if name else ""
        biases = frozenset(dot + peer.key(bias) for bias in peer.biases)
        for key, value in own.items():
            entries[dot + key] = _Entry(
                dot + peer.key(key),
                peer.shape(key, tuple(value.shape)),
                peer,
                key == peer.swapped,
                biases if key in peer.biases else frozenset(),
            )
    return entries


def _check_keys(entries: Mapping[str, _Entry], state_dict: Weights) -> None:
    """Raise unless ``state_dict`` has the keys of ``entries``, each with as many axes."""
    expected = {e.key: e for e in entries.values()}
    optional = {
        key
        for key, e in expected.items()
        if key.endswith("num_batches_tracked") or (e.biases and e.biases.isdisjoint(state_dict))
    }
    missing = [key for key in expected if key not in state_dict.keys() | optional]
    unexpected = [key for key in state_dict if key not in expected]
    if missing or unexpected:
        raise ValueError(
            f"expected the keys of the source in state_dict, got {missing} missing and "
            f"{unexpected} unexpected; check source and remove prefixes such as 'module.'"
        )
    for key, value in state_dict.items():
        axes = len(expected[key].shape)
        if not isinstance(value, Tensor) or value.ndim != axes:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"expected {key} with {axes} axes, got {got}; check the source")


def _options(
    layer: type[nn.Module], peer: _Peer, state_dict: Weights, channels: int | None
) -> dict[str, int]:
    """Find the options that give ``layer`` the shapes of its peer's ``state_dict``."""
    shown = {k: state_dict[peer.key(key)].shape[axis] for k, (key, axis) in SHOWN[layer].items()}
    C = shown.get("channels") if channels is None else channels
    if C is None:
        raise ValueError(f"expected channels for {peer.name}, got None; pass channels=...")
    if "half" in shown:
        half = shown.pop("half")
        if not half or C % (2 * half):
            raise ValueError(f"expected channels divisible by 2 * {half} as in cweight, got {C}")
        shown["groups"] = C // (2 * half)
    if "width" in shown:
        width, key = shown.pop("width"), SHOWN[layer]["width"][0]
        default = inspect.signature(layer).parameters["reduction"].default
        for reduction in (default, max(1, C // max(1, width))):
            made = layer(C, reduction=reduction, device="meta").state_dict()
            if made[key].shape[0] == width:
                return {**shown, "channels": C, "reduction": reduction}
        raise ValueError(
            f"expected a width that {layer.__name__}({C}) has for some reduction, got {width}; "
            f"keep the layer of the source"
        )
    return {**shown, "channels": C}


def load_peer(model: nn.Module, state_dict: Weights, *, source: str) -> None:
    """Load weights of another implementation into an icasa layer, or a model with such layers.

    Everything is checked before anything is loaded. Tensors outside icasa's layers are loaded by
    their own names. Biases that timm does not have become zeros. A missing ``num_batches_tracked``
    keeps its value. A state_dict does not show activation, gate, pooling or skip connection: the
    other layer must have the defaults of its library.

    Args:
        model: an icasa layer, or a model that has icasa's layers in the places of the other ones.
        state_dict: the weights of the other implementation; they are not changed.
        source: ``"official"`` (the authors' repository), ``"timm"``, or ``"official_mbv2"``
            (MobileNetV2 of coordinate attention's authors, which has its own names).

    Raises:
        ValueError: if the source has no such layer, or if options, keys or shapes do not fit.

    >>> import torch
    >>> from icasa import ECA, load_peer
    >>> model = torch.nn.Sequential(torch.nn.ReLU(), ECA(64))
    >>> load_peer(model, {"1.conv.weight": torch.ones(1, 1, 3)}, source="timm")
    >>> model[1].conv.weight.flatten().tolist()
    [1.0, 1.0, 1.0]
    """
    entries, values = _entries(model, source), model.state_dict()
    _check_keys(entries, state_dict)
    for key, entry in entries.items():
        if entry.key in state_dict:
            value = state_dict[entry.key]
            if tuple(value.shape) != entry.shape:
                hint = (
                    "from_peer finds the options that fit, if any"
                    if entry.peer
                    else "load it separately"
                )
                raise ValueError(
                    f"expected {entry.key} of shape {entry.shape}, got {tuple(value.shape)}; {hint}"
                )
            values[key] = (value.flip(1) if entry.swapped else value).reshape(values[key].shape)
        elif entry.biases:
            values[key] = torch.zeros_like(values[key])
    model.load_state_dict(values)


def from_peer(
    layer: type[Layer], state_dict: Weights, *, source: str, channels: int | None = None
) -> Layer:
    """Build an icasa layer for the weights of another implementation, and load them.

    The shapes give the options, the tensors the device and the dtype. The norm gets the momentum of
    the other implementation. Everything else is as in :func:`load_peer`.

    Args:
        layer: class of the icasa layer, such as ``CA``.
        state_dict: the weights of the other layer, without a prefix.
        source: as in :func:`load_peer`.
        channels: channels of the input, which the weights of SA and ECA do not show.

    Returns:
        A new layer in training mode.

    Raises:
        ValueError: as in :func:`load_peer`, or if no options give these shapes.

    >>> from icasa import CA, from_peer, to_peer
    >>> weights = to_peer(CA(320, reduction=20), source="official")
    >>> from_peer(CA, weights, source="official").width
    16
    """
    ours, peer = _peer(layer, source)
    _check_keys(_entries(layer(64, device="meta"), source), state_dict)
    like = max(state_dict.values(), key=Tensor.is_floating_point)
    options = _options(ours, peer, state_dict, channels)
    made = layer(**options, device=like.device, dtype=like.dtype)
    load_peer(made, state_dict, source=source)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d) and peer.momentum is not None:
            module.momentum = peer.momentum
    return made


def to_peer(model: nn.Module, *, source: str, bias: bool | None = None) -> dict[str, Tensor]:
    """Return the weights of an icasa layer, or of a model with such layers, for another library.

    Args:
        model: an icasa layer, or a model with such layers.
        source: the other implementation, as in :func:`load_peer`.
        bias: whether timm's SE, CBAM and CoordAttn are built with biases. If not, the biases here
            must be zero. None means timm's default: only SE has biases.

    Returns:
        A copy of every tensor, with the name and shape of the other implementation.

    Raises:
        ValueError: if the source has no such layer or options, if a bias without a counterpart is
            not zero, or if ``bias`` is given for a source without this option.

    >>> from icasa import SA, to_peer
    >>> {key: tuple(value.shape) for key, value in to_peer(SA(16), source="official").items()}
    {'cweight': (1, 2, 1, 1), ... 'gn.weight': (2,), 'gn.bias': (2,)}
    """
    entries, values = _entries(model, source), {}
    if bias is not None and not any(entry.biases for entry in entries.values()):
        raise ValueError(f"expected bias=None for source {source!r}, got {bias!r}; leave it out")
    for key, value in model.state_dict().items():
        entry = entries[key]
        if entry.peer and entry.biases and not (entry.peer.bias if bias is None else bias):
            if value.any():
                raise ValueError(
                    f"expected {key} to be zero, as {entry.peer.name} has no bias, got other "
                    f"values; pass bias=True and build {entry.peer.name} with biases"
                )
        else:
            copy = value.flip(1) if entry.swapped else value.clone()
            values[entry.key] = copy.reshape(entry.shape)
    return values
