"""Picture of the attention layers: gates along both axes, SA's gate and beta."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

LEAST_SPAN = 0.05  # of a gate's axis, so that rounding does not look like attention
CAPTION = (
    "Where a gate is high the layer keeps its input, where it is low it weakens it; "
    "a flat curve or a map of one colour scales all alike."
)


def draw_attention(
    spectrogram: Any,
    maps: Mapping[str, Any],
    path: Path,
    row_groups: Mapping[str, int] | None = None,
) -> None:
    """Draw the spectrogram once, and below it the gates of every layer on one scale of colours.

    Gates are means over the channels of the first sample, stretched to the spectrogram's size
    where a layer follows a pool. A layer with gates along both axes has g_w above and g_h to the
    left of its gate by position: SA's in ICASA, whose beta is the weight of ICA, and g_h g_w where
    the layer has no other. On a map of one row all are curves over time. A layer with one gate per
    channel (SE, ECA) shows them over the channels.

    Args:
        spectrogram: (frequency, time), the input of the model, for example the MFCC.
        maps: ``icasa.attention_maps`` of it, or some of its layers.
        path: of the picture; its suffix sets the format.
        row_groups: names of the spectrogram's rows from below, each with how many rows it has.

    Raises:
        ValueError: if ``maps`` is empty or the spectrogram is not of two axes.
    """
    picture = np.asarray(spectrogram)
    if picture.ndim != 2 or not maps:
        raise ValueError(
            f"expected a spectrogram (frequency, time) and at least one layer, got "
            f"{picture.shape} and {len(maps)} layers; give x[0, 0] and a model with attention"
        )
    gates = {name: _along_axes(layer.gates) for name, layer in maps.items()}
    planes = [gate for found in gates.values() for gate in found.values() if min(gate.shape) > 1]
    limits = _limits(np.concatenate([gate.ravel() for gate in planes])) if planes else (0, 1)
    scale = dict(zip(("vmin", "vmax"), limits, strict=True))
    heights = [3.0, *(h for found in gates.values() for h in (1.2, 3.0 * _has_plane(found)))]
    figure = plt.figure(figsize=(11, sum(heights) + 1), layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(1, 7), height_ratios=[
        max(height, 0.01) for height in heights
    ])  # fmt: skip
    top = figure.add_subplot(grid[0, 1])
    _draw_spectrogram(top, picture, row_groups or {})
    shown = []
    for row, (name, found) in enumerate(gates.items()):
        beta = maps[name].beta
        title = name if beta is None else f"{name}: β = {float(beta):.3f}"
        line = figure.add_subplot(grid[2 * row + 1, 1])
        line.set_title(title, fontsize=11)
        _draw_curves(line, found, picture.shape[1])
        if _has_plane(found):
            side, middle = (figure.add_subplot(grid[2 * row + 2, k]) for k in (0, 1))
            shown.append(_draw_plane(middle, found, picture.shape, scale))
            _name_rows(middle, row_groups or {})
            _draw_rows(side, found, picture.shape[0])
    if shown:
        planes_axes = [image.axes for image in shown]
        figure.colorbar(shown[0], ax=planes_axes, label="gate by position", fraction=0.03)
    figure.supxlabel(CAPTION, fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _along_axes(gates: Any) -> dict[str, np.ndarray]:
    """Return the mean gates of a layer by what they are along: rows, time, position, channels."""
    found: dict[str, np.ndarray] = {}
    sample = [gate[0].detach().float().cpu().numpy() for gate in gates]
    for gate in sample:  # (C, H, W), 1 for an axis without gate
        _, height, width = gate.shape
        if height > 1 and width > 1:
            found["by position"] = gate.mean(0)
        elif height > 1:
            found["$g_h$"] = gate.mean(0)
        elif width > 1:
            found["by position" if "$g_w$" in found else "$g_w$"] = gate.mean(0)
        else:
            found["channels"] = gate[:, :, 0]
    if {"$g_h$", "$g_w$"} <= found.keys() and "by position" not in found:
        along, across = (next(g for g in sample if g.shape[k] > 1) for k in (1, 2))
        found["by position"] = (along * across).mean(0)
    return found


def _has_plane(found: Mapping[str, np.ndarray]) -> bool:
    return any(gate.shape[0] > 1 for name, gate in found.items() if name != "channels")


def _draw_spectrogram(axes: Any, picture: np.ndarray, row_groups: Mapping[str, int]) -> None:
    height, width = picture.shape
    place = {"origin": "lower", "aspect": "auto", "extent": (0, width, 0, height)}
    axes.imshow(picture, cmap="Greys", **place)
    axes.set(title="input", xlabel="time (frames)")
    _name_rows(axes, row_groups)


def _name_rows(axes: Any, row_groups: Mapping[str, int]) -> None:
    """Name the groups of rows on the left, with lines between them; or call them rows."""
    if not row_groups:
        axes.set_ylabel("row")
        return
    sizes = np.array([*row_groups.values()])
    ends = np.cumsum(sizes)
    axes.set_yticks(ends - sizes / 2, [*row_groups])
    for end in ends[:-1]:
        axes.axhline(end, color="C3", linewidth=0.8)


def _draw_curves(axes: Any, found: Mapping[str, np.ndarray], width: int) -> None:
    """Draw what varies over time alone, or the gates of channels."""
    curves = {name: gate[0] for name, gate in found.items() if gate.shape[0] == 1}
    if "channels" in found and not curves:
        axes.plot(found["channels"][:, 0], ".", markersize=3)
        axes.set(xlabel="channel", ylabel="gate")
        return
    for name, gate in curves.items():
        axes.plot((np.arange(gate.size) + 0.5) * width / gate.size, gate, label=name)
    if not curves:
        axes.axis("off")
        return
    low, high = _limits(np.concatenate([*curves.values()]))
    axes.set(ylim=(low, high), yticks=(low, high), xlim=(0, width), ylabel="gate")
    axes.set_yticklabels([f"{low:.2f}", f"{high:.2f}"])
    axes.legend(loc="upper right", ncols=len(curves), fontsize=8)
    if not _has_plane(found):
        axes.set_xlabel("time (frames)")


def _draw_plane(
    axes: Any, found: Mapping[str, np.ndarray], shape: tuple[int, ...], scale: Mapping[str, Any]
) -> Any:
    """Draw the gate by position on the common scale; rows alone fill the width."""
    gate = found.get("by position", found.get("$g_h$"))
    place = {"origin": "lower", "aspect": "auto", "extent": (0, shape[1], 0, shape[0])}
    axes.set_xlabel("time (frames)")
    return axes.imshow(gate, cmap="viridis", **place, **scale)


def _draw_rows(axes: Any, found: Mapping[str, np.ndarray], height: int) -> None:
    """Draw the gate along the rows, if there is one."""
    gate = found.get("$g_h$")
    if gate is None:
        axes.axis("off")
        return
    low, high = _limits(gate)
    axes.plot(gate[:, 0], (np.arange(gate.size) + 0.5) * height / gate.size)
    axes.set(xlim=(low, high), xticks=(low, high), ylim=(0, height), title="$g_h$")
    axes.set_xticklabels([f"{low:.2f}", f"{high:.2f}"])


def _limits(gate: np.ndarray) -> tuple[float, float]:
    """Return the limits of a gate's axis: around its values, at least ``LEAST_SPAN`` apart."""
    centre = float(gate.min() + gate.max()) / 2
    half = max(0.55 * float(np.ptp(gate)), LEAST_SPAN / 2)
    return centre - half, centre + half
