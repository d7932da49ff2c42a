"""TDNN: convolutions over time alone, for feature rows without an order.

A time-delay network with statistics pooling (Snyder et al. 2018) has one channel per row, so its
maps are (N, channels, 1, frames), a hundredth of MACNN's in size. An attention layer gets a map of
height one: ICA's gate over rows is then one over channels, from their means over time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from examples.ser.model.macnn import ATTENTION
from icasa import ICASA

STRIDES = (2, 2, 1)  # of the blocks, in frames


class TDNN(nn.Module):
    """TDNN on segments: (N, 1, rows, frames) to logits (N, num_classes).

    Each block is a convolution over time, BatchNorm, ReLU, dropout and the attention layer. The
    embedding is the mean and the standard deviation over time of the last block.

    Args:
        num_classes: number of emotions.
        rows: rows of a segment.
        attention: a key of ``macnn.ATTENTION``.
        widths: channels of the blocks.
        kernel_size: frames that a convolution spans.
        dropout: probability of a block's dropout; five times as much before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        rows: int,
        *,
        attention: str = "none",
        widths: Sequence[int] = (96, 128, 128),
        kernel_size: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"expected attention among {', '.join(ATTENTION)}, got {attention!r}")
        self.blocks = nn.ModuleList()
        width = rows
        for channels, stride in zip(widths, STRIDES, strict=True):
            conv = nn.Conv2d(
                width, channels, (1, kernel_size), (1, stride), (0, kernel_size // 2), bias=False
            )
            layer = ATTENTION[attention](channels)
            norm = nn.BatchNorm2d(channels)
            self.blocks.append(nn.Sequential(conv, norm, nn.ReLU(), nn.Dropout(dropout), layer))
            width = channels
        self.dropout = nn.Dropout(5 * dropout)
        self.classifier = nn.Linear(2 * width, num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Return mean and standard deviation over time, the classifier's input: (N, 2 * width)."""
        x = x.transpose(1, 2)  # (N, rows, 1, frames)
        for block in self.blocks:
            x = block(x)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0)
        return torch.cat((mean, (variance + 1e-5).sqrt()), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        return self.classifier(self.dropout(self.embed(x)))

    def betas(self) -> dict[str, float]:
        """Return beta of every ICASA, by its block."""
        layers = {f"block{i}": block[-1] for i, block in enumerate(self.blocks, 1)}
        return {p: layer.beta.item() for p, layer in layers.items() if isinstance(layer, ICASA)}
