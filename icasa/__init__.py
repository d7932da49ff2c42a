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
    MixUp,
    RandomCrop,
    SpecAugment,
    aam_loss,
    soft_cross_entropy,
)
from icasa.conv import DepthwiseSeparableConv
from icasa.convert import from_peer, load_peer, to_peer
from icasa.insert import Insertion, insert_attention, remove_attention
from icasa.kernels import backend
from icasa.maps import AttentionMaps, attention_maps
from icasa.optim import parameter_groups

__version__ = "0.2.0"

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
    "AttentionMaps",
    "DepthwiseSeparableConv",
    "DifficultyBank",
    "HSwish",
    "Insertion",
    "MixUp",
    "MixedPairs",
    "RandomCrop",
    "SpecAugment",
    "aam_loss",
    "attention_maps",
    "backend",
    "from_peer",
    "insert_attention",
    "load_peer",
    "parameter_groups",
    "remove_attention",
    "soft_cross_entropy",
    "to_peer",
]
