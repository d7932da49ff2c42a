"""Pairs of samples: which there are, who was mixed with whom, and the mix."""

from typing import NamedTuple

import torch
from torch import Tensor

from icasa._check import check_per_sample


class MixedPairs(NamedTuple):
    """The pairs of a mixed batch: row m is λ_m x[index_m] + (1 - λ_m) x[partner_m].

    Shape:
        Each (M,). With ``fixed_size=True``, a row whose partner is itself was not mixed.

    >>> import torch
    >>> from icasa import MixedPairs
    >>> pairs = MixedPairs(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.3, 0.5]))
    >>> pairs.weight()
    tensor([1., 0.])
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    partner: Tensor
    lam: Tensor

    def weight(self) -> Tensor:
        """Return 1 for each mixed row, else 0; the sum is the number of mixed rows."""
        return (self.partner != self.index).to(self.lam.dtype)


class AAMReport(NamedTuple):
    """Which pairs of a batch pass the threshold, as shares in [0, 1]; see :meth:`AAM.report`."""

    pair_share: float
    partner_rate: float
    label_match: float | None
    label_chance: float | None
    speaker_match: float | None
    speaker_chance: float | None


def interpolate(a: Tensor, b: Tensor, lam: Tensor) -> Tensor:
    """Return λ a + (1 - λ) b (Eq. 4) for each row, in the dtype of ``a``."""
    lam = lam.view(-1, *[1] * (a.ndim - 1))
    return (lam * a + (1 - lam) * b).to(a.dtype)


def possible_pairs(x: Tensor, utterance: Tensor | None) -> Tensor:
    """Return the pairs of two samples, and of two utterances where these are known: (N, N)."""
    pairs = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    if utterance is None:
        return pairs
    check_per_sample("utterance", utterance, x)
    return pairs & (utterance.unsqueeze(1) != utterance)


def of_one_class(y: Tensor) -> Tensor:
    """Return which pairs have equal argmax of their labels (N, K): (N, N)."""
    label = y.argmax(1)
    return label.unsqueeze(1) == label


def fraction(part: Tensor, whole: Tensor) -> float | None:
    """Return the share of ``whole`` that is also in ``part``, None if ``whole`` is empty."""
    total = int(whole.sum())
    return int((part & whole).sum()) / total if total else None
