"""Significance of the difference of two systems on the same utterances.

For Table 19: interval, tests and effect sizes; for Table 17: the gap of one system between two
groups. A difference is a minus b in percentage points. The independent units are the speakers:
the clips of one speaker are alike, and folds share their training speakers. So the interval and the
permutation test draw speakers. The tests over utterances and over folds assume independence that
does not hold; they are reported as well because the field reports them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from examples.ser.grid.predictions import Predictions, align

METRICS = ("WA", "UA")
METHOD, LEVEL = "BCa", 0.95  # of the bootstrap interval
RESAMPLES = 99_999  # a p of 0.01 is then known to 0.001
SEED = 0  # of the bootstrap and of the permutation test
EXACT_BELOW = 25  # discordant utterances; with more, McNemar's chi-square with correction
DECIMALS = 9  # of a difference in points, so that float noise breaks no tie of ranks
P_VALUES = (
    "permutation_p", "mcnemar_p", "utterance_t_p", "utterance_wilcoxon_p",
    "fold_t_p", "fold_wilcoxon_p", "seed_t_p", "seed_wilcoxon_p",
)  # fmt: skip


def compare(
    a: Predictions,
    b: Predictions,
    *,
    metric: str = "WA",
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Return a row on the difference of two systems over the same utterances and seeds.

    Args:
        a: a system; a positive difference is in its favour.
        b: the other one.
        metric: WA or UA (Eq. 15, 16), over all utterances and seeds together.
        resamples: of the bootstrap and of the permutation test, which is exact where all sign
            flips of the speakers are fewer.

    Returns:
        ``a``, ``b``, ``difference``; ``low``, ``high`` of the interval and ``permutation_p``, by
        speaker; ``only_a``, ``only_b`` (utterances that only one system classified correctly) and
        for WA ``mcnemar_p``, the largest of the seeds; ``utterance_``, ``fold_`` and ``seed_`` with
        n, mean, t, t_p, wilcoxon, wilcoxon_p and d_z over the scores of these units (for an
        utterance the mean over its seeds, and for WA alone); ``paper_``, the paper's own test. An
        undefined value, such as a test over one seed, is NaN.

    Raises:
        ValueError: an unknown metric, predictions of different utterances, or one speaker.
    """
    if metric not in METRICS:
        raise ValueError(f"expected metric among {', '.join(METRICS)}, got {metric!r}")
    a, b = align(a, b)
    right = np.stack((a.predicted == a.label, b.predicted == b.label)).astype(float)  # (2, U)
    tables, count = tally(right, a.label, a.speaker)
    scored = score(tables.sum(1), count.sum(0), metric)
    low, high = interval(tables, count, metric, resamples)
    row = {
        "metric": metric, "utterances": len(np.unique(a.id)), "speakers": len(count),
        "a": float(scored[0]), "b": float(scored[1]), "difference": float(scored[0] - scored[1]),
        "low": low, "high": high, "level": LEVEL, "method": METHOD,
        "permutation_p": permutation(tables, count, metric, resamples),
    }  # fmt: skip
    row |= mcnemar_by_seed(right, a.seed)
    for unit, group in (("utterance", a.id), ("fold", a.fold), ("seed", a.seed)):
        per_unit = score(*tally(right, a.label, group), metric)  # (2, units)
        row |= {f"{unit}_{k}": v for k, v in paired(per_unit[0] - per_unit[1]).items()}
    if metric != "WA":  # an utterance has no UA
        row |= {key: float("nan") for key in row if key.startswith(("mcnemar", "utterance_"))}
    return row | independent(right, metric)


