"""Pictures of one run: confusion matrix, learning curves, beta per epoch (Fig. 5)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

History = Sequence[dict[str, Any]]


def draw_confusion(counts: np.ndarray, labels: Sequence[str], title: str, path: Path) -> None:
    """Row-normalised confusion matrix in percent."""
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(6, 5.4), layout="constrained")
    display = ConfusionMatrixDisplay(share, display_labels=labels)
    display.plot(ax=axes, cmap="Blues", values_format=".0f", colorbar=False)
    axes.tick_params(axis="x", rotation=45)
    axes.set(title=title, xlabel="predicted (% of the actual class)", ylabel="actual")
    _save(figure, path)


def draw_curves(history: History, title: str, path: Path) -> None:
    """Loss and weighted accuracy by epoch, for each part of the split that was evaluated."""
    epochs = [row["epoch"] for row in history]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for part in ("train", "validation", "test"):
        for axes, measure in ((left, "loss"), (right, "WA")):
            values = [row.get(f"{part}_{measure}") for row in history]
            if all(value is not None for value in values):
                axes.plot(epochs, values, marker="." if len(epochs) < 20 else "", label=part)
    left.set(xlabel="epoch", ylabel="cross entropy (nats)")
    right.set(xlabel="epoch", ylabel="WA (%)")
    left.legend()
    figure.suptitle(title)
    _save(figure, path)


def draw_beta(history: History, title: str, path: Path) -> None:
    """Beta of every ICASA by epoch, where there are any."""
    places = [key for key in history[0] if key.startswith("beta_")]
    if not places:
        return
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for place in places:
        axes.plot([r["epoch"] for r in history], [r[place] for r in history], label=place[5:])
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(title=title, xlabel="epoch", ylabel="beta (weight of ICA)")
    axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
