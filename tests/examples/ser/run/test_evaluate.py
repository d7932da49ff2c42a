"""Scores: cases worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from examples.ser.data.segments import Segments
from examples.ser.run.evaluate import (
    confusion,
    expected_calibration_error,
    scores,
    utterance_posteriors,
)


def one_hot(classes, k, p=1.0):
    out = np.full((len(classes), k), (1 - p) / (k - 1))
    out[np.arange(len(classes)), classes] = p
    return out


def test_wa_weighs_clips_and_ua_weighs_classes():
    y = np.array([0, 0, 0, 1])
    result = scores(one_hot([0, 0, 1, 1], 2, 0.9), y, ["a", "b"])
    assert result["WA"] == pytest.approx(75)
    assert result["UA"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert result["F1_a"] == pytest.approx(80)  # precision 1, recall 2/3
    assert result["F1_b"] == pytest.approx(100 * 2 / 3)
    assert result["F1"] == pytest.approx((80 + 200 / 3) / 2)


def test_ua_is_over_the_classes_that_occur():
    assert scores(one_hot([0, 1], 3, 0.9), np.array([0, 1]), ["a", "b", "c"])["UA"] == 100


def test_ece_of_two_bins_by_hand():
    confidence = one_hot([0, 0, 0, 0], 2, 0.7)
    y = np.array([0, 0, 1, 1])  # half right at 0.7
    assert expected_calibration_error(confidence, y) == pytest.approx(0.2)


def test_a_confidence_of_one_shares_the_last_bin():
    posterior = np.array([[1.0, 0.0], [0.95, 0.05]])
    y = np.array([0, 1])  # the bin holds one right, one wrong: |0.5 - 0.975|
    assert expected_calibration_error(posterior, y) == pytest.approx(0.475)


def test_confusion_rows_are_the_actual_classes():
    counts = confusion(one_hot([1, 1, 0], 2), np.array([0, 0, 0]), ["a", "b"])
    np.testing.assert_array_equal(counts, [[1, 2], [0, 0]])


def test_an_utterance_gets_the_mean_of_its_segments_probabilities():
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    ids = torch.tensor([7, 3, 7])
    rest = torch.zeros(3, dtype=torch.long)
    segments = Segments(x, torch.tensor([1, 0, 1]), ids, rest, rest)
    y, posterior = utterance_posteriors(nn.Identity(), segments, 2, batch_size=2)
    p = x.double().softmax(1)
    assert y.tolist() == [0, 1]
    torch.testing.assert_close(posterior, torch.stack((p[1], (p[0] + p[2]) / 2)))
