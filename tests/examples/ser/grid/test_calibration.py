"""Calibration: closed forms, scikit-learn's Brier score, and the picture."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

pytest.importorskip("matplotlib", reason="the examples' extra")

import matplotlib.pyplot as plt

from examples.ser.grid.calibration import calibrated, calibration, draw_calibration, reliability


def sure(confidence, right, k=4):
    """Posteriors of the given confidence in class 0, and labels that make them right or wrong."""
    confidence = np.asarray(confidence, float)
    posterior = np.repeat((1 - confidence)[:, None] / (k - 1), k, axis=1)
    posterior[:, 0] = confidence
    return posterior, np.where(right, 0, 1)


def drawn(n=300, k=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(k, 0.5), n), rng.integers(k, size=n)


def test_ece_is_the_mean_gap_and_mce_the_largest_one():
    found = calibration(*sure([0.7] * 4 + [0.95] * 2, [1, 1, 0, 0, 1, 0]))
    assert found["ECE"] == pytest.approx((4 * 0.2 + 2 * 0.45) / 6)
    assert found["MCE"] == pytest.approx(0.45)


def test_all_sure_and_right_is_perfect_and_all_sure_and_wrong_the_worst():
    right, wrong = (calibration(*sure([1.0] * 3, [r] * 3)) for r in (1, 0))
    assert right == {"ECE": 0, "MCE": 0, "Brier": 0, "confident": 3, "confident_accuracy": 1}
    assert wrong == {"ECE": 1, "MCE": 1, "Brier": 2, "confident": 3, "confident_accuracy": 0}


def test_what_the_ece_is_by_chance_is_had_from_the_posteriors_alone():
    one = np.array([[0.7, 0.3]])  # right seven times in ten, and then 0.3 off
    assert calibrated(one) == pytest.approx((0.3, 0.7))
    assert calibrated(np.eye(3)) == (0, 0)
    few, many = (calibrated(drawn(n)[0], draws=99) for n in (100, 10_000))
    assert 0 < many[0] < many[1] < few[0] < few[1]
    assert calibrated(drawn()[0], draws=9, seed=1) != calibrated(drawn()[0], draws=9)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_the_brier_score_of_a_uniform_posterior_is_1_minus_1_over_k(k):
    posterior = np.full((6, k), 1 / k)
    assert calibration(posterior, np.arange(6) % k)["Brier"] == pytest.approx(1 - 1 / k)


def test_the_brier_score_is_scikit_learn_s():
    posterior, y = drawn()
    want = brier_score_loss(y, posterior, labels=range(5))
    assert calibration(posterior, y)["Brier"] == pytest.approx(want)


def test_the_threshold_counts_from_its_own_value_on():
    posterior, y = sure([0.9, 0.95, 0.89, 0.5], [1, 0, 1, 1])
    found = calibration(posterior, y)
    assert (found["confident"], found["confident_accuracy"]) == (2, 0.5)
    assert calibration(posterior, y, threshold=0.8)["confident"] == 3
    none = calibration(posterior, y, threshold=0.99)
    assert none["confident"] == 0
    assert math.isnan(none["confident_accuracy"])


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_diagram_s_gaps_add_up_to_the_ece(bins):
    posterior, y = drawn()
    rows = [row for row in reliability(posterior, y, bins) if row["count"]]
    gaps = [row["count"] / len(y) * abs(row["accuracy"] - row["confidence"]) for row in rows]
    assert calibration(posterior, y, bins)["ECE"] == pytest.approx(sum(gaps))
    assert sum(row["count"] for row in rows) == len(y)
    assert all(row["low"] <= row["confidence"] <= row["high"] for row in rows)


def test_an_empty_bin_says_so():
    rows = reliability(*sure([0.7, 0.7], [1, 0]), bins=10)
    assert [row["count"] for row in rows] == [0] * 7 + [2] + [0] * 2
    assert math.isnan(rows[0]["accuracy"])
    assert rows[7] == {
        "low": 0.7, "high": 0.8, "count": 2, "confidence": pytest.approx(0.7), "accuracy": 0.5
    }  # fmt: skip


def test_the_picture_shows_both_distributions_and_closes(tmp_path, monkeypatch):
    kept, close = [], plt.close
    monkeypatch.setattr(plt, "close", kept.append)
    posterior, y = drawn()
    draw_calibration(posterior, y, "a title", tmp_path / "calibration.png")
    (figure,) = kept
    left, histogram = figure.axes
    accuracy = [row["accuracy"] for row in reliability(posterior, y)]
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], accuracy)
    right = (posterior.argmax(1) == y).sum()
    heights = [sum(bar.get_height() for bar in part) for part in histogram.containers]
    assert heights == [right, len(y) - right]
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    close(figure)


@pytest.mark.parametrize(
    ("posterior", "y", "message"),
    [
        (np.ones((3, 2)) / 2, np.zeros(2, int), r"got \(3, 2\) and \(2,\)"),
        (np.ones((0, 2)), np.zeros(0, int), r"at least one utterance, got \(0, 2\)"),
        (np.ones((3, 2)), np.zeros(3, int), r"rows sum to 1, .* sums up to 2; apply a softmax"),
        (np.array([[1.5, -0.5]]), np.zeros(1, int), r"probabilities"),
    ],
)
def test_what_is_no_posterior_is_refused(posterior, y, message):
    with pytest.raises(ValueError, match=message):
        calibration(posterior, y)
