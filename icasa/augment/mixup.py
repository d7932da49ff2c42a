"""MixUp: convex mixes of random pairs of samples (Zhang et al. 2018)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from icasa._check import check_positive_int, check_range
from icasa.augment.draw import check_generator, uniform
from icasa.augment.labels import float_labels
from icasa.augment.pairs import interpolate


class MixUp(nn.Module):
    r"""MixUp: mix each sample of a batch with another sample, drawn at random.

    .. math::

        \tilde x_i &= \lambda x_i + (1 - \lambda) x_{\pi(i)} \\
        \tilde y_i &= \lambda y_i + (1 - \lambda) y_{\pi(i)} \\
        \lambda &\sim \text{Beta}(\alpha, \alpha)

    with π a random permutation of the batch. Unlike :class:`icasa.AAM`, it replaces the batch: N
    samples in, N samples out. It also takes soft labels, so it can be used before or after AAM.
    Train with :func:`icasa.soft_cross_entropy`. In ``eval()`` nothing is mixed or drawn.

    Args:
        num_classes: K, the width of the labels.
        alpha: α. With a small α most samples change little; with 1, λ is uniform in (0, 1).
        per_sample: draw a λ for each sample instead of one for the batch.

    Shape:
        x (N, \*) of any floating dtype and rank >= 2; y (N,) class indices or (N, K) one-hot, soft
        or multi-hot; out (N, \*) and float (N, K).

    Raises:
        ValueError: an option, shape, dtype, device or class index that is not valid. (Under
            torch.compile the class indices are not read.)

    Reference:
        Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization"; Li et al. 2026, Table 9.

    >>> import torch
    >>> from icasa import MixUp
    >>> x, y = torch.randn(8, 1, 39, 200), torch.randint(4, (8,))
    >>> mixup = MixUp(num_classes=4)
    >>> x_mix, y_mix = mixup(x, y)
    >>> x_mix.shape, y_mix.shape
    (torch.Size([8, 1, 39, 200]), torch.Size([8, 4]))
    >>> mixup.eval()(x, y)[0] is x
    True
    """

    # DIFF: Table 9 names MixUp without α or how often λ is drawn; α = 0.2 is what Zhang et al. use
    # for ImageNet, and one λ for a batch is what their code does.
    def __init__(self, num_classes: int, *, alpha: float = 0.2, per_sample: bool = False) -> None:
        super().__init__()
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.alpha = check_range("alpha", alpha, 1e-3, 1e3)
        self.per_sample = per_sample

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | None = None,
        return_mix: bool = False,
    ) -> tuple[Any, ...]:
        """Return the mixed batch and its soft labels.

        Args:
            x: the batch.
            y: its labels.
            generator: random generator on x's device; by default torch's.
            return_mix: also return π and λ, each (N,).

        Returns:
            ``(x_mix, y_mix)``, then π and λ with ``return_mix``. In ``eval()`` these are x itself,
            its labels as floats, the identity permutation and ones.
        """
        y = float_labels(self, x, y)
        check_generator(x, generator)
        exact = torch.promote_types(x.dtype, torch.float32)
        if not self.training:
            rows = torch.arange(len(x), device=x.device)
            return (x, y, rows, torch.ones_like(rows, dtype=exact)) if return_mix else (x, y)
        partner = torch.randperm(len(x), generator=generator, device=x.device)
        lam = self._lam(x, generator).to(exact).expand(len(x))
        out = interpolate(x, x[partner], lam), interpolate(y, y[partner], lam)
        return (*out, partner, lam) if return_mix else out

    def _lam(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return draws from Beta(α, α): (1,), or (N,) per sample.

        (1 + t / √(2α + t²)) / 2 is one where t follows Student's t with 2α degrees of freedom,
        and Bailey's polar form of t needs two uniform numbers u, v and no rejection: with
        w = u^(1/α) and c = cos 2πv, t / √(2α + t²) = c √(1 - w) / √(w + (1 - w) c²).
        """
        draw = uniform(x, 2, len(x) if self.per_sample else 1, generator=generator)
        w, c = draw[0] ** (1 / self.alpha), torch.cos(2 * math.pi * draw[1])
        return 0.5 + 0.5 * c * (1 - w).sqrt() / (w + (1 - w) * c**2).sqrt()

    def extra_repr(self) -> str:
        """Show the options."""
        return f"{self.num_classes}, alpha={self.alpha}, per_sample={self.per_sample}"
