"""The SVM: statistics of the valid frames, a row per input, protocol and fold."""

import numpy as np
import torch

from examples.provenance import read_csv
from examples.ser import svm
from examples.ser.data.segments import Segments


def test_the_statistics_are_of_each_row_over_the_valid_frames():
    x = torch.randn(2, 1, 3, 10)
    index = torch.zeros(2, dtype=torch.long)
    found = svm.statistics(Segments(x, index, index, index, torch.tensor([10, 4])))
    assert found.shape == (2, 4 * 3)
    part = x[1, 0, :, :4].numpy()
    wanted = [part.mean(1), part.std(1, ddof=1), part.min(1), part.max(1)]
    np.testing.assert_allclose(found[1], np.concatenate(wanted), rtol=1e-5, atol=1e-6)


def test_a_row_per_input_protocol_and_fold_beats_chance(small_grid, tmp_path, monkeypatch):
    _, source = small_grid
    monkeypatch.setattr(svm, "RESULTS", tmp_path)
    svm.main([*source, "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "svm.csv")
    assert {row["protocol"] for row in rows} == set(svm.PROTOCOLS)
    assert len(rows) % len(svm.PROTOCOLS) == 0
    assert np.mean([float(row["WA"]) for row in rows]) > 40  # four classes
