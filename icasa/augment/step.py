"""The AAM training step: difficulties from the forward pass that training makes anyway."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icasa.augment.aam import AAM
from icasa.augment.loss import soft_cross_entropy
from icasa.augment.pairs import MixedPairs

# PyTorch has no public name for the base of its losses. A version without it has none to refuse.
LOSSES = getattr(nn.modules.loss, "_Loss", ())


class AAMLoss(NamedTuple):
    """Result of :func:`aam_loss`.

    ``loss``: the scalar to call ``backward()`` on. ``logits`` (N, K): those of the originals, for
    the training accuracy. ``difficulty`` (N,): the detached losses of the originals, for a bank or
    a log. ``pairs``: the mixed pairs; their number is ``pairs.weight().sum()``.
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

    The step needs the losses of the originals anyway. They are also the difficulties d of Eq. 2.
    So only the M mixed samples need another forward:

    .. math:: L &= \frac{\sum_{i=1}^{N} \ell(f(x_i), y_i) +
                        \sum_{m=1}^{M} \ell(f(\tilde x_m), \tilde y_m)}
                       {\sum_{i=1}^{N} v(y_i) + \sum_{m=1}^{M} v(\tilde y_m)} \\
              v(y) &= \sum_k w_k y_k

    with w the class weights of the criterion; without class weights v = 1. So L is the criterion's
    mean over original and mixed samples. In ``aam.eval()``, or if no pair passes, L is the loss of
    the originals, ``criterion(model(x), y)``.

    Args:
        model: f, called once or twice. ``fixed_size=True`` always calls it twice. That is needed
            with DistributedDataParallel, where every rank must make as many calls, and with a
            BatchNorm over vectors (N, C), which needs more than one row.
        aam: the augmentation. With ``fixed_size`` the rows without a partner have weight 0.
        x: the batch.
        y: its labels.
        criterion: ℓ, called as ``criterion(logits, target, reduction=...)`` with float targets
            (., K). It must return one loss per sample for "none" and their mean for "mean". Its
            class weights also enter d. torch's cross entropy, function or module, is replaced by
            :func:`soft_cross_entropy` with its options: torch's mean over float targets leaves the
            class weights out of v.
        utterance: as in :meth:`AAM.forward`.
        lengths: as in :meth:`AAM.forward`.
        generator: as in :meth:`AAM.forward`.

    Shape:
        x (N, \*), y (N,) or (N, K).

    Raises:
        ValueError: as :class:`AAM`, and if the criterion cannot be called like this or does not
            return (N,).

    Reference:
        Li et al. 2026, section 2.1, Algorithm 1, lines 12 and 13.

    >>> import torch
    >>> from icasa import AAM, aam_loss
    >>> model = torch.nn.Linear(5, 3)
    >>> step = aam_loss(model, AAM(3, threshold=0.0), torch.randn(8, 5), torch.randint(3, (8,)))
    >>> step.loss.backward()
    >>> step.logits.shape, step.difficulty.shape
    (torch.Size([8, 3]), torch.Size([8]))
    """
    criterion = _soft(criterion)
    y = aam.float_labels(x, y)
    logits = model(x)
    losses = _losses(criterion, logits, y)
    difficulty = losses.detach()
    x_mix, y_mix, pairs = aam.mix(
        x, y, difficulty, utterance=utterance, lengths=lengths, generator=generator
    )
    target, weight = torch.cat([y, y_mix]), torch.cat([torch.ones_like(y[:, 0]), pairs.weight()])
    if len(x_mix):
        # DIFF: Algorithm 1 trains on one augmented batch after a pass of its own for lines 12-13;
        # here BatchNorm sees originals and mixed as two batches, and that pass is saved.
        losses = torch.cat([losses, _losses(criterion, model(x_mix), y_mix)])
    loss = (weight * losses).sum() / _divisor(criterion, target, weight)
    return AAMLoss(loss, logits, difficulty, pairs)


def _soft(criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return ``criterion``, or soft_cross_entropy with its options for torch's cross entropy."""
    if criterion is F.cross_entropy:
        return soft_cross_entropy
    if isinstance(criterion, partial) and criterion.func is F.cross_entropy:
        return partial(soft_cross_entropy, *criterion.args, **criterion.keywords)
    if type(criterion) is nn.CrossEntropyLoss and criterion.reduction != "sum":
        options = ("weight", "label_smoothing", "ignore_index")
        return partial(soft_cross_entropy, **{name: getattr(criterion, name) for name in options})
    if isinstance(criterion, LOSSES):
        raise ValueError(
            f"expected a criterion called as criterion(logits, target, reduction='none'), "
            f"got {criterion}; pass a function, such as partial(soft_cross_entropy, weight=w)"
        )
    return criterion


def _divisor(criterion: Callable[..., Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Return what a mean of ``criterion`` over the rows of ``target`` divides by: (,).

    It is the sum of v over the rows, each as often as its ``weight`` says. As v is linear in the
    label, that is v of the mean label times the number of rows, and v of one row is its loss by
    its mean, whatever the logits are.
    """
    exact = torch.promote_types(target.dtype, torch.float32)
    weight = weight.to(exact)
    # A product and a sum, as autocast would round a matrix product.
    label = (weight.unsqueeze(1) * target).sum(0, keepdim=True) / weight.sum()  # (1, K)
    logits = torch.linspace(-1, 1, label.shape[1], dtype=exact, device=label.device).unsqueeze(0)
    loss, mean = (criterion(logits, label, reduction=name).sum() for name in ("none", "mean"))
    return weight.sum() * torch.where(loss == mean, 1, loss / mean)  # 0 / 0 without a loss


def _losses(criterion: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each sample: (N,)."""
    losses = criterion(logits, target, reduction="none")
    if losses.shape != target.shape[:1]:
        raise ValueError(
            f"expected criterion to return one loss per sample, shape {tuple(target.shape[:1])}, "
            f"got {tuple(losses.shape)}; return one number per sample for reduction='none'"
        )
    return losses
