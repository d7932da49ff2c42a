"""Augmentation: Adaptive Acoustic Mixup, its collate function, and the soft-label loss."""

from icasa.augment.aam import AAM, AAMReport, MixedPairs
from icasa.augment.collate import AAMCollate, DifficultyBank
from icasa.augment.loss import soft_cross_entropy
from icasa.augment.step import AAMLoss, aam_loss

__all__ = [
    "AAM",
    "AAMCollate",
    "AAMLoss",
    "AAMReport",
    "DifficultyBank",
    "MixedPairs",
    "aam_loss",
    "soft_cross_entropy",
]
