"""The attention maps of a whole model: what each layer's gates are for a given input."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from icasa.attention import LAYERS


class AttentionMaps(NamedTuple):
    """The gates of one layer, and beta of an ICASA layer.

    Attributes:
        gates: the tensors that the layer's ``gates`` returns; they broadcast against its input.
            Those of ICASA are ICA's, (N, C, H, 1) and (N, C, 1, W), then SA's, (N, C, H, W), before
            the shuffle.
        beta: ICASA's weight of ICA, a tensor of one element; None for other layers.
    """

    gates: tuple[Tensor, ...]
    beta: Tensor | None


def attention_maps(model: nn.Module, x: Tensor, *, grad: bool = False) -> dict[str, AttentionMaps]:
    """Return the gates of every attention layer of ``model``, from one forward of ``x``.

    The model runs in its present mode; for a trained network call ``model.eval()`` first. The model
    is not changed: BatchNorms update copies of their running statistics. Layers inside a layer,
    such as ICASA's branches, have no entry of their own.

    Args:
        model: any module with layers of :mod:`icasa` in it.
        x: an input of the model.
        grad: keep the graph, so that the maps can be differentiated.

    Returns:
        The :class:`icasa.AttentionMaps` of each layer by its qualified name, in the order of their
        first call. If a layer is called again in the same forward, "#2", "#3" and so on follow its
        name. A model without attention gives an empty dictionary.

    >>> import torch
    >>> from torch import nn
    >>> from icasa import ICASA, SE, attention_maps
    >>> model = nn.Sequential(nn.Conv2d(1, 16, 3), ICASA(16), SE(16)).eval()
    >>> maps = attention_maps(model, torch.randn(1, 1, 41, 202))
    >>> {name: [tuple(gate.shape) for gate in layer.gates] for name, layer in maps.items()}
    {'1': [(1, 16, 39, 1), (1, 16, 1, 200), (1, 16, 39, 200)], '2': [(1, 16, 1, 1)]}
    >>> maps["1"].beta.item(), maps["2"].beta
    (0.5, None)
    """
    layers: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        inner = any(name.startswith(f"{outer}.") or not outer for outer in layers.values())
        if isinstance(module, LAYERS) and not inner:
            layers[module] = name
    maps: dict[str, AttentionMaps] = {}
    runs = dict.fromkeys(layers, 0)

    def record(layer: Any, args: Any, kwargs: Any) -> None:
        runs[layer] += 1
        name = layers[layer] + (f"#{runs[layer]}" if runs[layer] > 1 else "")
        beta = getattr(layer, "beta", None)
        if beta is not None and not grad:
            beta = beta.detach().clone()  # it may be the parameter itself, which training changes
        maps[name] = AttentionMaps(layer.gates(*args, **kwargs), beta)

    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.set_grad_enabled(grad):
            functional_call(model, buffers, (x,))
    finally:
        for handle in handles:
            handle.remove()
    return maps
