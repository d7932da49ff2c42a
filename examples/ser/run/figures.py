"""Pictures of runs: confusion (Fig. 8), curves, beta by epoch (Fig. 5), boxes (Fig. 6)."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib import font_manager
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay

from examples.ser.data.corpora import Corpus
from examples.ser.grid.names import leak, name

# Okabe and Ito 2008, for readers of every colour vision; the yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#000000", "#999999")
MARKERS = "osD^v<>p"
mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=COLOURS)
MOST_NAMES = 30  # columns with names and counts
History = Sequence[dict[str, Any]]


def use_font_for(texts: Iterable[str]) -> None:
    """Add installed fonts that have the characters of labels in other scripts.

    Warns where no installed font has them: the picture then shows boxes in their place.
    """
    needed = {ord(c) for text in texts for c in text if ord(c) > 127}
    families = ["sans-serif"]
    default = font_manager.FontProperties(family=families)
    needed -= _characters(font_manager.findfont(default))
    known = [f for f in font_manager.fontManager.ttflist if not f.name.startswith("Last Resort")]
    fonts = iter(sorted(known, key=lambda font: font.name))
    while needed and (font := next(fonts, None)):
        if found := needed & _characters(font.fname):
            families.append(font.name)
            needed -= found
    mpl.rcParams["font.family"] = families
    if needed:
        shown = "".join(map(chr, sorted(needed)))
        print(
            f"note: no installed font has {shown}: pictures show boxes for these characters; "
            "install one, say fonts-noto, and remove matplotlib's font cache",
            flush=True,
        )


@cache
def _characters(path: str) -> frozenset[int]:
    """Return the characters of a font file."""
    return frozenset(font_manager.get_font(path).get_charmap())


def draw_confusion(counts: np.ndarray, labels: Sequence[str], title: str, path: Path) -> None:
    """Draw the row-normalised confusion matrix in percent, with the counts below."""
    share = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    use_font_for([*labels, title])
    side = max(5.4, 0.75 * len(labels))
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    display = ConfusionMatrixDisplay(share, display_labels=labels)
    display.plot(ax=axes, cmap="Blues", values_format=".0f", colorbar=False)
    axes.images[0].set_clim(0, 100)
    for text, value, count in zip(
        display.text_.ravel(), share.ravel(), counts.ravel(), strict=True
    ):
        color = "white" if value > 50 else "black"  # the colours go from 0 to 100
        text.set(text=f"{text.get_text()}\n({count})", fontsize=8, color=color)
    axes.tick_params(axis="x", rotation=45)
    xlabel = "predicted: % of the actual class (clips)"
    axes.set(title=title, xlabel=xlabel, ylabel="actual")
    _save(figure, path)


def draw_corpus(corpus: Corpus, seconds: Mapping[str, float], path: Path) -> None:
    """Draw the clips by class and fold, by class and speaker, and their durations by class."""
    use_font_for([*corpus.labels, *corpus.speakers, corpus.name])
    clips, labels = corpus.utterances, corpus.labels
    height = 1.8 + 0.3 * max(len(labels), 8)
    figure, row = plt.subplots(1, 3, figsize=(15, height), layout="constrained")
    columns = {
        "fold": ([str(fold) for fold in corpus.folds], [str(u.fold) for u in clips]),
        "speaker": (list(corpus.speakers), [u.speaker for u in clips]),
    }
    for axes, (what, (names, mine)) in zip(row, columns.items(), strict=False):
        counts = np.zeros((len(labels), len(names)), int)
        for u, own in zip(clips, mine, strict=True):
            counts[labels.index(u.label), names.index(own)] += 1
        axes.imshow(counts, cmap="Blues", aspect="auto", vmin=0)
        axes.set(title=f"clips by class and {what}", xlabel=what)
        axes.set_yticks(range(len(labels)), labels)
        if len(names) <= MOST_NAMES:
            axes.set_xticks(range(len(names)), names, rotation=90 if what == "speaker" else 0)
            for (i, k), count in np.ndenumerate(counts):
                color = "white" if count > counts.max() / 2 else "black"
                axes.text(k, i, count, ha="center", va="center", fontsize=7, color=color)
    durations = [[seconds[u.id] for u in clips if u.label == label] for label in labels]
    row[2].boxplot(durations)
    row[2].set_xticks(range(1, len(labels) + 1), labels, rotation=45)
    row[2].set(title="duration by class", ylabel="seconds", ylim=(0, None))
    figure.suptitle(f"{corpus.name}: {len(clips)} clips, {len(corpus.speakers)} speakers")
    _save(figure, path)


def draw_curves(history: History, title: str, path: Path) -> None:
    """Draw loss and weighted accuracy by epoch, for each part of the split."""
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
    """Draw beta of every ICASA by epoch, if there is one."""
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


def draw_betas(histories: Sequence[History], title: str, path: Path) -> None:
    """Draw beta of every ICASA by epoch: mean and range over runs."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in histories[0]]
    for place in (key for key in histories[0][0] if key.startswith("beta_")):
        values = np.array([[row[place] for row in history] for history in histories])
        (line,) = axes.plot(epochs, values.mean(0), label=f"after {place[5:].capitalize()}")
        axes.fill_between(epochs, values.min(0), values.max(0), color=line.get_color(), alpha=0.2)
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(title=title, xlabel="epoch", ylabel="β, the weight of ICA")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    _save(figure, path)


