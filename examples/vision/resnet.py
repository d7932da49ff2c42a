"""ResNet for small images, with a place for every attention layer (He et al. 2016, section 4.2)."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from icasa import CA, CBAM, ECA, ICA, ICASA, SA, SE

ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "se": SE,
    "eca": ECA,
    "cbam": CBAM,
    "ca": CA,
    "sa": SA,
    "ica": ICA,
    "icasa": ICASA,
    # Without their shuffle, so that the addition of the shortcut meets equal channels.
    "sa-aligned": partial(SA, shuffle=False),
    "icasa-aligned": partial(ICASA, shuffle=False),
}
DEPTHS = (8, 14, 20)  # 6 n + 2: n blocks of two convolutions in each of three stages
WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """Two 3 x 3 convolutions, the attention layer after the last norm, and the shortcut.

    The shortcut has no parameters: it takes every ``stride``-th pixel and adds channels of zeros.
    """

    def __init__(self, channels: int, width: int, stride: int, attention: str) -> None:
        super().__init__()
        self.stride, self.extra = stride, width - channels
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.attention = ATTENTION[attention](width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.attention(self.norm2(self.conv2(y)))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, 0, self.extra)))


class ResNet(nn.Module):
    """ResNet-8, -14 or -20: images (N, 3, H, W) to logits (N, num_classes).

    Args:
        num_classes: number of classes.
        depth: of ``DEPTHS``.
        attention: a key of ``ATTENTION``.
    """

    def __init__(self, num_classes: int, *, depth: int = 8, attention: str = "none") -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        blocks, channels = [], WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            for n in range((depth - 2) // 6):
                blocks.append(Block(channels, width, 2 if stage and not n else 1, attention))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of ``x``."""
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))

    def betas(self) -> dict[str, float]:
        """Beta of every ICASA, by its block."""
        layers = {f"block{i}": block.attention for i, block in enumerate(self.blocks, 1)}
        return {p: layer.beta.item() for p, layer in layers.items() if isinstance(layer, ICASA)}
