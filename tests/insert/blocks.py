"""Residual and other blocks, written out as the libraries that they are named after have them."""

from functools import partial

import torch
from torch import nn


class BasicBlock(nn.Module):  # torchvision
    def __init__(self, width, channels, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):  # timm: `se`, of whatever modules, is not the main path
    downsample = None

    def __init__(self, channels, width, attn_layer=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.se = attn_layer(channels) if attn_layer is not None else nn.Identity()

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (x + self.se(self.bn3(self.conv3(y)))).relu()


class InvertedResidual(nn.Module):  # torchvision's MobileNetV2
    def __init__(self, width, channels):
        super().__init__()
        self.use_res_connect = width == channels
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU6()),
            nn.Conv2d(2 * width, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class ConvNeXtBlock(nn.Module):  # the published one, LayerNorm and Linear on (N, H, W, C)
    def __init__(self, channels):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)


class Gate(nn.Module):  # SE of any library
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


def net():
    torch.manual_seed(0)
    down = nn.Conv2d(16, 32, 1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, down)),
        nn.Sequential(Bottleneck(32, 8), Bottleneck(32, 8, Gate)),
        nn.Sequential(InvertedResidual(32, 48), InvertedResidual(48, 48)),
        ConvNeXtBlock(48),
    )


MAP = torch.randn(2, 8, 6, 5, generator=torch.Generator().manual_seed(2))


def unit(width, channels):
    """Convolution, ReLU and norm, in a Sequential."""
    conv = nn.Conv2d(width, channels, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.BatchNorm2d(channels))


class UnetDecoderBlock(nn.Module):  # smp: concatenates
    def __init__(self):
        super().__init__()
        self.conv1 = unit(16, 8)
        self.conv2 = unit(8, 8)

    def forward(self, x):
        return self.conv2(self.conv1(torch.cat((x, x.flip(2)), dim=1)))


class DenseBlock(nn.Module):  # torchvision: concatenates
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(unit(8 + 4 * n, 4) for n in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x


class RepVGGBlock(nn.Module):  # adds branches, each linear: they become one convolution
    def __init__(self):
        super().__init__()
        self.identity = nn.BatchNorm2d(8)
        self.conv1 = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.conv3 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x):
        return (self.identity(x) + (self.conv1(x) + self.conv3(x))).relu()


class SCSEBlock(nn.Module):  # smp: adds two gated copies
    def __init__(self):
        super().__init__()
        self.channel, self.space = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x):
        return (
            x * self.channel(x.mean((2, 3), keepdim=True)).sigmoid() + x * self.space(x).sigmoid()
        )


class ResidualUnit(nn.Module):  # MONAI: Convolution is a Sequential that ends in its activation
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential()
        for n in range(2):
            block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
            block.add_module("norm", nn.InstanceNorm2d(8))
            block.add_module("act", nn.PReLU())
            self.conv.add_module(f"unit{n}", block)
        self.residual = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.conv(x) + self.residual(x)


class FusedConv(nn.Module):  # Conv of ultralytics: fuse() folds its norm
    def __init__(self, width, channels, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(width, channels, kernel, padding="same", bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))

    def fuse(self):
        self.conv = nn.utils.fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()


class FusedBottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cv1, self.cv2 = FusedConv(channels, channels), FusedConv(channels, channels)
        self.add = True

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self):
        super().__init__()
        self.cv1, self.cv2 = FusedConv(8, 8, 1), FusedConv(12, 8, 1)
        self.m = nn.ModuleList([FusedBottleneck(4)])

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))

    def fuse(self):
        for module in self.modules():
            if isinstance(module, FusedConv):
                module.fuse()
        return self


class PreActBlock(nn.Module):  # timm: the shortcut starts after the first norm
    def __init__(self):
        super().__init__()
        self.downsample = nn.Conv2d(8, 8, 1)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.norm1(x).relu()
        shortcut = self.downsample(x)
        return self.conv2(self.norm2(self.conv1(x)).relu_()) + shortcut


class PaddedBlock(nn.Module):  # the first ResNet's option A: every second pixel, channels padded
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.shortcut = None

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        y += nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return y.relu_()


class PoolBlock(nn.Module):  # MetaFormer: two additions, with layer scale
    def __init__(self):
        super().__init__()
        self.norm1, self.mixer = nn.GroupNorm(1, 8), nn.AvgPool2d(3, 1, 1)
        self.norm2, self.fc1, self.fc2 = (
            nn.GroupNorm(1, 8),
            nn.Conv2d(8, 16, 1),
            nn.Conv2d(16, 8, 1),
        )
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.drop_path = nn.Identity()

    def forward(self, x):
        x = x + self.drop_path(self.scale * self.mixer(self.norm1(x)))
        return x + self.drop_path(self.scale * self.fc2(self.fc1(self.norm2(x)).relu()))


class PoolStage(nn.Module):  # timm: downsample is no shortcut here
    def __init__(self):
        super().__init__()
        self.downsample = nn.Conv2d(8, 8, 2, stride=2)
        self.blocks = nn.Sequential(PoolBlock(), PoolBlock())

    def forward(self, x):
        return self.blocks(self.downsample(x))


class ScaledConvNeXt(nn.Module):  # timm: an MLP of 1x1 convolutions, or of Linear, channels last
    def __init__(self, conv):
        super().__init__()
        layer, self.conv = partial(nn.Conv2d, kernel_size=1) if conv else nn.Linear, conv
        self.conv_dw = nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.mlp = Mlp(layer(8, 32), layer(32, 8))
        self.gamma = nn.Parameter(torch.ones(8))
        self.drop_path, self.shortcut = nn.Dropout(0.1), nn.Identity()

    def forward(self, x):
        y = self.conv_dw(x)
        y = self.mlp(y) if self.conv else self.mlp(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.drop_path(y.mul(self.gamma.reshape(1, -1, 1, 1))) + self.shortcut(x)


class Mlp(nn.Module):
    def __init__(self, first, second):
        super().__init__()
        self.fc1, self.act, self.fc2, self.drop = first, nn.GELU(), second, nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.fc2(self.act(self.fc1(x))))


class ResidualBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return (x + self.norm(self.conv(x))).relu()


class LongSkip(nn.Module):  # EDSR: an addition around blocks is not an innermost one
    def __init__(self):
        super().__init__()
        self.first, self.last = ResidualBlock(), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.last(self.first(x))


class SwinBlock(nn.Module):  # channels last throughout
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Conv2d(8, 16, 1), nn.LayerNorm(16)
        self.fc1, self.fc2 = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        return x + self.fc2(self.fc1(self.norm(x)).relu())
