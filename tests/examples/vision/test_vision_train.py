"""A run of the image recipe: every layer trains, a stopped run ends in the same bits."""

import csv
import gzip
import json

import pytest
import torch
from filelock import FileLock

from examples.vision import train
from examples.vision.images import write_aside
from examples.vision.resnet import ATTENTION

TINY = ["--epochs", "3", "--batch-size", "16", "--lr", "0.1", "--validation", "0.2"]
OPTIONS = {
    "plain": ["--augment"],
    "augmented": ["--attention", "cbam"],
    "mixup": ["--attention", "icasa", "--mixup", "0.4"],
    "smoothed": ["--attention", "sa-aligned", "--label-smoothing", "0.1", "--validation", "0"],
}


def flags(pictures, tmp_path, out, *more):
    cache = ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--threads", "1"]
    return ["--data", str(pictures), "--out", str(tmp_path / out), *cache, *TINY, *more]


@pytest.fixture
def no_pictures(monkeypatch):
    """Leave out the pictures, which take most of a tiny run's time."""
    for name in ("draw_curves", "draw_confusion", "draw_gates"):
        monkeypatch.setattr(train, name, lambda *arguments: None)


def predictions(folder):
    return json.loads(gzip.decompress((folder / "predictions.json.gz").read_bytes()))


class KilledError(Exception):
    """The process ends here."""


def kill_after(monkeypatch, epoch):
    """Let the run end before an epoch's checkpoint is written."""
    calls = []

    def stop(path, content):
        calls.append(path)
        if len(calls) == epoch:
            raise KilledError
        write_aside(path, content)

    monkeypatch.setattr(train, "write_aside", stop)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_run_killed_at_every_epoch_ends_in_the_same_bits(
    pictures, tmp_path, monkeypatch, options
):
    whole = train.main(flags(pictures, tmp_path, "whole", *options))
    for epoch in (1, 2, 2, 2):  # before the first checkpoint, then each time one epoch further
        torch.manual_seed(12345 + epoch)  # another process has other generator states
        kill_after(monkeypatch, epoch)
        with pytest.raises(KilledError):
            train.main(flags(pictures, tmp_path, "killed", *options))
        monkeypatch.setattr(train, "write_aside", write_aside)
    resumed = train.main(flags(pictures, tmp_path, "killed", *options))
    assert {k: v for k, v in whole.items() if k != "command"} == {
        k: v for k, v in resumed.items() if k != "command"
    }
    a, b = (
        torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)
        for out in ("whole", "killed")
    )
    for key, value in a["model"].items():
        assert torch.equal(value, b["model"][key]), key
    momentum = [state["optimizer"]["state"] for state in (a, b)]
    for key, value in momentum[0].items():
        assert torch.equal(value["momentum_buffer"], momentum[1][key]["momentum_buffer"])
    assert predictions(tmp_path / "whole")["images"] == predictions(tmp_path / "killed")["images"]


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_layer_learns_the_colours(pictures, tmp_path, monkeypatch, attention):
    if attention != "icasa":  # one run has all pictures, the others their gates
        monkeypatch.setattr(train, "draw_curves", lambda *arguments: None)
        monkeypatch.setattr(train, "draw_confusion", lambda *arguments: None)
    more = ["--attention", attention, "--augment", "flip", "--epochs", "6", "--seed", "1"]
    row = train.main(flags(pictures, tmp_path, "run", *more))
    assert row["accuracy"] > 60  # chance is 33
    names = {path.name for path in (tmp_path / "run").glob("*.png")}
    everything = {"curves.png", "confusion.png", "gates.png"}
    assert names == {"icasa": everything, "none": set()}.get(attention, {"gates.png"})
    with (tmp_path / "run" / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert any("beta" in key for key in history[0]) == attention.startswith("icasa")
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])


@pytest.mark.usefixtures("no_pictures")
def test_row_and_predictions_say_the_same(pictures, tmp_path):
    argv = flags(pictures, tmp_path, "run", "--name", "colours", "--seed", "7")
    row = train.main(argv)
    record = predictions(tmp_path / "run")
    images = record["images"]
    right = [p == y for p, y in zip(images["predicted"], images["label"], strict=True)]
    assert row["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert [record["labels"][y] for y in images["label"]] == [
        name.split("/")[0] for name in images["id"]
    ]
    assert record["run"] == row
    assert (row["data"], row["seed"], row["part"], row["threads"]) == ("colours", 7, "test", 1)
    assert row["command"].startswith("python -m examples.vision.train --data ")
    assert len(row["commit"]) >= 40


