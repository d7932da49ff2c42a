"""ECAPA-TDNN with the names and the structure that SpeechBrain gives it: three residual blocks."""

import torch
from torch import nn


class TDNNBlock(nn.Module):  # no shortcut
    def __init__(self, width, channels, kernel=1):
        super().__init__()
        self.conv = nn.Conv1d(width, channels, kernel, padding="same")
        self.activation = nn.ReLU()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x):
        return self.norm(self.activation(self.conv(x)))


class Res2NetBlock(nn.Module):  # its additions join chunks, and are no shortcut
    def __init__(self, channels, scale=4):
        super().__init__()
        self.scale = scale
        width = channels // scale
        self.blocks = nn.ModuleList(TDNNBlock(width, width, 3) for _ in range(scale - 1))

    def forward(self, x):
        parts = list(x.chunk(self.scale, dim=1))
        for n, block in enumerate(self.blocks, 1):
            parts[n] = block(parts[n] if n == 1 else parts[n] + parts[n - 1])
        return torch.cat(parts, dim=1)


class SEBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv1d(channels, 2, 1)
        self.conv2 = nn.Conv1d(2, channels, 1)

    def forward(self, x):
        return self.conv2(self.conv1(x.mean(2, keepdim=True)).relu()).sigmoid() * x


class SERes2NetBlock(nn.Module):
    def __init__(self, channels, shortcut=None):
        super().__init__()
        self.shortcut = shortcut
        self.tdnn1 = TDNNBlock(channels, channels)
        self.res2net_block = Res2NetBlock(channels)
        self.tdnn2 = TDNNBlock(channels, channels)
        self.se_block = SEBlock(channels)

    def forward(self, x):
        residual = x if self.shortcut is None else self.shortcut(x)
        return self.se_block(self.tdnn2(self.res2net_block(self.tdnn1(x)))) + residual


class ECAPA(nn.Module):
    def __init__(self, filters=8, channels=8):
        super().__init__()
        shortcuts = None, nn.Conv1d(channels, channels, 1), None
        blocks = [SERes2NetBlock(channels, shortcut) for shortcut in shortcuts]
        self.blocks = nn.ModuleList([TDNNBlock(filters, channels, 5), *blocks])
        self.mfa = TDNNBlock(3 * channels, 16)

    def forward(self, x):
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.mfa(torch.cat(outputs[1:], dim=1))
