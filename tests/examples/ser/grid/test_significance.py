"""Each statistic against its definition worked by hand, then cases whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from examples.ser.grid.predictions import Predictions
from examples.ser.grid.significance import (
    P_VALUES,
    compare,
    compare_groups,
    holm,
    independent,
    mcnemar_by_seed,
    paired,
)

FEW = {"resamples": 499}


def table(right, label=None, speaker=None, fold=None, seed=None, ids=None):
    """A system that is right where it is told to be; the wrong class is the next one."""
    right, n = np.asarray(right, bool), len(right)
    label = np.zeros(n, int) if label is None else np.asarray(label)
    return Predictions(
        id=np.arange(n) if ids is None else ids,
        label=label,
        speaker=np.arange(n) % 4 if speaker is None else speaker,
        predicted=np.where(right, label, label + 1),
        fold=np.zeros(n, int) if fold is None else fold,
        seed=np.zeros(n, int) if seed is None else seed,
    )


def drawn(p, seed, n=240, speakers=12):
    """Two systems right with probabilities p, over two classes of unequal size."""
    rng = np.random.default_rng(seed)
    options = {
        "label": (np.arange(n) % 3 == 0).astype(int),
        "speaker": np.arange(n) * speakers // n,
        "fold": np.arange(n) * 6 // n,
    }
    return [table(rng.random(n) < q, **options) for q in p]


def test_wa_and_ua_and_their_differences_by_hand():
    label = [0, 0, 0, 1]
    a, b = table([1, 1, 0, 1], label), table([1, 0, 0, 0], label)
    wa, ua = (compare(a, b, metric=metric, **FEW) for metric in ("WA", "UA"))
    assert (wa["a"], wa["b"], wa["difference"]) == (75, 25, 50)
    assert ua["a"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert ua["b"] == pytest.approx(100 * (1 / 3 + 0) / 2)
    assert ua["difference"] == pytest.approx(ua["a"] - ua["b"])
    assert (wa["only_a"], wa["only_b"], wa["utterances"], wa["speakers"]) == (2, 0, 4, 4)
    assert wa["mcnemar_p"] == 0.5
    assert math.isnan(ua["mcnemar_p"])  # it counts utterances, as WA does


@pytest.mark.parametrize("metric", ["WA", "UA"])
def test_the_permutation_test_is_exact_by_speaker_where_it_can_be(metric):
    a, b = drawn((0.7, 0.5), seed=1, n=60, speakers=6)
    found = compare(a, b, metric=metric, **FEW)

    ours, theirs = a.predicted == a.label, b.predicted == b.label
    groups = [a.label >= 0] if metric == "WA" else [a.label == 0, a.label == 1]

    def difference(flips):
        swapped = np.array(flips)[a.speaker] == 1
        gain = np.where(swapped, theirs, ours) * 1.0 - np.where(swapped, ours, theirs)
        return np.mean([gain[group].mean() for group in groups])

    every = np.array([difference(f) for f in itertools.product((0, 1), repeat=6)])
    want = (abs(every) >= abs(every[0]) - 1e-12).mean()
    assert found["permutation_p"] == pytest.approx(want)
    assert 100 * every[0] == pytest.approx(found["difference"])


def test_the_interval_is_bca_over_drawn_speakers():
    a, b = drawn((0.8, 0.3), seed=2)
    a.speaker = b.speaker = (12 * (np.arange(240) / 240) ** 2).astype(int)  # 70 clips to 10
    found = compare(a, b, metric="UA", resamples=4000)
    rows = [np.flatnonzero(a.speaker == s) for s in range(12)]

    def difference(speakers):
        u = np.concatenate([rows[s] for s in speakers])
        gain = (a.predicted == a.label)[u] * 1.0 - (b.predicted == b.label)[u]
        return 100 * np.mean([gain[a.label[u] == k].mean() for k in (0, 1)])

    rng = np.random.default_rng(5)
    draws = np.array([difference(rng.integers(12, size=12)) for _ in range(4000)])
    left_out = np.array([difference(np.delete(np.arange(12), s)) for s in range(12)])
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    bias = stats.norm.ppf((draws < found["difference"]).mean())
    z = bias + stats.norm.ppf([0.025, 0.975])
    want = np.quantile(draws, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    np.testing.assert_allclose([found["low"], found["high"]], want, atol=1.0)
    assert found["low"] < found["difference"] < found["high"]


def test_a_speaker_s_clips_alike_widen_the_interval():
    speaker = np.repeat(np.arange(12), 20)
    rng = np.random.default_rng(0)
    whole = np.repeat(rng.random(12) < 0.6, 20)
    mixed = rng.permutation(whole)
    none = table(np.zeros(240), speaker=speaker)
    wide, narrow = (compare(table(r, speaker=speaker), none, **FEW) for r in (whole, mixed))
    assert wide["difference"] == narrow["difference"]
    assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


def test_bca_covers_the_truth_about_as_often_as_it_says():
    inside = 0
    for seed in range(60):
        found = compare(*drawn((0.7, 0.6), seed=seed), resamples=399)
        inside += found["low"] <= 10 <= found["high"]
    assert inside >= 50  # 57 wanted; 49 or fewer has p = 0.0005


def test_the_null_is_rejected_rarely_and_a_large_difference_always():
    null = [compare(*drawn((0.6, 0.6), seed=s), **FEW) for s in range(40)]
    for name in ("permutation_p", "mcnemar_p", "paper_p", "fold_t_p"):
        assert sum(row[name] < 0.05 for row in null) <= 7, name  # 2 wanted; 8 has p = 0.001
    for seed in range(5):
        found = compare(*drawn((0.8, 0.4), seed=seed), **FEW)
        assert found["low"] > 0
        assert found["permutation_p"] < 0.01
        assert found["mcnemar_p"] < 0.001


@pytest.mark.parametrize(("only_a", "only_b"), [(8, 2), (0, 0), (5, 5), (20, 4)])
def test_mcnemar_is_a_binomial_test_of_few_discordant_ones(only_a, only_b):
    right = np.array([[1] * only_a + [0] * only_b + [1], [0] * only_a + [1] * only_b + [1]])
    found = mcnemar_by_seed(right.astype(float), np.zeros(right.shape[1]))
    n, least = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert found == {
        "only_a": only_a,
        "only_b": only_b,
        "mcnemar_p": pytest.approx(min(1, 2 * tail)),
    }


def test_mcnemar_is_the_corrected_chi_square_of_many():
    right = np.array([[1] * 30 + [0] * 12, [0] * 30 + [1] * 12], float)
    chi2 = (abs(30 - 12) - 1) ** 2 / 42
    want = math.erfc(math.sqrt(chi2 / 2))  # the tail at one degree of freedom
    assert mcnemar_by_seed(right, np.zeros(42))["mcnemar_p"] == pytest.approx(want)


def test_mcnemar_over_seeds_is_the_least_significant():
    one = np.array([[1] * 9 + [0] * 1, [0] * 9 + [1] * 1], float)
    even = np.array([[1] * 5 + [0] * 5, [0] * 5 + [1] * 5], float)
    both = mcnemar_by_seed(np.hstack((one, even)), np.repeat([1, 2], 10))
    assert both == {"only_a": 14, "only_b": 6, "mcnemar_p": 1.0}
    assert mcnemar_by_seed(one, np.ones(10))["mcnemar_p"] == pytest.approx(22 / 1024)


def test_the_paired_tests_by_hand():
    found = paired(np.array([1.0, 2.0, 3.0, 4.0, 6.0, -0.5]))
    d = np.array([1, 2, 3, 4, 6, -0.5])
    sd = math.sqrt(((d - d.mean()) ** 2).sum() / 5)
    assert found["n"] == 6
    assert found["mean"] == pytest.approx(15.5 / 6)
    assert found["d_z"] == pytest.approx(d.mean() / sd)
    assert found["t"] == pytest.approx(d.mean() / sd * math.sqrt(6))
    o = math.atan(found["t"] / math.sqrt(5))  # t's distribution has a closed form at 5 d.f.
    inner = 2 / math.pi * (o + math.sin(o) * (math.cos(o) + 2 / 3 * math.cos(o) ** 3))
    assert found["t_p"] == pytest.approx(1 - inner)
    assert found["wilcoxon"] == 1  # the rank of 0.5, the one negative
    assert found["wilcoxon_p"] == pytest.approx(2 * 2 / 2**6)  # {} and {1} of the rank sets


def test_six_folds_can_never_give_a_wilcoxon_p_below_one_in_32():
    assert paired(np.arange(1.0, 7.0))["wilcoxon_p"] == pytest.approx(2 / 64)


def test_equal_differences_tie_in_spite_of_float_noise():
    d = np.array([0.1 + 0.2, 0.3, 0.3, 0.6])
    assert paired(d) == paired(np.array([0.3, 0.3, 0.3, 0.6]))
    assert math.isnan(paired(d[:3])["t"])


@pytest.mark.parametrize("d", [[1.0], [0.0, 0.0, 0.0]])
def test_without_spread_or_repetition_there_is_no_test(d):
    found = paired(np.array(d))
    assert all(math.isnan(found[key]) for key in ("t", "t_p", "wilcoxon", "wilcoxon_p", "d_z"))


def test_folds_and_seeds_are_the_units_of_their_tests():
    fold, seed = np.tile(np.repeat([0, 1, 2], 4), 2), np.repeat([1, 2], 12)
    ids = np.tile(np.arange(12), 2)
    right = np.zeros(24)
    right[[0, 1, 4, 12, 13, 14, 15]] = 1  # fold 0: 2 and 4 of 4; fold 1: 1 and 0 of 4
    options = {"fold": fold, "seed": seed, "ids": ids, "speaker": ids % 4}
    row = compare(table(right, **options), table(np.zeros(24), **options), **FEW)
    assert (row["fold_n"], row["seed_n"], row["utterances"]) == (3, 2, 12)
    folds, seeds = np.array([75, 12.5, 0]), np.array([25, 100 / 3])
    for unit, d in (("fold", folds), ("seed", seeds)):
        assert row[f"{unit}_mean"] == pytest.approx(d.mean())
        assert row[f"{unit}_d_z"] == pytest.approx(d.mean() / d.std(ddof=1))


def test_the_paper_s_test_takes_the_pairs_for_independent_samples():
    right = np.zeros((2, 1440))
    right[0, :1221], right[1, :1155] = 1, 1
    found = independent(right, "WA")
    p, q = 1221 / 1440, 1155 / 1440
    sd = math.sqrt((p * (1 - p) + q * (1 - q)) / 2 * 1440 / 1439)
    assert found["paper_cohen_d"] == pytest.approx((p - q) / sd)
    assert found["paper_t"] == pytest.approx(found["paper_cohen_d"] * math.sqrt(1440 / 2))
    assert found["paper_df"] == 2878
    assert abs(found["paper_cohen_d"]) < 0.24  # against Table 19's 2.12
    assert all(math.isnan(value) for value in independent(right, "UA").values())


def test_holm_by_hand_within_each_column_and_over_the_nan():
    rows = [{"x": p, "y": q} for p, q in ((0.01, 0.5), (0.04, math.nan), (0.03, 0.02))]
    out = holm(rows, ("x", "y"))
    assert [row["x_holm"] for row in out] == pytest.approx([0.03, 0.06, 0.06])
    assert [row["y_holm"] for row in out] == pytest.approx([0.5, math.nan, 0.04], nan_ok=True)
    assert rows[0] == {"x": 0.01, "y": 0.5}
    assert set(P_VALUES) < set(compare(*drawn((0.7, 0.5), seed=0), **FEW))


def test_a_system_equals_itself_and_swapping_two_turns_the_signs():
    a, b = drawn((0.7, 0.5), seed=3)
    same = compare(a, a, **FEW)
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["permutation_p"] == same["mcnemar_p"] == 1
    one, other = compare(a, b, **FEW), compare(b, a, **FEW)
    for key in ("difference", "fold_t", "fold_d_z", "paper_cohen_d"):
        assert one[key] == pytest.approx(-other[key])
    assert one["mcnemar_p"] == other["mcnemar_p"]


def test_a_comparison_repeats_itself_whatever_the_order_of_rows():
    a, b = drawn((0.7, 0.5), seed=4)
    order = np.random.default_rng(0).permutation(len(a.id))
    shuffled = Predictions(**{name: column[order] for name, column in vars(a).items()})
    rows = [compare(x, b, **FEW) for x in (a, a, shuffled)]
    assert str(rows[0]) == str(rows[1]) == str(rows[2])  # as text, for NaN is not NaN


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"ids": [0, 1, 2, 9]}, {}, r"another id: only in a \[3\] \(4 rows\), only in b \[9\]"),
        ({"label": [0, 0, 0, 1]}, {}, r"another label: .* test both on the same split"),
        ({"fold": [0, 0, 0, 1]}, {}, r"another fold: only in a \[\] .*, only in b \[1\]"),
        ({}, {"metric": "F1"}, "expected metric among WA, UA, got 'F1'"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, options, message):
    with pytest.raises(ValueError, match=message):
        compare(table([1, 1, 0, 0]), table([1, 0, 0, 0], **change), **options)


def test_one_speaker_is_refused():
    one = np.zeros(4, int)
    with pytest.raises(ValueError, match="expected at least 2 speakers, got 1"):
        compare(table([1, 1, 0, 0], speaker=one), table([1, 0, 0, 0], speaker=one))


def test_the_gap_of_two_groups_is_by_drawn_speakers():
    a, b = drawn((0.8, 0.5), seed=2)
    found = compare_groups(a, b, **FEW)
    share = [100 * (p.predicted == p.label).mean() for p in (a, b)]
    assert found["difference"] == pytest.approx(share[0] - share[1])
    assert 10 < found["low"] < found["difference"] < found["high"] < 50
    ua = compare_groups(a, b, metric="UA", **FEW)["difference"]
    recalls = [[(p.predicted == k)[p.label == k].mean() for k in (0, 1)] for p in (a, b)]
    assert ua == pytest.approx(100 * (np.mean(recalls[0]) - np.mean(recalls[1])))
    with pytest.raises(ValueError, match="expected at least 2 speakers in each group, got 1"):
        compare_groups(a, table([1, 0, 1], speaker=[0, 0, 0]))


def test_the_tests_over_utterances_are_those_of_their_outcomes():
    a, b = drawn((0.7, 0.5), seed=3)
    row = compare(a, b, **FEW)
    gains = 1.0 * (a.predicted == a.label) - (b.predicted == b.label)
    t = stats.ttest_rel(a.predicted == a.label, 1.0 * (b.predicted == b.label))
    assert row["utterance_n"] == 240
    assert row["utterance_t"] == pytest.approx(t.statistic)
    assert row["utterance_wilcoxon_p"] == pytest.approx(stats.wilcoxon(gains).pvalue)
    assert math.isnan(compare(a, b, metric="UA", **FEW)["utterance_t_p"])
