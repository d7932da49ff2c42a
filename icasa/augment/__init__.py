"""Augmentation: Adaptive Acoustic Mixup, what Table 9 adds to it, and the soft-label loss."""

from icasa.augment.aam import AAM
from icasa.augment.collate import AAMCollate, DifficultyBank
from icasa.augment.crop import RandomCrop
from icasa.augment.loss import soft_cross_entropy
from icasa.augment.mixup import MixUp
from icasa.augment.pairs import AAMReport, MixedPairs
from icasa.augment.spec_augment import SpecAugment
from icasa.augment.step import AAMLoss, aam_loss

__all__ = [
    "AAM",
    "AAMCollate",
    "AAMLoss",
    "AAMReport",
    "DifficultyBank",
    "MixUp",
    "MixedPairs",
    "RandomCrop",
    "SpecAugment",
    "aam_loss",
    "soft_cross_entropy",
]
