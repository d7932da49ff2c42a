r"""Two variants over the same units and seeds: difference, interval, tests, what could be found.

Every seed of a variant answers the same test units (clips or images). Units belong to groups that
are independent of each other (speakers, or each image by itself), groups to the block whose
training run answers them (a fold; one block if there are no folds). So the difference has crossed
sources of chance: the groups, and the training runs. With the matrix :math:`c_{sg}` of what group g
adds to the difference with seed s (G times its weighted sum, so that c's mean is the difference)

.. math:: \mathrm{Var}(\bar c) \approx v_{group} + v_{run} - v_{rest}

by the mean squares of the two-way layout in each block, with Satterthwaite's degrees of freedom.
The interval of the hierarchical bootstrap of the same layout (Owen 2007) stands beside it. It has
no such degrees of freedom: with one block and three seeds it is far too narrow where the runs
dominate (75 % of its 95 % intervals hold the truth), and too wide where the rest does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

MEASURES = ("UA", "accuracy")
LEVEL = 0.95
POWER = 0.8
RESAMPLES = 10_000
Row = dict[str, Any]


class Outcomes(NamedTuple):
    """What the runs of one variant answered.

    Attributes:
        right: (S, U), whether a seed's run was right on a unit.
        label: (U,) classes of the units.
        group: (U,) names of the independent groups.
        block: (U,) names of the training runs' test parts (folds), whole groups each.
        unit: (U,) names of the units.
        seeds: S of them, in order.
    """

    right: np.ndarray
    label: np.ndarray
    group: np.ndarray
    block: np.ndarray
    unit: np.ndarray
    seeds: tuple[int, ...]


def weights(label: np.ndarray, measure: str) -> np.ndarray:
    """Return what a right answer to each unit adds to the measure, in points: (U,)."""
    if measure not in MEASURES:
        raise ValueError(f"measure: expected one of {MEASURES}, got {measure!r}")
    if measure == "accuracy":
        return np.full(len(label), 100 / len(label))
    _, kind, count = np.unique(label, return_inverse=True, return_counts=True)
    return np.asarray(100 / (len(count) * count[kind]))  # the mean of the recalls


def contributions(ours: Outcomes, base: Outcomes, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return c (S, G), whose mean is the difference in points, and the groups' blocks (G,)."""
    for name in ("label", "group", "block", "unit", "seeds"):
        if not np.array_equal(getattr(ours, name), getattr(base, name)):
            raise ValueError(f"expected two variants over the same {name}, got others; rerun one")
    names, first, of = np.unique(ours.group, return_index=True, return_inverse=True)
    block = ours.block[first]
    if not np.array_equal(block[of], ours.block):
        raise ValueError("expected every group in one block, got one in two; check the folds")
    added = (ours.right.astype(float) - base.right) * weights(ours.label, measure)
    sums = np.zeros((len(names), len(added)))
    np.add.at(sums, of, added.T)
    return len(names) * sums.T, block


def two_way(c: np.ndarray, block: np.ndarray) -> tuple[float, float]:
    """Return the standard error of the mean of c (S, G) and its degrees of freedom."""
    (seeds, groups), blocks = c.shape, np.unique(block)
    if seeds < 2 or groups < 2 * len(blocks):
        raise ValueError(
            f"expected at least 2 seeds and 2 groups a block, got {seeds} seeds and {groups} "
            f"groups in {len(blocks)} blocks"
        )
    v_run = noise_run = rest = 0.0
    for name in blocks:
        part = c[:, block == name]
        by_seed = part.mean(1, keepdims=True)
        v_block = (part.shape[1] / groups) ** 2 * by_seed.var(ddof=1) / seeds
        v_run, noise_run = v_run + v_block, noise_run + v_block**2 / (seeds - 1)
        rest += ((part - by_seed - part.mean(0) + part.mean()) ** 2).sum()
    freedom_rest = (seeds - 1) * (groups - len(blocks))
    v_rest = rest / freedom_rest / (seeds * groups)
    v_group = c.mean(0).var(ddof=1) / groups
    # Never less than what groups or runs alone give: the estimate of the rest is itself noisy.
    variance = max(v_run, v_group, v_run + v_group - v_rest)
    if variance < 1e-18:  # squared points, the float noise of sums
        raise ValueError(
            "expected two variants that differ somewhere, got the same answers in every cell; is "
            "one of them the other under another name?"
        )
    noise = noise_run + v_group**2 / (groups - 1) + v_rest**2 / freedom_rest
    return float(np.sqrt(variance)), float(max(variance**2 / noise, seeds - 1))


