"""AAM: mixup of acoustically alike samples, weighted by difficulty (Li et al. 2026, 2.1)."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icasa._check import check_one_of, check_per_sample, check_positive_int, check_range
from icasa.augment.draw import uniform
from icasa.augment.labels import float_labels
from icasa.augment.pairs import (
    AAMReport,
    MixedPairs,
    fraction,
    interpolate,
    of_one_class,
    possible_pairs,
)
from icasa.augment.watch import ThresholdWatch
from icasa.padding import clear_padding


class AAM(nn.Module):
    r"""Adaptive Acoustic Mixup: add mixes of similar samples to a batch.

    For each sample i, one partner j is drawn from those with sim(x_i, x_j) > T, and

    .. math:: \text{sim}(x_i, x_j) = \frac{r_i \cdot r_j}{\|r_i\|\, \|r_j\|} \tag{1}

    .. math:: \lambda = \frac{1}{1 + \exp(\alpha (d_i - d_j))} \tag{3}

    .. math::

        \tilde x = \lambda x_i + (1 - \lambda) x_j, \qquad
        \tilde y = \lambda y_i + (1 - \lambda) y_j \tag{4}

    where r is the representation of x, and d its loss (the difficulty, Eq. 2). A sample without a
    candidate is not mixed. Use standardised features: all raw MFCC point in nearly the same
    direction, so every pair passes T. :meth:`report` shows how many pairs pass. In ``eval()``
    nothing is mixed and nothing is drawn.

    There is one warning per instance if no pair, or every pair, passes a threshold above 0 or a
    quantile in 50 training batches in a row (not under torch.compile).

    Args:
        num_classes: K, the width of the labels.
        threshold: T, a cosine in [-1, 1].
        alpha: α. By Eq. 3 the sample with the larger loss gets the smaller weight. A negative α
            gives it the larger weight; with 0 the losses have no effect (λ = 0.5).
        representation: r. ``"mean"`` averages x over its last axis (time). ``"flat"`` takes all
            of x. A callable maps x to (N, D); a network runs in its own mode and on its own device.
            A vector (N, D) is its own representation.
        pairing: ``"similar"`` is Algorithm 1. ``"balanced"`` follows the text of step 1: with
            equal probability the partner is of the same class or of another one (by the argmax of
            the labels), and of the other kind if there is none. ``"same-class"`` lets only pairs of
            the same class pass, ``"random"`` every pair.
        quantile: replaces ``threshold``: T is this quantile of the similarities in the batch, of
            the pairs that ``utterance`` allows and, for ``"same-class"``, the labels.
        fixed_size: always return 2N rows and a weight (2N,), for static shapes under torch.compile
            and in CUDA graphs. A sample without a partner is repeated with weight 0.

    Shape:
        x (N, \*) of any floating dtype and rank >= 2; y (N,) class indices or (N, K) one-hot, soft
        or multi-hot; difficulty (N,); out (N + M, \*) and float (N + M, K) with M <= N.

    Raises:
        ValueError: an option, shape, dtype, device or class index that is not valid. (Under
            torch.compile the class indices are not read.)

    Reference:
        Li et al. 2026, section 2.1, Algorithm 1.

    >>> import torch
    >>> from icasa import AAM
    >>> x, y = torch.randn(8, 1, 39, 200), torch.randint(4, (8,))
    >>> aam = AAM(num_classes=4, threshold=0.0)
    >>> x_aug, y_aug = aam(x, y, torch.rand(8))
    >>> torch.equal(x_aug[:8], x), y_aug.shape[1]
    (True, 4)
    >>> aam.eval()(x, y)[0].shape
    torch.Size([8, 1, 39, 200])
    """

    representation: str | Callable[[Tensor], Tensor]

    def __init__(
        self,
        num_classes: int,
        *,
        threshold: float = 0.7,
        alpha: float = 2.0,
        representation: str | Callable[[Tensor], Tensor] = "mean",
        pairing: str = "similar",
        quantile: float | None = None,
        fixed_size: bool = False,
    ) -> None:
        super().__init__()
        if not callable(representation) and representation not in ("mean", "flat"):
            raise ValueError(
                f"expected representation to be 'mean', 'flat' or a callable from x to (N, D), "
                f"got {representation!r}"
            )
        check_one_of("pairing", pairing, ("similar", "balanced", "same-class", "random"))
        if quantile is not None and pairing == "random":
            raise ValueError("expected pairing='random' or quantile, got both; leave one out")
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.threshold = check_range("threshold", threshold, -1, 1)
        # DIFF: the text asks for "more informative regions", Eq. 3 gives the harder sample the
        # smaller weight. As written by default; a negative alpha for the text's reading.
        self.alpha = check_range("alpha", alpha, -1e6, 1e6)
        # Not as nn.Module sets it: a network would become a part of AAM, of its mode, parameters
        # and state_dict.
        object.__setattr__(self, "representation", representation)
        self.pairing = pairing
        self.quantile = None if quantile is None else check_range("quantile", quantile, 0, 1)
        self.fixed_size = fixed_size
        self._watch = ThresholdWatch()

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        difficulty: Tensor | None = None,
        *,
        utterance: Tensor | None = None,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_pairs: bool = False,
    ) -> tuple[Any, ...]:
        """Return the originals, then the mixed samples.

        Args:
            x: the batch.
            y: its labels.
            difficulty: d, the loss of each sample; it gets no gradient. Not needed for α = 0.
            utterance: ids (N,); two segments of one utterance are never mixed.
            lengths: valid positions (N,) of x's last axis. The padding is left out of Eq. 1 and
                set to zero in Eq. 4. A mixed sample is as long as the longer of its two samples.
            generator: random generator on x's device; by default torch's.
            return_pairs: also return a :class:`MixedPairs`.

        Returns:
            ``(x_aug, y_aug)``, then the weight (2N,) with ``fixed_size``, then the pairs with
            ``return_pairs``. In ``eval()`` x itself, its labels as floats and, with ``fixed_size``,
            N ones.
        """
        y = self.float_labels(x, y)
        x_mix, y_mix, pairs = self.mix(
            x, y, difficulty, utterance=utterance, lengths=lengths, generator=generator
        )
        out: tuple[Any, ...] = (x, y)
        if self.training:
            out = (torch.cat([x, x_mix]), torch.cat([y, y_mix]))
        if self.fixed_size:
            out += (torch.cat([pairs.lam.new_ones(len(x)), pairs.weight()]),)
        return (*out, pairs) if return_pairs else out

    def mix(
        self,
        x: Tensor,
        y: Tensor,
        difficulty: Tensor | None = None,
        *,
        utterance: Tensor | None = None,
        lengths: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, MixedPairs]:
        """Return only the mixed samples, their labels and their pairs (no rows in ``eval()``).

        >>> aam = AAM(2, pairing="random", alpha=0)
        >>> x_mix, y_mix, pairs = aam.mix(torch.eye(2), torch.arange(2))
        >>> x_mix, pairs.partner
        (tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]]), tensor([1, 0]))
        """
        y = self.float_labels(x, y)
        rows = torch.arange(len(x), device=x.device)
        dtype = torch.promote_types(x.dtype, torch.float32)
        if not self.training:
            return x[:0], y[:0], MixedPairs(rows[:0], rows[:0], rows[:0].to(dtype))
        x, _ = clear_padding(x, lengths)
        partner = self._partner(x, y, utterance, generator)
        if not self.fixed_size:
            rows = (partner != rows).nonzero().squeeze(1)  # (M,)
            partner = partner[rows]
        pairs = MixedPairs(rows, partner, self._lam(x, difficulty, rows, partner).to(dtype))
        x_mix, y_mix = (interpolate(t[rows], t[partner], pairs.lam) for t in (x, y))
        return x_mix, y_mix, pairs

    def float_labels(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y as floats (N, num_classes): class indices one-hot, soft labels unchanged.

        >>> AAM(3).float_labels(torch.randn(2, 5), torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
        """
        return float_labels(self, x, y)

    @torch.no_grad()
    def report(
        self,
        x: Tensor,
        y: Tensor,
        *,
        speaker: Tensor | None = None,
        utterance: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> AAMReport:
        """Return which pairs pass the threshold, and whether they share the label or the speaker.

        "All pairs" are the pairs of two samples, and if ``utterance`` is given, of two utterances;
        for ``pairing="same-class"``, of the same class. Soft labels match if their argmax is equal.

        Args:
            x: a batch.
            y: its labels.
            speaker: ids (N,).
            utterance: ids (N,).
            lengths: valid positions (N,) of x's last axis.

        Returns:
            Shares in [0, 1]. ``pair_share`` is the share of all pairs that pass (0 if there are no
            pairs). ``partner_rate`` is the share of samples with a candidate. ``label_match`` and
            ``speaker_match`` are the shares of equal class and of equal speaker among the pairs
            that pass, ``label_chance`` and ``speaker_chance`` the same among all pairs. A share of
            no pairs is None; so are the shares of speakers if ``speaker`` is not given.

        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> report = AAM(2).report(x, torch.tensor([0, 0, 1, 1]))
        >>> report.partner_rate, report.label_match, round(report.label_chance, 3)
        (1.0, 1.0, 0.333)
        """
        y = self.float_labels(x, y)
        label, every = y.argmax(1), self._possible(x, y, utterance)
        admitted = self._admitted(clear_padding(x, lengths)[0], every)
        match: list[float | None] = []
        for name, group in (("y", label), ("speaker", speaker)):
            if group is None:
                match += [None, None]
                continue
            check_per_sample(name, group, x)
            same = group.unsqueeze(1) == group  # (N, N)
            match += [fraction(same, admitted), fraction(same, every)]
        found = admitted.any(1)
        return AAMReport(
            fraction(admitted, every) or 0.0,
            fraction(found, torch.ones_like(found)) or 0.0,
            *match,
        )

    @torch.no_grad()
    def _partner(
        self, x: Tensor, y: Tensor, utterance: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Return for each sample a uniform choice among its candidates, or itself: (N,)."""
        possible = self._possible(x, y, utterance)
        candidates = self._admitted(x, possible)
        if self._filters() and not torch.compiler.is_compiling():
            self._watch.update(candidates, possible, self._threshold())
        rows = torch.arange(len(x), device=x.device)
        if len(x) < 2:
            return rows
        draw = uniform(x, len(x), len(x), generator=generator)
        # DIFF: step 1 speaks of same- and different-emotion pairs drawn in balance, Algorithm 1
        # never looks at the labels; Algorithm 1 by default.
        if self.pairing == "balanced":
            coin = uniform(x, len(x), 1, generator=generator) < 0.5
            chosen = candidates & (of_one_class(y) == coin)
            candidates = torch.where(chosen.any(1, keepdim=True), chosen, candidates)
        choice = draw.masked_fill(~candidates, -1).argmax(1)
        return torch.where(candidates.any(1), choice, rows)

    def _possible(self, x: Tensor, y: Tensor, utterance: Tensor | None) -> Tensor:
        """Return the pairs among which the threshold chooses: (N, N)."""
        pairs = possible_pairs(x, utterance)
        return pairs & of_one_class(y) if self.pairing == "same-class" else pairs

    def _filters(self) -> bool:
        """Return whether similarity is meant to leave out some pairs."""
        return self.pairing != "random" and (self.quantile is not None or self.threshold > 0)

    def _threshold(self) -> str:
        return (
            f"threshold={self.threshold}" if self.quantile is None else f"quantile={self.quantile}"
        )

    def _admitted(self, x: Tensor, eligible: Tensor) -> Tensor:
        """Return which of the eligible pairs pass the threshold (Eq. 1): (N, N)."""
        if self.pairing == "random" or len(x) < 2:
            return eligible
        r = self._represent(x)
        with torch.autocast(x.device.type, enabled=False):
            r = F.normalize(r, dim=1)
            sim = r @ r.T
        if self.quantile is None:
            return eligible & (sim > self.threshold)
        # Tensor.quantile admits the same pairs, but stops at 16 million and in old torch.compile.
        ranked = sim.masked_fill(~eligible, math.inf).flatten().sort().values
        place = (self.quantile * (eligible.sum().float() - 1).clamp(min=0)).long()
        return eligible & (sim > ranked.take(place))

    def _represent(self, x: Tensor) -> Tensor:
        """Return r of Eq. 1, in float32 at least: (N, D)."""
        if isinstance(self.representation, str):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            # DIFF: Eq. 1 takes the whole sample vector ("flat"); standardised frames then almost
            # never pass T = 0.7, their time average does, so that is the default.
            average = self.representation == "mean" and x.ndim > 2
            return (x.mean(-1) if average else x).flatten(1)
        r = self.representation(x)
        if r.ndim != 2 or len(r) != len(x) or not r.is_floating_point():
            raise ValueError(
                f"expected representation to return floats of shape ({len(x)}, D), "
                f"got {r.dtype} {tuple(r.shape)}; end it with .flatten(1)"
            )
        return r.to(torch.promote_types(r.dtype, torch.float32))

    def _lam(self, x: Tensor, difficulty: Tensor | None, index: Tensor, partner: Tensor) -> Tensor:
        """Return λ of Eq. 3: (M,)."""
        if self.alpha == 0:
            return torch.full_like(index, 0.5, dtype=torch.float32)
        if difficulty is None:
            raise ValueError(
                f"AAM with alpha={self.alpha} expected difficulty of shape ({len(x)},), got None; "
                f"pass the loss of each sample or build AAM with alpha=0"
            )
        check_per_sample("difficulty", difficulty, x)
        if not difficulty.is_floating_point():
            raise ValueError(
                f"expected floating difficulty, got {difficulty.dtype}; call difficulty.float()"
            )
        # DIFF: Eq. 2 does not say whether a gradient flows through the difficulty; none does.
        d = difficulty.detach().to(torch.promote_types(difficulty.dtype, torch.float32))
        lam = torch.sigmoid(-self.alpha * (d[index] - d[partner]))
        # DIFF: two losses that overflowed in half precision differ by NaN in Eq. 3; 0.5 keeps it
        # out of x, and so out of BatchNorm's running statistics.
        return lam.nan_to_num(nan=0.5)

    def extra_repr(self) -> str:
        """Show the options that matter."""
        return (
            f"{self.num_classes}, {self._threshold()}, alpha={self.alpha}, "
            f"pairing={self.pairing!r}, representation={self.representation!r}, "
            f"fixed_size={self.fixed_size}"
        )
