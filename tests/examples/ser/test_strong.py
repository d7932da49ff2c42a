"""The recipe's table: means over seeds, the ensemble, and gains over what both have run."""

import json

import numpy as np
import pytest
import torch

from examples.ser import strong, train
from examples.ser.data.load import load
from examples.ser.data.ravdess import RAVDESS_LABELS, ravdess_rows
from examples.ser.grid.cells import Cell
from examples.ser.grid.runs import Runs
from examples.ser.run.evaluate import utterance_posteriors
from examples.ser.synthetic import write_synthetic


def runs(seed, right, folds=range(6)):
    """Records whose every clip is right with the chance `right`, by dice of the seed."""
    rng, records = np.random.default_rng(seed), []
    for fold in folds:
        clips = []
        for row in ravdess_rows():
            if int(row["fold"]) == fold:
                label = RAVDESS_LABELS.index(row["label"])
                said = label if rng.random() < right else rng.integers(8)
                posterior = np.full(8, 0.1) + 0.2 * (np.arange(8) == said)
                keys = ("id", "label", "speaker", "gender")
                clips.append({key: row[key] for key in keys} | {"last": posterior.tolist()})
        run = {"fold": fold, "seed": seed, "commit": "0"}
        records.append({"labels": RAVDESS_LABELS, "run": run, "utterances": clips})
    return records


def made(*records):
    """Runs of a cell of the recipe."""
    cell = Cell("ravdess", "speaker", "none", 0, 1, "strong", 30, "32-true")
    return Runs(cell, tuple(r for part in records for r in part))


def test_seeds_are_averaged_and_their_mean_posterior_is_better():
    row = strong.accuracy(made(runs(1, 0.5), runs(2, 0.5), runs(3, 0.5)).seeds)
    assert row["WA"] == pytest.approx(100 * (0.5 + 0.5 / 8), abs=3)
    assert 0 < row["WA SD"] < 3
    assert row["WA of the ensemble"] > row["WA"] + 3
    seeds = made(runs(1, 0.5), runs(2, 0.5)).seeds
    assert strong.accuracy(dict(reversed(seeds.items()))) == strong.accuracy(seeds)


def test_one_seed_has_no_spread_and_no_ensemble():
    assert set(strong.accuracy(made(runs(1, 0.5)).seeds)) == {"WA", "UA"}


def test_clips_are_matched_by_name_between_seeds():
    first, second = runs(1, 1.0), runs(2, 1.0)
    for record in second:
        record["utterances"].reverse()
    assert strong.accuracy(made(first, second).seeds)["WA of the ensemble"] == 100


def test_the_gain_is_ours_less_the_baseline():
    row = strong.gain(made(runs(1, 0.7), runs(2, 0.7)), made(runs(1, 0.4), runs(3, 0.4)))
    assert row["low"] < row["UA gained"] < row["high"]
    assert row["UA gained"] == pytest.approx(30 * 7 / 8, abs=5)
    assert row["p"] < 0.05
    assert row["UA gained by seed"] == f"{row['UA gained']:.2f}"  # of the one seed of both


def test_without_a_common_seed_there_is_no_gain():
    assert strong.gain(made(runs(1, 0.5)), made(runs(2, 0.5))) == {}


@pytest.mark.parametrize("flags", [["--attention", "none"], ["--attention", "icasa", "--aam"]])
def test_the_exported_network_predicts_what_the_run_recorded(flags, tmp_path):
    manifest = str(write_synthetic(tmp_path / "corpus", per_class=4))
    source = ["--manifest", manifest, "--cache", str(tmp_path / "cache"), "--quiet"]
    run = ["--out", str(tmp_path / "run"), "--epochs", "2", "--device", "cpu", "--threads", "1"]
    train.main(["--strong", *flags, *source, *run])
    record = json.loads((tmp_path / "run" / "predictions.json").read_text())
    strong.export(Runs(made().cell, (record,)), tmp_path / "run", tmp_path / "strong.pt")
    torch.manual_seed(7)  # of no weight that is left as drawn
    args, labels, net = strong.load(tmp_path / "strong.pt")
    _, data = load(args)
    _, posterior = utterance_posteriors(net, data["test"], len(labels))
    said = [clip["last"] for clip in record["utterances"]]
    np.testing.assert_allclose(posterior, said, atol=2e-5)
    assert data["test"].x.shape[2:] == (53, 320)


def test_the_committed_checkpoint_loads():
    args, labels, net = strong.load()
    assert (args.preset, args.fold, labels) == ("strong", 0, list(RAVDESS_LABELS))
    with torch.no_grad():
        assert net(torch.zeros(1, 1, 53, 320)).isfinite().all()