def bootstrap(c: np.ndarray, block: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means (resamples,): groups are drawn with replacement, and seeds in each block."""
    rng, (seeds, groups) = np.random.default_rng(seed), c.shape
    # Groups of a block that are equal for every seed are drawn together: images make few kinds.
    kinds = [
        np.unique(c[:, block == name], axis=1, return_counts=True) for name in np.unique(block)
    ]
    counts = np.concatenate([count for _, count in kinds])
    by_group = rng.multinomial(groups, counts / groups, resamples) / groups
    total, start = np.zeros(resamples), 0
    for kind, count in kinds:
        by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
        drawn = by_group[:, start : start + len(count)]
        total += np.einsum("bs,sk,bk->b", by_seed, kind, drawn, optimize=True)
        start += len(count)
    return total


def compare(
    ours: Outcomes, base: Outcomes, *, measure: str, margin: float, comparisons: int, seed: int = 0
) -> Row:
    """Compare one variant with the base.

    Args:
        ours: of the variant.
        base: of the base, over the same units and seeds.
        measure: "UA" (mean recall of the classes) or "accuracy", in percent.
        margin: points up to which two variants count as equivalent.
        comparisons: of the family; ``detectable`` is at Holm's first step.
        seed: of the bootstrap.

    Returns:
        ``difference`` in points with its interval ``low``, ``high`` and two-sided ``p``;
        ``equivalence_p`` of two one-sided tests against the margin; ``detectable``, the true
        difference that would be found with a chance of 80 %. ``boot_low`` and ``boot_high`` are
        the bootstrap's interval; ``seed_low`` and ``seed_high`` the one that also allows for an
        effect of a seed that all blocks share.
    """
    c, block = contributions(ours, base, measure)
    difference = float(c.mean())
    error, freedom = two_way(c, block)
    t = stats.t(freedom)
    ends = np.array(((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low, high = difference + t.ppf(ends) * error
    seed_error, seed_freedom = two_way(c, np.zeros(len(block)))
    seed_low, seed_high = difference + stats.t(seed_freedom).ppf(ends) * seed_error
    boot_low, boot_high = np.quantile(bootstrap(c, block, RESAMPLES, seed), ends)
    share = weights(ours.label, measure)
    return {
        "measure": measure, "base": float((base.right @ share).mean()),
        "ours": float((ours.right @ share).mean()), "difference": difference,
        "low": float(low), "high": float(high),
        "standard_error": error, "degrees_of_freedom": freedom,
        "p": float(2 * t.sf(abs(difference) / error)),
        "margin": margin, "equivalence_p": float(t.sf((margin - abs(difference)) / error)),
        "detectable": float((t.isf((1 - LEVEL) / 2 / comparisons) + t.ppf(POWER)) * error),
        "boot_low": float(boot_low), "boot_high": float(boot_high),
        "seed_low": float(seed_low), "seed_high": float(seed_high),
        "difference_by_seed": " ".join(f"{value:.2f}" for value in c.mean(1)),
        "seeds": len(c), "groups": c.shape[1], "units": len(ours.unit),
    }  # fmt: skip


def adjust(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Add Holm's p-values, over the family of the differences and over that of equivalences."""
    out = [dict(row) for row in rows]
    for column in ("p", "equivalence_p"):
        adjusted = multipletests([row[column] for row in rows], method="holm")[1]
        for row, value in zip(out, adjusted, strict=True):
            row[f"{column}_holm"] = float(value)
    for row in out:
        row["verdict"] = verdict(row)
    return out


def verdict(row: Mapping[str, Any]) -> str:
    """Say in one sentence what the tests of a row say."""
    alpha = 1 - LEVEL
    interval = f"95 % interval {row['low']:+.1f} to {row['high']:+.1f}"
    equivalent = row["equivalence_p_holm"] < alpha
    if row["p_holm"] < alpha:
        word = "higher" if row["difference"] > 0 else "lower"
        small = f", but by less than {row['margin']:g}" if equivalent else ""
        return f"{word} by {abs(row['difference']):.1f} points ({interval}){small}"
    if equivalent:
        points = "point" if row["margin"] == 1 else "points"
        return f"equivalent within {row['margin']:g} {points} ({interval})"
    return f"not known ({interval}); a difference of {row['detectable']:.1f} would have been found"
