"""Calibration of utterance posteriors (Table 14), and its picture (Fig. 9)."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from examples.ser.run.evaluate import expected_calibration_error

BINS = 15
THRESHOLD = 0.9


def calibration(
    posterior: np.ndarray, y: np.ndarray, bins: int = BINS, threshold: float = THRESHOLD
) -> dict[str, float]:
    """Return ECE, MCE, Brier score, and number and accuracy of the confident utterances.

    Args:
        posterior: (U, K), rows summing to 1.
        y: (U,) class indices.
        bins: of equal width over the confidence, the largest probability; MCE is the largest
            |accuracy - confidence| of the non-empty ones.
        threshold: the least confidence of a confident utterance.

    Returns:
        ECE, MCE and accuracy in [0, 1], Brier in [0, 2] (the squared error summed over classes);
        the accuracy is NaN where nothing is confident.
    """
    # DIFF: Table 14 defines neither its bins nor its Brier score nor "high-confidence".
    rows = reliability(posterior, y, bins)
    confident = posterior.max(1) >= threshold
    right = posterior.argmax(1) == y
    return {
        "ECE": expected_calibration_error(posterior, y, bins),
        "MCE": max(abs(row["accuracy"] - row["confidence"]) for row in rows if row["count"]),
        "Brier": float(((posterior - np.eye(posterior.shape[1])[y]) ** 2).sum(1).mean()),
        "confident": int(confident.sum()),
        "confident_accuracy": float(right[confident].mean()) if confident.any() else float("nan"),
    }


def calibrated(
    posterior: np.ndarray, bins: int = BINS, level: float = 0.95, draws: int = 999, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the ECE that perfectly calibrated posteriors would have.

    Each draw takes the class of an utterance from its own posterior. A finite number of utterances
    gives an ECE above zero; an ECE within the interval shows no miscalibration.
    """
    rng = np.random.default_rng(seed)
    reach = posterior.cumsum(1)
    reach /= reach[:, -1:]
    found = [
        expected_calibration_error(
            posterior, (rng.random((len(posterior), 1)) > reach).sum(1), bins
        )
        for _ in range(draws)
    ]
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def reliability(posterior: np.ndarray, y: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Return a row per bin: edges, count, mean confidence and accuracy (NaN if empty)."""
    if posterior.ndim != 2 or y.shape != posterior.shape[:1] or not len(y):
        raise ValueError(
            f"expected posteriors (U, K) and classes (U,) of at least one utterance, got "
            f"{posterior.shape} and {y.shape}; give a row and a class per utterance"
        )
    if (posterior < 0).any() or not np.allclose(posterior.sum(1), 1, atol=1e-3):
        raise ValueError(
            f"expected probabilities whose rows sum to 1, got values from {posterior.min():.3g} "
            f"and sums up to {posterior.sum(1).max():.3g}; apply a softmax"
        )
    confidence = posterior.max(1)
    right = posterior.argmax(1) == y
    index = np.minimum((confidence * bins).astype(int), bins - 1)  # as in the ECE
    rows = []
    for i in range(bins):
        held = index == i
        row = {"low": i / bins, "high": (i + 1) / bins, "count": int(held.sum())}
        row |= {"confidence": float("nan"), "accuracy": float("nan")}
        if held.any():
            row |= {"confidence": float(confidence[held].mean())}
            row |= {"accuracy": float(right[held].mean())}
        rows.append(row)
    return rows


def draw_calibration(
    posterior: np.ndarray, y: np.ndarray, title: str, path: Path, bins: int = BINS
) -> None:
    """Draw accuracy by confidence, and the confidence of right and of wrong decisions."""
    rows = reliability(posterior, y, bins)
    edges = [row["low"] for row in rows] + [1.0]
    right = posterior.argmax(1) == y
    figure, (left, histogram) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
    left.bar(
        edges[:-1],
        [row["accuracy"] for row in rows],
        1 / bins,
        align="edge",
        edgecolor="w",
        color="#56B4E9",
    )
    left.plot(
        (0, 1), (0, 1), color="grey", linewidth=0.8, linestyle=":", label="perfectly calibrated"
    )
    held = [row for row in rows if row["count"]]
    left.plot(
        [r["confidence"] for r in held],
        [r["accuracy"] for r in held],
        "k.",
        label="mean",
    )
    left.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    left.legend()
    sides = [posterior.max(1)[right], posterior.max(1)[~right]]
    histogram.hist(
        sides, edges, label=["right answers", "wrong answers"], color=["#0072B2", "#D55E00"]
    )
    histogram.set(xlim=(0, 1), xlabel="confidence", ylabel="clips")
    histogram.legend()
    found = calibration(posterior, y, bins)
    figure.suptitle(f"{title}\nECE {found['ECE']:.3f}, MCE {found['MCE']:.3f}")
    figure.savefig(path, dpi=150)
    plt.close(figure)
