"""Cross entropy for soft labels, with class weights, smoothing and ignore_index."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icasa._check import check_one_of, check_same_device

Weights = Tensor | Sequence[float]  # or a numpy array


def soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Weights | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    sample_weight: Weights | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Cross entropy for class indices and for soft (mixed) labels, with class and sample weights.

    With p the target as probabilities, q = softmax(logits), w the class weights, s the sample
    weights and p' = (1 - ε) p + (ε / K) Σ_k p_k:

    .. math:: \ell_n &= -s_n \sum_k w_k p'_{nk} \log q_{nk} \\
              \text{mean} &= \frac{\sum_n \ell_n}{\sum_n s_n \sum_k w_k p_{nk}}

    For integer targets this is :func:`torch.nn.functional.cross_entropy`. For soft targets torch
    divides by N instead, so class weights change the scale of the loss. Here the mean loss of the
    labels λ y_i + (1 - λ) y_j equals λ CE(y_i) + (1 - λ) CE(y_j), the mix of the cross entropies,
    if the partners are a permutation and λ is one number.

    Args:
        logits: unnormalised scores.
        target: class indices, or soft labels (any non-negative weights; rows need not sum to 1).
        weight: one weight per class, a tensor, a list or a numpy array.
        label_smoothing: ε in [0, 1].
        ignore_index: the class that is left out of the sum and of the divisor.
        sample_weight: one weight per sample, such as the weights of ``AAM(fixed_size=True)``.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for the ℓ_n.

    Shape:
        logits (N, K), target (N,) or (N, K), weight (K,), sample_weight (N,); the result is a
        scalar, or (N,) without reduction, in float32 at least.

    Raises:
        ValueError: a shape, class index or option that is not valid. (Under torch.compile the
            class indices are not read.)

    Reference:
        Li et al. 2026, section 2.1, Eq. 2.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> from icasa import soft_cross_entropy
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> a, b = torch.tensor([0, 1]), torch.tensor([1, 0])
    >>> w = torch.tensor([1.0, 5.0])
    >>> mixed = 0.3 * F.one_hot(a) + 0.7 * F.one_hot(b)
    >>> loss = soft_cross_entropy(logits, mixed, weight=w)
    >>> ce_a, ce_b = F.cross_entropy(logits, a, w), F.cross_entropy(logits, b, w)
    >>> torch.isclose(loss, 0.3 * ce_a + 0.7 * ce_b)
    tensor(True)
    """
    _check_target(logits, target, ignore_index)
    check_one_of("reduction", reduction, ("none", "sum", "mean"))
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"expected label_smoothing in [0, 1], got {label_smoothing}")
    log_q = F.log_softmax(logits, 1, dtype=torch.promote_types(logits.dtype, torch.float32))
    classes = torch.arange(logits.shape[1], device=logits.device)
    p = target if target.ndim == 2 else target.unsqueeze(1) == classes  # (N, K)
    p = p.to(log_q.dtype) * (classes != ignore_index)
    smooth = (1 - label_smoothing) * p + label_smoothing / len(classes) * p.sum(1, keepdim=True)
    w = _weights("weight", weight, len(classes), log_q)
    s = _weights("sample_weight", sample_weight, len(log_q), log_q)
    # A class without mass adds nothing, even where its log probability is -inf (0 * inf is NaN).
    loss = -s * (w * smooth * log_q.masked_fill(smooth == 0, 0)).sum(1)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / (s * (w * p).sum(1)).sum()


def _weights(name: str, value: Any, size: int, like: Tensor) -> Tensor:
    """Return ``value`` as a tensor (size,) of the dtype and on the device of ``like``."""
    if value is None:
        return like.new_ones(size)
    if not isinstance(value, Tensor):
        value = torch.tensor(value, device=like.device)
    if value.shape != (size,):
        raise ValueError(
            f"expected {name} of shape ({size},), got {tuple(value.shape)}; "
            f"give one for each {'class' if name == 'weight' else 'sample'}"
        )
    check_same_device(name, value, like, "logits")
    weights: Tensor = value.to(like.dtype)
    return weights


def _check_target(logits: Tensor, target: Tensor, ignore_index: int) -> None:
    """Raise unless the shapes fit together and every class index is a class or ignored."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(
            "soft_cross_entropy expected floating logits of shape (N, K), "
            f"got {logits.dtype} {tuple(logits.shape)}; flatten other axes into N first"
        )
    n, k = logits.shape
    if not isinstance(target, Tensor):
        raise ValueError(
            f"expected target to be a tensor, got {type(target).__name__}; "
            f"number the classes 0..{k - 1} and call torch.as_tensor"
        )
    check_same_device("target", target, logits, "logits")
    if target.shape not in ((n,), (n, k)):
        raise ValueError(
            f"expected target of shape ({n},), class indices, or ({n}, {k}), soft labels, to go "
            f"with logits ({n}, {k}), got {tuple(target.shape)}"
        )
    if target.ndim == 1 and target.is_floating_point():
        raise ValueError(f"expected integer class indices, got {target.dtype}; call target.long()")
    if target.ndim == 1:
        target = target.long()  # the classes may be past a smaller type
    if target.ndim == 1 and not torch.compiler.is_compiling():
        bad = target[((target < 0) | (target >= k)) & (target != ignore_index)]
        if len(bad):
            raise ValueError(
                f"expected class indices in 0..{k - 1}, got {bad[0].item()}; "
                f"mark samples to leave out with ignore_index={ignore_index}"
            )