@pytest.mark.usefixtures("no_pictures")
def test_validation_rows_do_not_depend_on_the_test_images(pictures, tmp_path):
    row = train.main(flags(pictures, tmp_path, "run", "--score", "validation"))
    record = predictions(tmp_path / "run")
    assert row["part"] == "validation"
    assert len(record["images"]["id"]) == 9
    history = (tmp_path / "run" / "history.csv").read_text()
    assert "test" not in history
    with pytest.raises(SystemExit):
        train.parse(flags(pictures, tmp_path, "b", "--score", "validation", "--validation", "0"))


@pytest.mark.usefixtures("no_pictures")
def test_seeds_augmentation_and_mixup_change_the_run(pictures, tmp_path):
    losses = {
        train.main(flags(pictures, tmp_path, f"run{i}", "--epochs", "1", *more))["loss"]
        for i, more in enumerate(
            ([], ["--seed", "1"], ["--mixup", "1"], ["--augment"], ["--augment", "flip"])
        )
    }
    assert len(losses) == 5


def test_augment_moves_pixels_within_a_frame_of_zeros():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 8, 8) + 1
    assert train.augment(x, []) is x
    flipped = train.augment(x, ["flip"])
    same = (flipped == x).flatten(1).all(1)
    assert torch.equal(flipped[~same], x[~same].flip(3))
    assert 10 < same.sum() < 54
    cropped = train.augment(x, ["crop"])
    for before, after in zip(x, cropped, strict=True):
        padded = torch.nn.functional.pad(before, (4,) * 4)
        places = [(i, j) for i in range(9) for j in range(9)]
        assert any(torch.equal(padded[:, i : i + 8, j : j + 8], after) for i, j in places)
    assert len({tuple((image != 0)[0].flatten().tolist()) for image in cropped}) > 10


@pytest.mark.usefixtures("no_pictures")
def test_another_run_is_not_resumed(pictures, tmp_path):
    train.main(flags(pictures, tmp_path, "run"))
    with pytest.raises(SystemExit, match=r"another run \(lr: 0.1 there, 0.3 now\); name another"):
        train.main(flags(pictures, tmp_path, "run", "--lr", "0.3"))
    other = tmp_path / "other"
    other.symlink_to(pictures)
    row = train.main(flags(other, tmp_path, "run"))  # the same images at another place
    assert row["epochs"] == 3


def test_two_trainings_do_not_share_a_folder(pictures, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / "lock"),
        pytest.raises(SystemExit, match="another training runs here; name another --out"),
    ):
        train.main(flags(pictures, tmp_path, "run"))


BAD = {
    ("--epochs", "0"): "--epochs: expected a number above 0, got 0",
    ("--lr", "nan"): "--lr: expected a number above 0, got nan",
    ("--validation", "1"): "--validation: expected 0 <= value < 1, got 1.0",
    ("--mixup", "-1"): "--mixup: expected 0 <= value < 1000, got -1.0",
    ("--attention", "dog"): "invalid choice: 'dog'",
}


@pytest.mark.parametrize("bad", BAD, ids=" ".join)
def test_bad_flags_are_named(pictures, tmp_path, bad, capsys):
    with pytest.raises(SystemExit):
        train.main(flags(pictures, tmp_path, "run", *bad))
    assert BAD[bad] in capsys.readouterr().err


@pytest.mark.usefixtures("no_pictures")
def test_a_loss_that_is_not_finite_stops_the_run(pictures, tmp_path):
    with pytest.raises(SystemExit, match="expected a finite loss, got nan; lower --lr"):
        train.main(flags(pictures, tmp_path, "run", "--lr", "1e30"))


def test_a_bad_folder_ends_the_run_in_one_line(tmp_path):
    expected = f"{tmp_path / 'nowhere'}: expected a folder or a zip, got none; check the path"
    with pytest.raises(SystemExit) as caught:
        train.main(flags(tmp_path / "nowhere", tmp_path, "run"))
    assert caught.value.code == expected
