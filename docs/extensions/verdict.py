"""The verdict "Should I use it?" and the table "Why not ...?", filled from committed rows.

The directives ``{verdict}`` and ``{why}`` put them into pages. ``python
docs/extensions/verdict.py`` writes them into the README, between ``<!-- verdict -->`` or
``<!-- why -->`` and its end. No number in them is typed: each is read from a CSV file.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parent.parent.parent
sys.path[:0] = str(ROOT), str(ROOT / "docs")
from examples.ser.grid.significance import holm  # noqa: E402 - found by the line above
from extensions.tables import Row, name, read, table  # noqa: E402 - found by it, too

SPEECH = "examples/ser/results"
STUDY = "examples/study/results"
OTHERS = "benchmarks/results/others.csv"
SPEECH_1D = "speech (RAVDESS, one-dimensional network)"
SPEECH_2D = "speech (RAVDESS, two-dimensional network)"
IMAGES = "images (20,000 of CIFAR-10, ResNet-8)"
FAMILIES = {  # of the study: what it compares, on which data
    "speech-1d-layers": ("layers", SPEECH_1D),
    "speech-1d-augmentation": ("augmentations", SPEECH_1D),
    "speech-2d-layers": ("layers", SPEECH_2D),
    "images-layers": ("layers", IMAGES),
    "images-aligned": ("layers without channel shuffle", IMAGES),
    "speech-1d-forms": ("changed forms of ICASA and AAM", SPEECH_1D),
}
LEVEL = 0.05
HEAD = ("method: where it was measured", "difference in points (95 % interval)", "verdict")


def interval(row: Row, key: str) -> str:
    """Return a difference with the ends of its interval."""
    low, high = float(row["low"]), float(row["high"])
    shown = [f"{value:+.1f}" for value in (float(row[key]), low, high)]
    middle, low_end, high_end = ("0.0" if float(text) == 0 else text for text in shown)
    return f"{middle} ({low_end} to {high_end})"


def judge(row: Row, p: str) -> str:
    """Say in words what an interval says, and whether it holds by the corrected p in a column."""
    if float(row["low"]) <= 0 <= float(row["high"]):
        return "not known"
    side = "higher" if float(row["low"]) > 0 else "lower"
    return side if float(row[p]) < LEVEL else f"{side}, but not after correction"


def plural(count: str, thing: str) -> str:
    """Return a number of things."""
    return f"{count} {thing}{'s' * (count != '1')}"


def of_recipes(root: Path) -> list[list[str]]:
    """Lines of the paper's network and of the small network on prosodic features."""
    lines = []
    for row in read(root / SPEECH / "table19.csv"):
        if (
            row["metric"] == "UA"
            and row["against"] == "none"
            and row["ours"] in ("icasa+aam", "none+aam")
        ):
            where = f"paper's network, {row['epochs']} epochs, {plural(row['seeds'], 'seed')}"
            lines.append([f"{name(row['ours'])}: {where}", interval(row, "difference"),
                          judge(row, "permutation_p_holm")])  # fmt: skip
    gains = [row for row in read(root / SPEECH / "strong.csv") if row["UA gained"]]
    for row in holm(gains, ("p",)):
        where = f"small network, prosodic features, {plural(row['seeds'], 'seed')}"
        lines.append([f"{name(row['variant'])}: {where}", interval(row, "UA gained"),
                      judge(row, "p_holm")])  # fmt: skip
    return lines


def of_study(root: Path) -> tuple[list[list[list[str]]], list[str]]:
    """Lines of each of the study's families that has rows, and the names of those without."""
    families, missing = [], []
    for family, (what, where) in FAMILIES.items():
        path = root / STUDY / f"{family}.csv"
        if not path.is_file():
            missing.append(f"{what} on {where}")
            continue
        lines = []
        for row in read(path):
            said = re.split(r" by | \(|;", row["verdict"])[0]
            if (
                said in ("higher", "lower")
                and float(row["seed_low"]) * float(row["seed_high"]) <= 0
            ):
                said = "uncertain"  # it does not hold without the assumption on the seeds
            lines.append([
                f"{name(row['variant'])}: {where}, {plural(row['seeds'], 'seed')}",
                interval(row, "difference"), said,
            ])  # fmt: skip
        families.append(lines)
    return families, missing


def speed(root: Path) -> str:
    """Say how much faster ICASA is than other code, on a map of 32 x 64 x 56 x 56."""
    rows = read(root / "benchmarks" / "results" / "layers.csv")
    times = {
        (row["variant"], row["pass"]): float(row["time / eager"]) for row in rows
        if row["experiment"] == "layer" and row["layer"] == "ICASA"
        and row["shape"] == "32x64x56x56"
    }  # fmt: skip
    official, compiled = (
        [f"{times[other, kind] / times['default', kind]:.1f}"
         for kind in ("forward", "forward+backward")]
        for other in ("official style", "compiled eager")
    )  # fmt: skip
    return (
        f"**For speed: yes, on a CPU.** ICASA is {official[0]} times as fast in a forward pass and "
        f"{official[1]} times in a training step as the operations of its parts' official code "
        f"(SA-Net, CoordAttention), and {compiled[0]} and {compiled[1]} times as fast as PyTorch's "
        "operators compiled by `torch.compile` (a feature map of 32 x 64 x 56 x 56, two threads). "
        "A network with it is still slower than one without. On a GPU nothing was measured."
    )


