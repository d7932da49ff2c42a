"""What the layers are compared with: the official structure, and a block to put them in.

The official repositories of shuffle and coordinate attention pool with `AdaptiveAvgPool2d`, work on
(N, C, H + W, 1) maps with 2-D convolutions, join halves by `cat` and permute for the shuffle. The
functions here do the same with the parameters of a layer of ours, so that only structure differs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icasa import CA, ICA, ICASA, SA


def official_coordinates(layer: ICA | CA, x: Tensor) -> Tensor:
    """Coordinate attention; for ICA with the depthwise-separable convolution of Eq. 8."""
    height, width = x.shape[2:]
    rows = F.adaptive_avg_pool2d(x, (None, 1))
    columns = F.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
    z = torch.cat([rows, columns], dim=2)  # (N, C, H + W, 1)
    convs = (layer.reduce.depthwise, layer.reduce.pointwise) if isinstance(layer, ICA) else ()
    for conv in convs or (layer.reduce,):
        weight, padding = conv.weight.unsqueeze(3), (conv.padding[0], 0)
        z = F.conv2d(z, weight, conv.bias, padding=padding, groups=conv.groups)
    norm: Any = layer.norm
    z = F.batch_norm(
        z, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum
    )
    f_h, f_w = torch.split(F.hardswish(z), [height, width], dim=2)
    to_h, to_w = layer.expand
    g_h = F.conv2d(f_h, to_h.weight.unsqueeze(3), to_h.bias).sigmoid()
    g_w = F.conv2d(f_w.permute(0, 1, 3, 2), to_w.weight.unsqueeze(3), to_w.bias).sigmoid()
    return x * g_w * g_h


def official_shuffle(layer: SA, x: Tensor) -> Tensor:
    """Shuffle attention on groups folded into the batch."""
    n, c, h, w = x.shape
    half = c // (2 * layer.groups)
    weights = (layer.channel_weight, layer.channel_bias, layer.spatial_weight, layer.spatial_bias)
    w1, b1, w2, b2 = (p.view(1, half, 1, 1) for p in weights)
    x1, x2 = x.reshape(n * layer.groups, 2 * half, h, w).chunk(2, dim=1)
    by_channel = x1 * torch.sigmoid(w1 * F.adaptive_avg_pool2d(x1, 1) + b1)
    by_position = x2 * torch.sigmoid(w2 * layer.norm(x2) + b2)
    joined = torch.cat([by_channel, by_position], dim=1).reshape(n, 2, c // 2, h, w)
    return joined.permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def official_mix(layer: ICASA, x: Tensor) -> Tensor:
    """Eq. 5 over the two."""
    by_axes, shuffled = official_coordinates(layer.ica, x), official_shuffle(layer.sa, x)
    return layer.beta * by_axes + (1 - layer.beta) * shuffled


OFFICIAL: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "ICA": official_coordinates,
    "SA": official_shuffle,
    "ICASA": official_mix,
    "CA": official_coordinates,
}


class Official(nn.Module):
    """A layer of ours, computed as the official repositories do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.compute = OFFICIAL[type(layer).__name__]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer."""
        return self.compute(self.layer, x)


class Bottleneck(nn.Module):
    """A ResNet bottleneck with a layer after its last norm, before the addition."""

    def __init__(self, channels: int, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Add the attended residual."""
        return (x + self.attention(self.body(x))).relu()
