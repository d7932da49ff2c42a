"""Pictures of a run: curves, confusion with counts, and the gates over an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"train": "#0072B2", "validation": "#D55E00"}  # Okabe and Ito
LEAST_SPAN = 0.02  # of the gates' colours, so that rounding does not look like attention
MOST_COUNTS = 20  # classes up to which the cells of a confusion matrix show their counts


def draw_curves(history: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Loss and accuracy by epoch of the training and the validation images."""
    epochs = [row["epoch"] for row in history]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, measure, unit in zip(axes, ("loss", "accuracy"), ("nats", "%"), strict=True):
        for part, colour in COLOURS.items():
            if f"{part}_{measure}" in history[0]:
                values = [row[f"{part}_{measure}"] for row in history]
                ax.plot(epochs, values, ".-", color=colour, label=part)
        ax.set(xlabel="epoch", ylabel=f"{measure} ({unit})")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_confusion(
    y: np.ndarray, predicted: np.ndarray, labels: Sequence[str], title: str, path: Path
) -> None:
    """Draw counts by actual and predicted class; the colour is the share of the actual class."""
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (y, predicted), 1)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.5 * len(labels), 14)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= MOST_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(labels)), labels)
    axes.set(title=title, xlabel="predicted", ylabel="actual")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_gates(image: np.ndarray, maps: Mapping[str, Any], path: Path) -> None:
    """Draw the image, then every layer's gates by position, averaged over the channels.

    The gates are what a layer multiplies its input by: their product, and for ICASA
    ``beta * g_h * g_w + (1 - beta) * SA``. The colour is the difference from the layer's own mean,
    on one scale for all layers. Of a layer with one gate per channel the map is even.
    """
    gates = {name: layer_gates(layer) for name, layer in maps.items()}
    apart = [gate.mean(0) - gate.mean() for gate in gates.values()]
    most = max(LEAST_SPAN, *(np.abs(difference).max() for difference in apart))
    figure, axes = plt.subplots(
        1, 1 + len(maps), figsize=(2.2 * (1 + len(maps)) + 0.8, 2.9), layout="constrained"
    )
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    axes[0].imshow(image, extent=extent)
    axes[0].set_title("image", fontsize=9)
    for ax, (name, gate), difference in zip(axes[1:], gates.items(), apart, strict=True):
        drawn = ax.imshow(difference, cmap="PuOr_r", vmin=-most, vmax=most, extent=extent)
        by_channel = gate.mean((1, 2))
        title = f"mean {gate.mean():.2f}, channels {by_channel.min():.2f} to {by_channel.max():.2f}"
        ax.set_title(f"{name.removesuffix('.attention')}\n{title}", fontsize=8)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    figure.colorbar(drawn, ax=axes, label="gate - its mean")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def layer_gates(layer: Any) -> np.ndarray:
    """Return what one layer multiplies the first image's map by: (C, H, W), axes of 1 allowed."""
    gates = [gate[0].detach().float().cpu().numpy() for gate in layer.gates]
    if layer.beta is None:
        return np.asarray(np.prod(np.broadcast_arrays(*gates), axis=0))
    beta = float(layer.beta)
    return np.asarray(beta * gates[0] * gates[1] + (1 - beta) * gates[2])
