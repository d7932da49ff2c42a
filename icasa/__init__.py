"""ICA, SA, ICASA and Adaptive Acoustic Mixup for PyTorch, after Li et al. 2026."""

from icasa.activation import HSwish
from icasa.attention import CA, CBAM, ECA, ICA, ICASA, SA, SE
from icasa.augment import (
    AAM,
    AAMCollate,
    AAMLoss,
    AAMReport,
    DifficultyBank,
    MixedPairs,
    aam_loss,
    soft_cross_entropy,
)
from icasa.conv import DepthwiseSeparableConv

__version__ = "0.1.0"

__all__ = [
    "AAM",
    "CA",
    "CBAM",
    "ECA",
    "ICA",
    "ICASA",
    "SA",
    "SE",
    "AAMCollate",
    "AAMLoss",
    "AAMReport",
    "DepthwiseSeparableConv",
    "DifficultyBank",
    "HSwish",
    "MixedPairs",
    "aam_loss",
    "soft_cross_entropy",
]