def draw_boxes(groups: dict[str, Sequence[float]], title: str, path: Path) -> None:
    """Draw the runs' weighted accuracy: quartiles, median (line) and mean (triangle) by variant."""
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.42 * len(groups)), layout="constrained")
    mean = {"markerfacecolor": COLOURS[2], "markeredgecolor": COLOURS[2]}
    look = {"medianprops": {"color": COLOURS[1]}, "meanprops": mean}
    axes.boxplot(list(groups.values()), showmeans=True, orientation="horizontal", **look)
    for place, values in enumerate(groups.values(), 1):
        axes.plot(values, [place] * len(values), "k.", alpha=0.4)
    axes.set_yticks(range(1, len(groups) + 1), list(groups))
    axes.invert_yaxis()
    axes.set(title=title, xlabel="WA (%)")
    _save(figure, path)


def draw_protocols(rows: Sequence[dict[str, Any]], chance: float, path: Path) -> None:
    """Draw weighted accuracy by model, a mark for each thing that leaks from training into test."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    leaks = list(dict.fromkeys(row["leak"] for row in rows))
    figure, axes = plt.subplots(figsize=(9, 2 + 0.42 * len(models)), layout="constrained")
    for n, what in enumerate(leaks):
        some = [row for row in rows if row["leak"] == what]
        at = [models.index(row["model"]) + 0.1 * (n - (len(leaks) - 1) / 2) for row in some]
        values, spread = ([float(row[key]) for row in some] for key in ("WA", "WA SD"))
        axes.errorbar(values, at, xerr=spread, fmt=MARKERS[n % 8], label=leak(what), elinewidth=0.8)
    axes.axvline(chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
    for n, published in enumerate(sorted({row.get("WA (paper)", "") for row in rows} - {""})):
        label = "" if n else "the paper says, nothing shared"
        axes.axvline(float(published), color="black", linewidth=0.8, linestyle="--", label=label)
    axes.set_yticks(range(len(models)), [name(model) for model in models])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set(xlim=(0, 100), xlabel="WA (%), mean and SD over folds")
    figure.legend(loc="outside lower center", ncols=2, title="training shares with the test fold")
    _save(figure, path)


def draw_similarity(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Draw the shares of pairs with equal label and equal speaker by T, and by chance."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharex=True)
    names = {"all": "standardised over all clips", "speaker": "standardised by speaker"}
    for normalisation, shown in names.items():
        some = [r for r in rows if (r["normalisation"], r["representation"])
                == (normalisation, "mean")]  # fmt: skip
        thresholds = [float(row["T"]) for row in some]
        for axes, what in ((left, "label"), (right, "speaker")):
            match = [float(row[f"{what} match"]) for row in some]
            axes.plot(thresholds, match, "o-", label=shown)
    for axes, what in ((left, "label"), (right, "speaker")):
        chance = float(rows[0][f"{what} chance"])
        axes.axhline(chance, color="grey", linewidth=0.8, linestyle=":", label="chance")
        axes.set(xlabel="threshold T", ylabel=f"admitted pairs of one {what} (%)", ylim=(0, None))
    left.legend(fontsize=8)
    _save(figure, path)


def draw_embeddings(panels: dict[str, np.ndarray], names: Sequence[str], path: Path) -> None:
    """Draw the points (U, 2) of every panel, coloured by class."""
    figure, row = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), layout="constrained")
    for axes, (title, points) in zip(row, panels.items(), strict=True):
        for n, label in enumerate(dict.fromkeys(sorted(names))):
            mine = np.array([other == label for other in names])
            look = {"marker": MARKERS[n % 8], "color": COLOURS[n % 8], "label": label}
            axes.scatter(*points[mine].T, s=24, alpha=0.8, **look)
        axes.set(title=title, xticks=[], yticks=[])
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
