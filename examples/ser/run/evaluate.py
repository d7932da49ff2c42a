"""Scores of a model on segments: utterance posteriors, WA, UA, F1, confusion, calibration."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score
from torch import Tensor, nn

from examples.ser.data.segments import Segments


@torch.no_grad()
def utterance_posteriors(
    model: nn.Module, segments: Segments, num_classes: int, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Return classes (U,) and the mean posteriors (U, K) of the segments, by utterance."""
    model.eval()
    ids, owner = segments.utterance.unique(return_inverse=True)
    y = torch.empty_like(ids).index_copy_(0, owner, segments.y)
    total = torch.zeros(len(ids), num_classes, dtype=torch.float64, device=owner.device)
    for index in torch.arange(len(segments), device=owner.device).split(batch_size):
        # DIFF: Algorithm 2 averages "Model(s)", logits or probabilities; we average probabilities.
        posterior = model(segments.x[index]).double().softmax(1)
        total.index_add_(0, owner[index], posterior)
    return y.cpu(), (total / owner.bincount()[:, None]).cpu()


def expected_calibration_error(posterior: np.ndarray, y: np.ndarray, bins: int = 15) -> float:
    """Return the ECE: |accuracy - confidence| of equal-width bins, weighted by their share."""
    confidence = posterior.max(1)
    correct = posterior.argmax(1) == y
    index = np.minimum((confidence * bins).astype(int), bins - 1)  # 1.0 belongs to the last bin
    gap = np.bincount(index, correct - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def scores(posterior: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Return WA (Eq. 15), UA (Eq. 16), F1 by class (Eq. 17) and mean in percent; ECE in [0, 1]."""
    predicted = posterior.argmax(1)
    classes = np.arange(len(labels))
    f1 = f1_score(y, predicted, labels=classes, average=None, zero_division=0.0)
    recall = recall_score(y, predicted, labels=np.unique(y), average="macro", zero_division=0.0)
    return {
        "WA": 100 * accuracy_score(y, predicted),
        "UA": 100 * recall,
        "F1": 100 * float(f1.mean()),
        **{f"F1_{label}": 100 * float(value) for label, value in zip(labels, f1, strict=True)},
        "ECE": expected_calibration_error(posterior, y),
    }


def confusion(posterior: np.ndarray, y: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Return counts (K, K): a row per actual class, a column per predicted one."""
    return confusion_matrix(y, posterior.argmax(1), labels=np.arange(len(labels)))
