"""The AAM training step: difficulties from the forward pass that training makes anyway."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from icasa.augment.aam import AAM
from icasa.augment.loss import soft_cross_entropy
from icasa.augment.pairs import MixedPairs


class AAMLoss(NamedTuple):
    """Result of :func:`aam_loss`.

    ``loss`` is the scalar to call ``backward()`` on; ``logits`` (N, K) are those of the originals,
    for the training accuracy; ``difficulty`` (N,) their detached losses, for a bank or a log;
    ``pairs`` the mixed pairs, ``pairs.weight().sum()`` of them.
    """

    loss: Tensor
    logits: Tensor
    difficulty: Tensor
    pairs: MixedPairs


def aam_loss(
    model: Callable[[Tensor], Tensor],
    aam: AAM,
    x: Tensor,
    y: Tensor,
    *,
    criterion: Callable[..., Tensor] = soft_cross_entropy,
    utterance: Tensor | None = None,
    lengths: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> AAMLoss:
    r"""Return the loss of one AAM training step, without a second pass over the originals.

    The losses of the originals, which the step needs anyway, are the difficulties d of Eq. 2; only
    the M mixed samples go through the model again:

    .. math:: L = \frac{1}{N + M} \left(
              \sum_{i=1}^{N} \ell(f(x_i), y_i) + \sum_{m=1}^{M} \ell(f(\tilde x_m), \tilde y_m)
              \right)

    In ``aam.eval()``, or where no pair is admitted, L is the mean over the originals.

    Args:
        model: f, called once or twice. DistributedDataParallel requires as many calls on every
            rank, and BatchNorm over vectors (N, C) more than one row: ``fixed_size=True`` gives
            both. (torch 2.4 with BatchNorm under it needs ``broadcast_buffers=False`` too.)
        aam: with ``fixed_size`` the rows without a partner count 0.
        x: the batch.
        y: its labels.
        criterion: ℓ, called as ``criterion(logits, target, reduction="none")`` with float targets
            (., K), must return one loss per sample; its class weights enter d as well.
        utterance: as in :meth:`AAM.forward`.
        lengths: as in :meth:`AAM.forward`.
        generator: as in :meth:`AAM.forward`.

    Shape:
        x (N, \*), y (N,) or (N, K).

    Raises:
        ValueError: as :class:`AAM`, and for a criterion that does not return (N,).

    Reference:
        Li et al. 2026, section 2.1, Algorithm 1, lines 12 and 13.

    >>> model = torch.nn.Linear(5, 3)
    >>> step = aam_loss(model, AAM(3, threshold=0.0), torch.randn(8, 5), torch.randint(3, (8,)))
    >>> step.loss.backward()
    >>> step.logits.shape, step.difficulty.shape
    (torch.Size([8, 3]), torch.Size([8]))
    """
    y = aam.float_labels(x, y)
    logits = model(x)
    losses = _losses(criterion, logits, y)
    difficulty = losses.detach()
    x_mix, y_mix, pairs = aam.mix(
        x, y, difficulty, utterance=utterance, lengths=lengths, generator=generator
    )
    if not len(x_mix):
        return AAMLoss(losses.mean(), logits, difficulty, pairs)
    # DIFF: Algorithm 1 trains on one augmented batch after a pass of its own for lines 12-13; here
    # BatchNorm sees originals and mixed as two batches, and that pass is saved.
    mixed = _losses(criterion, model(x_mix), y_mix)
    weight = pairs.weight()
    loss = (losses.sum() + (weight * mixed).sum()) / (len(x) + weight.sum())
    return AAMLoss(loss, logits, difficulty, pairs)


def _losses(criterion: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each sample: (N,)."""
    losses = criterion(logits, target, reduction="none")
    if losses.shape != target.shape[:1]:
        raise ValueError(
            f"expected criterion to return one loss per sample, shape {tuple(target.shape[:1])}, "
            f"got {tuple(losses.shape)}; average its class axis and honour reduction='none'"
        )
    return losses
