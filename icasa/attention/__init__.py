"""Attention layers: same shape, dtype and memory format out as in."""

from torch import nn

from icasa.attention.ca import CA
from icasa.attention.cbam import CBAM
from icasa.attention.eca import ECA
from icasa.attention.ica import ICA
from icasa.attention.icasa import ICASA
from icasa.attention.sa import SA
from icasa.attention.se import SE

__all__ = ["CA", "CBAM", "ECA", "ICA", "ICASA", "SA", "SE"]

LAYERS: tuple[type[nn.Module], ...] = tuple(globals()[name] for name in __all__)