def compare_groups(
    a: Predictions, b: Predictions, *, metric: str = "WA", resamples: int = RESAMPLES
) -> dict[str, float]:
    """Return the difference of one system between the speakers of ``a`` and those of ``b``.

    ``difference`` in points, with ``low`` and ``high`` of its bootstrap interval, which draws
    speakers within each group, each with all utterances.
    """
    sides = []
    for p in (a, b):
        (right,), count = tally(1.0 * (p.predicted == p.label)[None], p.label, p.speaker)
        sides.append((right, count))
    if min(len(count) for _, count in sides) < 2:
        raise ValueError(
            "expected at least 2 speakers in each group, got 1; the bootstrap draws speakers"
        )

    def difference(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        x, y = (
            score(right[d].sum(-2), count[d].sum(-2), metric)
            for d, (right, count) in zip(drawn, sides, strict=True)
        )
        return np.asarray(x - y)

    everyone = [np.arange(len(count)) for _, count in sides]
    found = stats.bootstrap(
        everyone, difference, vectorized=True, method=METHOD, batch=1000, confidence_level=LEVEL,
        n_resamples=resamples, random_state=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    ends = {"low": float(found.low), "high": float(found.high)}
    return {"difference": float(difference(*everyone))} | ends


def holm(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = P_VALUES
) -> list[dict[str, Any]]:
    """Add ``<column>_holm`` to each row: p-values adjusted over the rows of a column.

    A NaN is not a test: it stays NaN and does not count in the family.
    """
    out = [dict(row) for row in rows]
    for column in columns:
        p = np.array([row[column] for row in rows], float)
        done = ~np.isnan(p)
        if done.any():
            p[done] = multipletests(p[done], method="holm")[1]
        for row, value in zip(out, p.tolist(), strict=True):
            row[f"{column}_holm"] = value
    return out


def tally(right: np.ndarray, label: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count correct utterances (S, G, K) of S systems and all (G, K), by group and class."""
    names, index = np.unique(group, return_inverse=True)
    classes, kind = np.unique(label, return_inverse=True)
    tables = np.zeros((len(right), len(names), len(classes)))
    count = np.zeros(tables.shape[1:])
    np.add.at(count, (index, kind), 1)
    for table, outcome in zip(tables, right, strict=True):
        np.add.at(table, (index, kind), outcome)
    return tables, count


def score(right: np.ndarray, count: np.ndarray, metric: str) -> np.ndarray:
    """Return WA or UA in percent from counts (..., K); UA is over the classes that occur."""
    if metric == "WA":
        return np.asarray(100 * right.sum(-1) / count.sum(-1))
    recall = right / np.maximum(count, 1)
    return np.asarray(100 * recall.sum(-1) / (count > 0).sum(-1))


def interval(
    tables: np.ndarray, count: np.ndarray, metric: str, resamples: int
) -> tuple[float, float]:
    """Return the bootstrap interval of the difference, drawing speakers with all utterances."""
    if len(count) < 2:
        raise ValueError("expected at least 2 speakers, got 1; the bootstrap draws speakers")
    if np.array_equal(*tables):
        return 0.0, 0.0

    def difference(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        total = count[drawn].sum(-2)
        scored = [score(table[drawn].sum(-2), total, metric) for table in tables]
        return np.asarray(scored[0] - scored[1])

    found = stats.bootstrap(
        (np.arange(len(count)),), difference, vectorized=True, method=METHOD, batch=1000,
        confidence_level=LEVEL, n_resamples=resamples, random_state=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def permutation(tables: np.ndarray, count: np.ndarray, metric: str, resamples: int) -> float:
    """Return the two-sided p of the difference, exchanging a and b speaker by speaker.

    WA and UA are sums over the utterances, so the exchange flips the sign of the speaker's
    contribution to the difference.
    """
    total = count.sum(0)
    weight = 1 / total.sum() if metric == "WA" else 1 / (len(total) * total)
    contribution = ((tables[0] - tables[1]) * weight).sum(1)  # (speakers,)
    found = stats.permutation_test(
        (contribution,), np.sum, permutation_type="samples", vectorized=True, n_resamples=resamples,
        batch=1000, random_state=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(found.pvalue)


def mcnemar_by_seed(right: np.ndarray, seed: np.ndarray) -> dict[str, Any]:
    """Count utterances that only one system classified correctly; test them by McNemar.

    Each seed is tested alone, for its predictions are not of new utterances; the largest p counts.
    """
    p = []
    for one in np.unique(seed):
        ours, theirs = right[:, seed == one].astype(bool)
        table = [[(ours & theirs).sum(), (ours & ~theirs).sum()],
                 [(~ours & theirs).sum(), (~ours & ~theirs).sum()]]  # fmt: skip
        exact = bool(table[0][1] + table[1][0] < EXACT_BELOW)
        p.append(float(mcnemar(table, exact=exact, correction=True).pvalue))
    alone = right[0] - right[1]
    return {"only_a": int((alone > 0).sum()), "only_b": int((alone < 0).sum()), "mcnemar_p": max(p)}


def paired(differences: np.ndarray) -> dict[str, Any]:
    """Return paired t-test, Wilcoxon's test and d_z = mean / SD; NaN without spread."""
    d = np.round(np.asarray(differences, float), DECIMALS)
    out = {"n": len(d), "mean": float(d.mean())}
    out |= dict.fromkeys(("t", "t_p", "wilcoxon", "wilcoxon_p", "d_z"), float("nan"))
    if len(d) > 1 and np.ptp(d) > 0:
        t = stats.ttest_1samp(d, 0)
        out |= {
            "t": float(t.statistic),
            "t_p": float(t.pvalue),
            "d_z": float(d.mean() / d.std(ddof=1)),
        }
    if len(d) > 1 and d.any():
        ranks = stats.wilcoxon(d)
        out |= {"wilcoxon": float(ranks.statistic), "wilcoxon_p": float(ranks.pvalue)}
    return out


def independent(right: np.ndarray, metric: str) -> dict[str, float]:
    """Return the test that relates Table 19's t to its d: two INDEPENDENT samples of 0/1.

    For comparison, not as evidence: the samples are paired, and their rows are dependent. Outcomes
    with the paper's accuracies give a d of about 0.12, where it prints 2.12. UA has no value per
    utterance, so it is NaN.
    """
    # DIFF: 3.4.6 speaks of paired tests, but its t is d sqrt(n / 2), that of independent samples.
    out = dict.fromkeys(("paper_t", "paper_df", "paper_p", "paper_cohen_d"), float("nan"))
    pooled = np.sqrt(right.var(axis=1, ddof=1).mean()) if right.shape[1] > 1 else 0.0
    if metric == "WA" and pooled > 0:
        t = stats.ttest_ind(right[0], right[1])
        d = (right[0].mean() - right[1].mean()) / pooled
        out |= {"paper_t": float(t.statistic), "paper_df": float(t.df), "paper_p": float(t.pvalue)}
        out["paper_cohen_d"] = float(d)
    return out
