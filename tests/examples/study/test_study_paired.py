"""The study's statistics on made data: effects are found, nothing is made of nothing."""

import numpy as np
import pytest
from scipy import stats

from examples.study.paired import Outcomes, adjust, bootstrap, compare, contributions, two_way

OPTIONS = {"measure": "UA", "margin": 2.0, "comparisons": 1}


def made(seed, right, *, seeds=3, speakers=24, folds=6, clips=40, classes=4):
    """Draw clips of speakers in folds; ``right`` is the chance, of one class or of all."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(speakers), clips)
    label = np.tile(np.arange(clips) % classes, speakers)
    easy = np.random.default_rng(0).normal(0, 0.1, speakers)[speaker]  # the same for all variants
    chance = np.clip(np.broadcast_to(right, classes)[label] + easy, 0, 1)
    answers = rng.random((seeds, len(label))) < chance
    block = speaker // (speakers // folds)
    return Outcomes(answers, label, speaker, block, np.arange(len(label)), tuple(range(seeds)))


def layout(rng, run, group, rest, seeds, folds, groups=24):
    """Draw c (S, G) with standard errors of its three sources, and no effect."""
    block = np.repeat(np.arange(folds), groups // folds)
    c = run * np.sqrt(seeds * folds) * rng.standard_normal((seeds, folds))[:, block]
    c += group * np.sqrt(groups) * rng.standard_normal((1, groups))
    return c + rest * np.sqrt(seeds * groups) * rng.standard_normal((seeds, groups)), block


@pytest.mark.parametrize("measure", ["UA", "accuracy"])
def test_a_known_effect_is_recovered(measure):
    row = compare(made(1, 0.70), made(2, 0.60), **OPTIONS | {"measure": measure})
    assert row["low"] < 10 < row["high"]
    assert row["difference"] == pytest.approx(row["ours"] - row["base"])
    assert row["p"] < 0.001
    assert row["equivalence_p"] > 0.99
    assert adjust([row])[0]["verdict"].startswith("higher by ")
    back = compare(made(2, 0.60), made(1, 0.70), **OPTIONS | {"measure": measure})
    assert back["difference"] == pytest.approx(-row["difference"])
    assert adjust([back])[0]["verdict"].startswith("lower by ")


def test_no_effect_is_not_found_and_many_clips_show_equivalence():
    few, many = ({"clips": clips} for clips in (40, 1600))
    rows = [compare(made(3, 0.6, **n), made(4, 0.6, **n), **OPTIONS) for n in (few, many)]
    assert all(row["p"] > 0.05 for row in rows)
    assert adjust(rows[:1])[0]["verdict"].startswith("not known")
    assert adjust(rows[1:])[0]["verdict"].startswith("equivalent within 2 points")
    assert rows[1]["detectable"] < rows[0]["detectable"]


def test_ua_is_the_mean_recall_and_differs_from_accuracy():
    ours, base = made(5, [0.9, 0.5, 0.5, 0.5]), made(6, 0.5)
    keep = (ours.label > 0) | (np.arange(len(ours.label)) % 3 == 0)  # class 0 is rare
    ours, base = (
        Outcomes(o.right[:, keep], *(part[keep] for part in o[1:5]), o.seeds) for o in (ours, base)
    )
    recalls = [ours.right[:, ours.label == k].mean() for k in range(4)]
    row = compare(ours, base, **OPTIONS)
    assert row["ours"] == pytest.approx(100 * np.mean(recalls))
    assert row["ours"] - compare(ours, base, **OPTIONS | {"measure": "accuracy"})["ours"] > 3


@pytest.mark.parametrize(("seeds", "folds"), [(3, 6), (5, 6), (3, 1)])
@pytest.mark.parametrize("sources", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, folds, sources):
    rng, inside, draws = np.random.default_rng(7), 0, 400
    for _ in range(draws):
        c, block = layout(rng, *sources, seeds, folds)
        error, freedom = two_way(c, block)
        inside += abs(c.mean()) <= stats.t.ppf(0.975, freedom) * error
    assert inside / draws >= 0.925  # three standard errors of the simulation below 0.95


def test_the_bootstrap_alone_is_too_narrow_with_one_block_and_three_seeds():
    def coverage(folds):
        rng, inside = np.random.default_rng(8), 0
        for draw in range(300):
            c, block = layout(rng, 1, 0, 0.1, 3, folds)
            low, high = np.quantile(bootstrap(c, block, 500, draw), (0.025, 0.975))
            inside += low <= 0 <= high
        return inside / 300

    assert coverage(1) < 0.85
    assert coverage(6) > 0.90


def test_the_bootstrap_has_the_spread_of_its_sources():
    c, block = layout(np.random.default_rng(9), 1, 1, 0, 5, 6, groups=240)
    drawn = bootstrap(c, block, 20_000, 0)
    assert drawn.mean() == pytest.approx(c.mean(), abs=0.05)
    assert drawn.std() == pytest.approx(two_way(c, block)[0], rel=0.15)
    same = np.repeat(c[:, :24], 10, axis=1)  # equal groups, drawn together
    apart = same + 1e-9 * np.random.default_rng(0).standard_normal(same.shape)
    ends = [np.quantile(bootstrap(x, block, 20_000, 0), (0.025, 0.975)) for x in (same, apart)]
    np.testing.assert_allclose(*ends, atol=0.08)


def test_the_detectable_difference_is_found_four_times_in_five():
    found = 0
    for draw in range(200):
        rng = np.random.default_rng(draw)
        c, block = layout(rng, 0.3, 1, 0.3, 5, 6)
        error, freedom = two_way(c, block)
        t = stats.t(freedom)
        shifted = c.mean() + (t.isf(0.025) + t.ppf(0.8)) * np.sqrt(0.3**2 + 1 + 0.3**2)
        found += shifted / error > t.isf(0.025)
    assert 0.70 < found / 200 < 0.90


def test_holm_counts_the_family():
    rows = [compare(made(n, 0.6 + 0.01 * n), made(2, 0.6), **OPTIONS) for n in (7, 8, 9)]
    adjusted = adjust(rows)
    smallest = min(rows, key=lambda row: row["p"])["p"]
    assert min(row["p_holm"] for row in adjusted) == pytest.approx(min(1, 3 * smallest))
    assert all(row["p_holm"] >= row["p"] for row in adjusted)


def test_what_cannot_be_compared_is_refused():
    ours = made(1, 0.6)
    with pytest.raises(ValueError, match="expected two variants that differ somewhere"):
        compare(ours, ours, **OPTIONS)
    with pytest.raises(ValueError, match="over the same seeds, got others"):
        compare(ours._replace(seeds=(1, 2, 4)), ours, **OPTIONS)
    with pytest.raises(ValueError, match="over the same label, got others"):
        compare(ours._replace(label=ours.label[::-1]), ours, **OPTIONS)
    with pytest.raises(ValueError, match="expected at least 2 seeds"):
        compare(made(1, 0.6, seeds=1), made(2, 0.6, seeds=1), **OPTIONS)
    mixed = ours._replace(block=np.arange(len(ours.label)) % 6)
    with pytest.raises(ValueError, match="every group in one block, got one in two"):
        contributions(mixed, mixed, "UA")
    with pytest.raises(ValueError, match=r"measure: expected one of .* got 'F1'"):
        compare(made(1, 0.6), made(2, 0.6), **OPTIONS | {"measure": "F1"})
