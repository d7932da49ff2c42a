"""Networks for pages whose library is absent: its names, and blocks written after its source."""

import sys
from itertools import pairwise
from types import ModuleType

from torch import nn

from tests.insert.blocks import BasicBlock
from tests.insert.ecapa import ECAPA


class EcaModule(nn.Module):  # timm's
    def __init__(self, channels):
        super().__init__()
        size = 3 if channels <= 64 else 5
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        return x * self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(3)


class AttentionBlock(BasicBlock):  # timm's basic block
    def __init__(self, width, channels, downsample, attn_layer):
        super().__init__(width, channels, downsample)
        self.se = attn_layer(channels)

    def forward(self, x):
        y = self.se(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet18(nn.Module):
    def __init__(self, block=BasicBlock, classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=4, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        width = 64
        for n, channels in enumerate((64, 128, 256, 512), 1):
            down = nn.Conv2d(width, channels, 1) if width != channels else None
            stage = block(width, channels, down), block(channels, channels, None)
            setattr(self, f"layer{n}", nn.Sequential(*stage))
            width = channels
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))

    def features(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def create_model(name, num_classes=1000, block_args=None):
    assert name == "resnet18"
    layer = block_args["attn_layer"]
    layer = EcaModule if layer == "eca" else layer
    return ResNet18(lambda *args: AttentionBlock(*args, layer), num_classes)


class DecoderBlock(nn.Module):  # segmentation_models_pytorch's adds nothing
    def __init__(self, width, channels):
        super().__init__()
        self.conv = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(nn.functional.interpolate(x, scale_factor=2)).relu()


class Unet(nn.Module):
    def __init__(self, name, encoder_weights, classes):
        super().__init__()
        assert name == "resnet18"
        assert encoder_weights is None
        self.encoder = ResNet18()
        self.decoder = nn.Module()
        widths = (512, 256, 128, 64, 32, 16)
        self.decoder.blocks = nn.ModuleList(DecoderBlock(*pair) for pair in pairwise(widths))
        self.head = nn.Conv2d(16, classes, 3, padding=1)

    def forward(self, x):
        size, x = x.shape[2:], self.encoder.features(x)
        for block in self.decoder.blocks:
            x = block(x)
        return nn.functional.interpolate(self.head(x), size)


class ADN(nn.Sequential):  # MONAI's
    def __init__(self, channels):
        super().__init__()
        self.add_module("N", nn.InstanceNorm3d(channels))
        self.add_module("A", nn.PReLU())


class Convolution(nn.Sequential):
    def __init__(self, width, channels, stride):
        super().__init__()
        self.add_module("conv", nn.Conv3d(width, channels, 3, stride, 1))
        self.add_module("adn", ADN(channels))


class ResidualUnit(nn.Module):
    def __init__(self, width, channels, stride):
        super().__init__()
        self.conv = nn.Sequential()
        self.conv.add_module("unit0", Convolution(width, channels, stride))
        self.conv.add_module("unit1", Convolution(channels, channels, 1))
        self.residual = nn.Conv3d(width, channels, 3, stride, 1)

    def forward(self, x):
        return self.residual(x) + self.conv(x)


class UNet(nn.Module):  # without skip connections
    def __init__(self, spatial_dims, in_channels, out_channels, channels, strides, num_res_units):
        super().__init__()
        assert (spatial_dims, num_res_units) == (3, 2)
        widths = (in_channels, *channels)
        parts = zip(widths, channels, (*strides, 1), strict=False)
        self.model = nn.Sequential(*(ResidualUnit(*part) for part in parts))
        self.up = nn.ConvTranspose3d(channels[-1], out_channels, 4, 4)

    def forward(self, x):
        return self.up(self.model(x))


class EcapaTdnn(ECAPA):
    def __init__(self, filters, channels, lin_neurons):
        super().__init__(filters, channels[0])
        self.fc = nn.Linear(16, lin_neurons)

    def forward(self, x):
        return self.fc(super().forward(x.transpose(1, 2)).mean(2)).unsqueeze(1)


NAMES = {
    "torchvision.models": {"resnet18": ResNet18},
    "timm": {"create_model": create_model},
    "segmentation_models_pytorch": {"Unet": Unet},
    "monai.networks.nets": {"UNet": UNet},
    "speechbrain.lobes.models.ECAPA_TDNN": {"ECAPA_TDNN": EcapaTdnn},
}


def install(library, monkeypatch):
    """Make the modules of an absent library importable; return whether there are any."""
    found = [name for name in NAMES if name.split(".")[0] == library]
    for name in found:
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            path = ".".join(parts[:n])
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
        vars(sys.modules[name]).update(NAMES[name])
    return bool(found)
