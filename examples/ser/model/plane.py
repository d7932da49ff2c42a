"""Two-dimensional networks on a plane of bands by frames: the candidates of the preset `--plane`.

Their maps have two axes, so layers that look along frequency and along time have both to look at.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.ser.model.macnn import ATTENTION
from examples.vision.resnet import ResNet
from icasa import ICASA


def moments(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return the means over ``axes`` and, after them, the standard deviations: (N, features)."""
    variance, mean = torch.var_mean(x, dim=tuple(axes), correction=0)
    return torch.cat((mean.flatten(1), (variance + 1e-5).sqrt().flatten(1)), dim=1)


class PlaneCNN(nn.Module):
    """Four blocks on segments: (N, 1, rows, frames) to logits (N, num_classes).

    Each block is a 3 x 3 convolution of stride 2, BatchNorm, ReLU, dropout and the attention
    layer. The embedding is the mean and the standard deviation of the last map.

    Args:
        num_classes: number of classes.
        rows: rows of a segment.
        attention: a key of ``macnn.ATTENTION``.
        keep_rows: pool over time alone, so that the last map's rows remain apart.
        widths: channels of the blocks.
        dropout: probability of a block's dropout.
    """

    def __init__(
        self,
        num_classes: int,
        rows: int,
        *,
        attention: str = "none",
        keep_rows: bool = False,
        widths: Sequence[int] = (16, 32, 64, 96),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"expected attention among {', '.join(ATTENTION)}, got {attention!r}")
        self.blocks = nn.ModuleList()
        width = 1
        for channels in widths:
            conv = nn.Conv2d(width, channels, 3, 2, 1, bias=False)
            norm, layer = nn.BatchNorm2d(channels), ATTENTION[attention](channels)
            self.blocks.append(nn.Sequential(conv, norm, nn.ReLU(), nn.Dropout(dropout), layer))
            width, rows = channels, -(-rows // 2)
        self.axes = (3,) if keep_rows else (2, 3)
        self.classifier = nn.Linear(2 * width * (rows if keep_rows else 1), num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return mean and standard deviation of the last map, the classifier's input."""
        for block in self.blocks:
            x = block(x)
        return moments(x, self.axes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        return self.classifier(self.embed(x))

    def betas(self) -> dict[str, float]:
        """Return beta of every ICASA, by its block."""
        layers = {f"block{i}": block[-1] for i, block in enumerate(self.blocks, 1)}
        return {p: layer.beta.item() for p, layer in layers.items() if isinstance(layer, ICASA)}


class PlaneResNet(ResNet):
    """The image recipe's ResNet-8 on segments, with a stem of stride 4 along both axes.

    The attention layer precedes the addition of each block. The embedding is the mean and the
    standard deviation over all positions of the last map.

    Args:
        num_classes: number of classes.
        attention: a key of ``examples.vision.resnet.ATTENTION``.
    """

    def __init__(self, num_classes: int, *, attention: str = "none") -> None:
        super().__init__(num_classes, depth=8, attention=attention)
        self.stem[0] = nn.Conv2d(1, self.stem[0].out_channels, 3, 4, 1, bias=False)
        self.classifier = nn.Linear(2 * self.classifier.in_features, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return mean and standard deviation of the last map, the classifier's input."""
        return moments(self.blocks(self.stem(x)), (2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        return self.classifier(self.embed(x))