def cost(root: Path) -> str:
    """Say what ICASA costs in ResNet-50: a forward of one image, a step of eight."""
    rows = {
        (row["layer"], row["batch size"]): row
        for row in read(root / "benchmarks" / "results" / "cost-resnet50.csv")
    }
    plain, icasa, step = rows["plain", "1"], rows["ICASA", "1"], rows["ICASA", "8"]
    more, macs = (
        f"{100 * float(icasa[key]) / float(plain[key]) - 100:.1f} %"
        for key in ("parameters", "MACs")
    )
    return (
        f"**What it costs:** in ResNet-50, ICASA after each of the {icasa['places']} blocks adds "
        f"{more} parameters and {macs} multiply-accumulates. On a CPU, a forward pass of one image "
        f"takes {float(icasa['forward / plain']):.1f} times as long, and a training step of eight "
        f"{float(step['step / plain']):.1f} times."
    )


def of_family(lines: Sequence[list[str]]) -> list[str]:
    """Return a family's line: its ICASA or AAM, and how often each verdict stands for others."""
    shown = next(line for line in lines if re.match("ICASA|AAM", line[0]))
    counts = Counter(line[2] for line in lines)
    counts[shown[2]] -= 1
    others = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return [shown[0], shown[1], shown[2] + f"; the others: {others}" * bool(others)]


def verdict(root: Path = ROOT) -> str:
    """Return the verdict as Markdown."""
    recipes = of_recipes(root)
    study, missing = of_study(root)
    lines = [*recipes, *(line for family in study for line in family)]
    higher = [f"{line[0]}: {line[1]} points" for line in lines if line[2] == "higher"]
    if higher:
        shown = "; ".join(line.replace(": ", " on ", 1) for line in higher)
        said = (
            f"**For accuracy: only where it was measured to help.** Higher: {shown}. Elsewhere the "
            "advice is no layer and no augmentation, as they cost time."
        )
    else:
        said = (
            "**For accuracy: no, as far as it was measured.** No layer and no form of AAM was "
            "shown to raise it. On your own data, compare with the same network without attention."
        )
    text = [said]
    if missing:
        text.append(f"**Not finished in the study yet:** {'; '.join(missing)}.")
    text += [cost(root), speed(root)]
    text.append(
        "**For a tested implementation of the paper or of these layers: yes.**\n\n"
        "The table compares each network with the same network without attention and without AAM "
        "(Adaptive Acoustic Mixup, the paper's augmentation). The difference is in percentage "
        "points of the mean recall over the classes, for images, of the accuracy. The speech "
        "corpus is RAVDESS. It has 24 speakers; no speaker is in both training and test. All "
        "networks are small and were trained from scratch. "
        '"Not known": neither a difference nor equality was shown. Verdicts are corrected for '
        "several comparisons (Holm)."
    )
    return "\n\n".join((*text, table(HEAD, [*recipes, *map(of_family, study)])))


def why(root: Path = ROOT) -> str:
    """Return what other libraries do and do not, as benchmarks/others.py found by running them."""
    rows = read(root / OTHERS)
    libraries = list(rows[0])[1 : list(rows[0]).index("commit")]
    lines = [[row["question"], *(row[library] for library in libraries)] for row in rows]
    return table(["", *libraries], lines)


FILLED: dict[str, Callable[[], str]] = {"verdict": verdict, "why": why}


def fill(text: str) -> str:
    """Return the README with what stands between its markers made anew."""
    for key, make in FILLED.items():
        part = rf"(<!-- {key} -->\n).*?(<!-- end of {key} -->)"
        text = re.sub(part, lambda m, make=make: f"{m[1]}{make()}\n{m[2]}", text, flags=re.S)
    return text


class Filled(SphinxDirective):
    """``{verdict}`` and ``{why}``."""

    def run(self) -> Sequence[nodes.Node]:  # type: ignore[override]
        """Fill it in."""
        folders = (SPEECH, STUDY, "benchmarks/results")
        rows = (path for folder in folders for path in (ROOT / folder).glob("*.csv"))
        for file in (Path(__file__), *rows):
            self.env.note_dependency(str(file))
        return self.parse_text_to_nodes(FILLED[self.name]())


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    for key in FILLED:
        app.add_directive(key, Filled)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(fill(readme.read_text(encoding="utf-8")), encoding="utf-8")
