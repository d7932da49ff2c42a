"""TDNN: convolutions over time alone, for feature rows without an order.

A time-delay network with statistics pooling (Snyder et al. 2018) has one channel per row, so its
maps are (N, channels, 1, frames), a hundredth of MACNN's in size. An attention layer gets a map of
height one: ICA's gate over rows is then one over channels, from their means over time.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from examples.ser.model.macnn import ATTENTION
from icasa import ICASA, insert_attention

STRIDES = (2, 2, 1)  # of the blocks, in frames
# Forms of ICASA (docs/study.md), after every block but for "last".
FORMS: dict[str, Callable[[int], nn.Module]] = {
    "published": ICASA,
    "faded": lambda channels: nn.Identity(),  # inserted afterwards
    "bounded": partial(ICASA, bounded=True),
    "last": ICASA,  # after the last block alone
}


class TDNN(nn.Module):
    """TDNN on segments: (N, 1, rows, frames) to logits (N, num_classes).

    Each block is a convolution over time, BatchNorm, ReLU, dropout and the attention layer. The
    embedding is the mean and the standard deviation over time of the last block.

    Args:
        num_classes: number of emotions.
        rows: rows of a segment.
        attention: a key of ``macnn.ATTENTION``.
        icasa_form: a key of ``FORMS``, for ``attention="icasa"``.
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
        icasa_form: str = "published",
        widths: Sequence[int] = (96, 128, 128),
        kernel_size: int = 5,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ValueError(f"expected attention among {', '.join(ATTENTION)}, got {attention!r}")
        make_layer = FORMS[icasa_form] if attention == "icasa" else ATTENTION[attention]
        self.blocks = nn.ModuleList()
        width = rows
        for channels, stride in zip(widths, STRIDES, strict=True):
            conv = nn.Conv2d(
                width, channels, (1, kernel_size), (1, stride), (0, kernel_size // 2), bias=False
            )
            is_bare = icasa_form == "last" and len(self.blocks) + 1 < len(widths)
            layer = nn.Identity() if is_bare else make_layer(channels)
            norm = nn.BatchNorm2d(channels)
            self.blocks.append(nn.Sequential(conv, norm, nn.ReLU(), nn.Dropout(dropout), layer))
            width = channels
        self.dropout = nn.Dropout(5 * dropout)
        self.classifier = nn.Linear(2 * width, num_classes)
        if attention == "icasa" and icasa_form == "faded":  # x + gamma ICASA(x), gamma from 0
            layer, example = partial(ICASA, residual=True), torch.zeros(1, 1, rows, kernel_size)
            insert_attention(self, layer, where="blocks.?", identity=True, example=example)

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
        return {
            f"block{i}": layer.beta.item()
            for i, block in enumerate(self.blocks, 1)
            for layer in block.modules()
            if isinstance(layer, ICASA)
        }
