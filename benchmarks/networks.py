"""Whole networks for ``python -m icasa.cost``: MACNN and TDNN, ResNet-50 and ResNet-8.

``python -m icasa.cost benchmarks.networks:macnn --input 1x39x200 --where 'blocks.*.2'`` puts a
layer after each ReLU of MACNN's blocks, ``benchmarks.networks:tdnn --input 1x53x320 --where
'blocks.*.3'`` at the end of each block of the TDNN, ``benchmarks.networks:resnet50 --input
3x224x224`` after the last norm of each block, as ``benchmarks.networks:resnet8 --input 3x32x32``.
"""

from torch import Tensor, nn

from examples.ser.data.features import FEATURES
from examples.ser.model.macnn import MACNN
from examples.ser.model.tdnn import TDNN
from examples.vision.resnet import ResNet

DEPTHS = {64: 3, 128: 4, 256: 6, 512: 3}  # width of a stage: its blocks


def macnn() -> nn.Module:
    """Make MACNN for four emotions, without attention."""
    return MACNN(4)


def tdnn() -> nn.Module:
    """Make the TDNN of `--strong` for eight emotions, without attention."""
    return TDNN(8, FEATURES["prosody"].rows)


def resnet8() -> nn.Module:
    """Make the ResNet-8 of examples/vision for ten classes, without attention."""
    return ResNet(10)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that keeps the size but for its stride, and its norm."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """A bottleneck with its stride in the 3x3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.residual = nn.Sequential(
            *convolution(inputs, width, 1),
            nn.ReLU(),
            *convolution(width, width, 3, stride),
            nn.ReLU(),
            *convolution(width, outputs, 1),
        )
        changes = stride > 1 or inputs != outputs
        shortcut = convolution(inputs, outputs, 1, stride) if changes else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the shortcut."""
        return (self.shortcut(x) + self.residual(x)).relu()


def resnet50() -> nn.Module:
    """Make ResNet-50 for 1000 classes: 25,557,032 parameters."""
    modules = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    inputs = 64
    for width, depth in DEPTHS.items():
        for i in range(depth):
            modules.append(Block(inputs, width, 2 if i == 0 and width > 64 else 1))
            inputs = 4 * width
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
