"""The picture of the landing page: gates of a fresh layer's three kinds over one spectrogram.

``python -m drawings.hero OUT`` (from docs/, with the repository on the path) draws it twice, for
light and dark pages: a clip of the synthetic corpus, which no person spoke, its log-mel energies,
and the gates of an ICASA that was trained to tell speech from its noise.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import nn

from examples.ser.synthetic import synthesize
from icasa import ICASA, attention_maps

mpl.use("Agg")
import matplotlib.pyplot as plt

BLUE = "#56B4E9"  # Okabe and Ito
STEPS = 150
RATE, WINDOW, HOP, BANDS = 16_000, 400, 160, 48
THEMES = {"light": ("#1f2328", "Greys"), "dark": ("#e6e8eb", "Greys_r")}


def spectrogram(wave: np.ndarray) -> torch.Tensor:
    """Return log energies (bands, frames) in bands of equal width up to 6 kHz, standardised."""
    frames = torch.from_numpy(wave).float().unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW)
    power = torch.fft.rfft(frames).abs()[:, : 3 * BANDS].square()
    energy = (power.view(-1, BANDS, 3).mean(2) + 1e-6).log().T
    return (energy - energy.mean()) / energy.std()


def train(x: torch.Tensor) -> nn.Module:
    """Train a small network with ICASA to remove noise, so that its gates have something to do."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), ICASA(16), nn.Conv2d(16, 1, 5, padding=2)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(STEPS):
        noisy = x + torch.randn_like(x)
        loss = nn.functional.mse_loss(net(noisy), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def draw(x: np.ndarray, gates: list[np.ndarray], beta: float, theme: str, path: Path) -> None:
    """Draw the spectrogram with ICA's gates at its edges, and SA's gate beside it."""
    ink, grey = THEMES[theme]
    seconds = x.shape[1] * HOP / RATE
    extent = (0, seconds, 0, 6)
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": ink,
                         "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink,
                         "axes.titlecolor": ink})  # fmt: skip
    figure = plt.figure(figsize=(7.4, 3.7), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1.4, 5, 5), height_ratios=(1, 4))
    top, side = figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, 0])
    speech, plane = (figure.add_subplot(grid[1, k]) for k in (1, 2))
    rows, columns, positions = gates
    top.plot(np.linspace(0, seconds, columns.size), columns.ravel(), color=BLUE)
    top.set(xlim=(0, seconds), xticks=[], title="ICA: a gate for each moment")
    side.plot(rows.ravel(), np.linspace(0, 6, rows.size), color=BLUE)
    side.set(ylim=(0, 6), ylabel="frequency (kHz)", title="and frequency")
    speech.imshow(x, cmap=grey, origin="lower", aspect="auto", extent=extent)
    speech.set(xlabel="time (s)", yticks=[], title="the input")
    image = plane.imshow(positions, cmap="viridis", origin="lower", aspect="auto", extent=extent)
    plane.set(xlabel="time (s)", yticks=[], title="SA: for each position")
    figure.colorbar(image, ax=plane, label="gate")
    figure.suptitle(f"ICASA mixes both: {beta:.2f} ICA + {1 - beta:.2f} SA", color=ink)
    figure.savefig(path, dpi=150, transparent=True)
    plt.close(figure)


def main(out: Path) -> None:
    """Draw both."""
    x = spectrogram(synthesize("angry", 1, take=0))
    net = train(x[None, None])
    (maps,) = attention_maps(net, x[None, None]).values()
    gates = [gate[0].mean(0).numpy() for gate in maps.gates]
    for theme in THEMES:
        draw(x.numpy(), gates, float(maps.beta), theme, out / f"gates-{theme}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
