"""The counter of frames: what it counts, and the bar that a layer's call is to stay below."""

import csv

import torch

import icasa
from benchmarks import frames
from icasa.activation import HSwish


def test_counts_our_frames_alone_in_their_order():
    layer, act, x = icasa.DepthwiseSeparableConv(8), HSwish(), torch.randn(1, 8, 3, 5)
    files = [path.rsplit("/", 1)[1] for path in frames.frames(lambda: act(layer(x)))]
    assert files == ["conv.py", "_check.py", "activation.py"]


def test_an_evaluation_call_stays_below_80_frames_and_12_file_changes(tmp_path, c_library):
    frames.main(["--out", str(tmp_path)])
    with (tmp_path / frames.FILE).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["call"] == "evaluation"]
    assert [row["layer"] for row in rows] == ["ICA(64)", "SA(64)", "ICASA(64)"]
    for row in rows:
        assert row["backend"] == "c"
        assert 0 < int(row["frames"]) <= 80
        assert 0 < int(row["file changes"]) <= 12
