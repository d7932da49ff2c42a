"""Picture of the attention layers: gates along both axes, SA's gate and beta."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

LEAST_SPAN = 0.05  # of a gate's axis, so that rounding does not look like attention


def draw_attention(spectrogram: Any, maps: Mapping[str, Any], path: Path) -> None:
    """Draw a row per layer: the spectrogram with the gates along its axes, then the gate map.

    Gates are means over the channels of the first sample, stretched to the spectrogram's size
    where a layer follows a pool. For ICASA they are ICA's g_h and g_w, then SA's by position;
    β is the weight of ICA. White lines are the spectrogram's upper quartile. The panel of a gate
    that a layer does not have stays empty.

    Args:
        spectrogram: (frequency, time), the input of the model, for example the MFCC.
        maps: ``icasa.attention_maps`` of it, or some of its layers.
        path: of the picture; its suffix sets the format.

    Raises:
        ValueError: if ``maps`` is empty or the spectrogram is not of two axes.
    """
    picture = np.asarray(spectrogram)
    if picture.ndim != 2 or not maps:
        raise ValueError(
            f"expected a spectrogram (frequency, time) and at least one layer, got "
            f"{picture.shape} and {len(maps)} layers; give x[0, 0] and a model with attention"
        )
    figure = plt.figure(figsize=(11, 3.2 * len(maps)), layout="constrained")
    grid = figure.add_gridspec(
        2 * len(maps), 3, width_ratios=(1, 5, 6), height_ratios=(1, 4) * len(maps)
    )
    for row, (name, layer) in enumerate(maps.items()):
        title = name if layer.beta is None else f"{name}: β = {float(layer.beta):.3f}"
        cells = [(2 * row + 1, 0), (2 * row, 1), (2 * row + 1, 1), (2 * row + 1, 2)]
        axes = [figure.add_subplot(grid[cell]) for cell in cells]
        axes[1].set_title(title, fontsize=11)
        _draw_layer(axes, picture, [_mean(gate) for gate in layer.gates])
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _mean(gate: Any) -> np.ndarray:
    """Return the mean over the channels of the first sample: (H, W), 1 for an axis without gate."""
    mean: np.ndarray = gate[0].detach().float().mean(0).cpu().numpy()
    return mean


def _draw_layer(axes: list[Any], picture: np.ndarray, gates: list[np.ndarray]) -> None:
    left, top, middle, right = axes
    height, width = picture.shape
    place = {"origin": "lower", "aspect": "auto", "extent": (0, width, 0, height)}
    middle.imshow(picture, cmap="Greys", **place)
    middle.set(xlabel="time (frames)", ylabel="row")
    for ax in (left, top, right):
        ax.axis("off")
    for gate in gates:
        steps, low, high = max(gate.shape), *_limits(gate)
        if gate.shape[0] > 1 and gate.shape[1] == 1:
            left.axis("on")
            left.plot(gate[:, 0], (np.arange(steps) + 0.5) * height / steps)
            left.set(xlim=(low, high), xticks=(low, high), ylim=(0, height), title="$g_h$")
            left.set_xticklabels([f"{low:.2f}", f"{high:.2f}"])
        elif gate.shape[1] > 1 and gate.shape[0] == 1:
            top.axis("on")
            top.plot((np.arange(steps) + 0.5) * width / steps, gate[0])
            low, high = _limits(np.concatenate([line.get_ydata() for line in top.lines]))
            top.set(ylim=(low, high), yticks=(low, high), xlim=(0, width), ylabel="$g_w$")
            top.set_yticklabels([f"{low:.2f}", f"{high:.2f}"])
            if len(top.lines) > 1:  # on a map of one row the gate by position is a curve too
                names = ["$g_w$", "by position"]
                top.legend(top.lines, names, loc="upper left", bbox_to_anchor=(1, 1))
                top.set_ylabel("gate")
        elif gate.size > 1:
            right.axis("on")
            shown = right.imshow(gate, cmap="viridis", **place)
            level = [np.quantile(picture, 0.75)]
            right.contour(picture, level, colors="white", linewidths=0.6, extent=place["extent"])
            right.set(title="gate by position", xlabel="time (frames)")
            right.figure.colorbar(shown, ax=right)


def _limits(gate: np.ndarray) -> tuple[float, float]:
    """Return the limits of a gate's axis: around its values, at least ``LEAST_SPAN`` apart."""
    centre = float(gate.min() + gate.max()) / 2
    half = max(0.55 * float(np.ptp(gate)), LEAST_SPAN / 2)
    return centre - half, centre + half
