"""The recipe end to end on synthetic speech: it learns, resumes exactly, and runs on many."""

import csv
import errno
import json
import subprocess
import sys

import pytest
import torch

from examples.errors import UserError, user_errors
from examples.ser import train
from examples.ser.crash_drill import differences, timeless
from examples.ser.grid.cells import FORMS
from examples.ser.model.macnn import HEADS, MACNN
from examples.ser.model.plane import PlaneCNN, PlaneResNet
from examples.ser.model.tdnn import TDNN
from examples.ser.run import checkpoint
from examples.ser.run.checkpoint import CHECKPOINT, IN_USE, only_training
from examples.ser.run.flags import AUGMENT, PRESETS, SCHEDULES, network, parse
from examples.ser.synthetic import write_synthetic

CHANCE = 25.0  # four classes of equal size


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("tiny"), speakers=6, per_class=1)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("small"), per_class=1)


def flags(manifest, out, *more):
    common = ["--manifest", manifest, "--cache", manifest.parent / "cache", "--out", out]
    return [str(f) for f in (*common, "--threads", 1, "--device", "cpu", "--quiet", *more)]


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_two_epochs_beat_chance_by_a_margin_that_shuffled_labels_miss(tmp_path):
    manifest = write_synthetic(tmp_path / "corpus", per_class=16)
    more = ("--epochs", 2, "--batch-size", 4, "--attention", "none")
    result = train.main(flags(manifest, tmp_path / "out", *more, "--no-validation"))
    # 128 test clips: guessing has a standard deviation of 3.8 points, so this is four of them.
    assert result[0]["selection"] == "last"
    assert result[0]["WA"] > CHANCE + 15


# Together they have every network, head, preset and augmentation: the test below says so.
RESUMED = {
    "strong": ("--strong", "--attention", "icasa", "--aam", "--augment", "jitter"),
    "paper": ("--paper", "--attention", "icasa", "--head", "fusion", "--augment", "crop", "mixup"),
    "recommended": ("--attention", "sa", "--head", "linear", "--aam", "--augment", "spec-augment"),
    "onecycle": ("--onecycle", "--attention", "ica", "--head", "dot", "--optimizer", "adamw"),
    "flatten": ("--paper", "--attention", "none", "--head", "flatten"),
    "plane": ("--plane", "--attention", "ca"),
    "plane-resnet": ("--plane", "--network", "plane-resnet", "--attention", "none"),
    **{form: ("--strong", *variant) for form, variant in FORMS.items()},
}


def test_every_network_preset_and_augmentation_is_resumed():
    args = [parse(["--manifest", "m", "--out", "o", *flags]) for flags in RESUMED.values()]
    assert {a.preset for a in args} == set(PRESETS)
    assert {name for a in args for name in a.augment} == set(AUGMENT)
    assert {type(network(a, 4)) for a in args} == {MACNN, TDNN, PlaneCNN, PlaneResNet}
    assert {a.head for a in args if a.network == "macnn"} == set(HEADS)
    assert {a.schedule for a in args} == set(SCHEDULES)
    assert {a.aam for a in args} == {True, False}


@pytest.mark.parametrize("case", RESUMED)
def test_resume_equals_uninterrupted_bit_for_bit(tiny, tmp_path, monkeypatch, case):
    places = () if {"--strong", "--plane"} & {*RESUMED[case]} else ("--places", "conv2")
    more = ("--epochs", 2, "--batch-size", 8, *places, *RESUMED[case])
    train.main(flags(tiny, tmp_path / "whole", *more))
    save = train.save

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(flags(tiny, tmp_path / "parts", *more))
    monkeypatch.setattr(train, "save", save)
    train.main(flags(tiny, tmp_path / "parts", *more))
    whole, parts = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts")
    )
    assert differences(timeless(whole), timeless(parts)) == []


def test_two_processes_agree_with_one(small, tmp_path):
    more = ("--epochs", 1, "--attention", "icasa", "--aam", "--batch-size", 16)
    train.main(flags(small, tmp_path / "one", *more))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *launcher, "-m", "examples.ser.train"]
    done = subprocess.run(
        [*command, *flags(small, tmp_path / "two", *more)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "broadcast_buffers" not in done.stderr  # deprecated in torch 2.13
    (one,), (two,) = (rows(tmp_path / name / "history.csv") for name in ("one", "two"))
    # Each process pairs and normalises its own half of a batch, so they agree only nearly.
    for key, tolerance in (("train_loss", 0.05), ("test_loss", 0.05), ("beta_conv2", 0.005)):
        assert float(two[key]) == pytest.approx(float(one[key]), abs=tolerance), key
    assert rows(tmp_path / "two" / "result.csv")[0]["processes"] == "2"


def test_rows_predictions_and_pictures_tell_one_story(small, tmp_path):
    out = tmp_path / "run"
    train.main(flags(small, out, "--epochs", 1, "--attention", "icasa", "--batch-size", 16))
    result = rows(out / "result.csv")
    assert [r["selection"] for r in result] == ["last", "validation-best", "test-best (oracle)"]
    record = json.loads((out / "predictions.json").read_text())
    assert result[0]["corpus"] == record["run"]["corpus"] == "synthetic"
    for row in result:
        clips, labels = record["utterances"], record["labels"]
        hits = sum(
            labels[max(range(len(labels)), key=u[row["selection"]].__getitem__)] == u["label"]
            for u in clips
        )
        assert float(row["WA"]) == pytest.approx(100 * hits / len(clips), abs=1e-3)
        assert all(sum(u[row["selection"]]) == pytest.approx(1, abs=1e-4) for u in clips)
        for key in ("commit", "device", "torch", "seed", "command"):
            assert row[key]
        assert row["threads"] == "1"
    pictures = {"attention", "beta", "curves", "confusion-last", "confusion-validation-best"}
    assert pictures <= {path.stem for path in out.glob("*.png")}


def test_the_paper_rate_is_constant():
    args = parse(["--manifest", "m.csv", "--out", "o", "--paper"])
    assert rates(args) == [1e-3] * 60


def rates(args):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.lr)
    scheduler = train.make_schedule(optimizer, args, args.epochs)
    seen = []
    for _ in range(args.epochs):
        seen.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_recommended_rate_falls_by_half_a_cosine():
    args = parse(["--manifest", "m.csv", "--out", "o", "--epochs", "4"])
    assert args.validation
    assert rates(args) == pytest.approx([1e-3, 0.85355339e-3, 0.5e-3, 0.14644661e-3])


def test_one_cycle_rises_to_the_rate_given_and_falls_below_its_start():
    args = parse(["--manifest", "m.csv", "--out", "o", "--onecycle", "--lr", "0.01"])
    assert not args.validation
    assert args.label_smoothing == 0.1
    seen = rates(args)
    assert len(seen) == 12
    assert max(seen) == pytest.approx(0.01, rel=0.05)
    assert seen[-1] < seen[0] < max(seen)


def test_a_leaky_protocol_says_so_in_every_row(small, tmp_path):
    more = ("--protocol", "leaky-segment", "--onecycle", "--epochs", 1, "--attention", "none")
    result = train.main(flags(small, tmp_path, *more, "--precision", "bf16-mixed"))
    assert {row["protocol"] for row in result} == {"leaky-segment"}


def test_the_folder_of_another_run_is_refused(small, tmp_path):
    common = ("--epochs", 1, "--attention", "none", "--batch-size", 32)
    train.main(flags(small, tmp_path, *common))
    with pytest.raises(UserError, match=r"of another \(lr: 0.001 there, 0.1 now\); give"):
        train.main(flags(small, tmp_path, *common, "--lr", 0.1))


def test_a_finished_run_is_not_taken_for_that_of_corrected_labels(small, tmp_path):
    common = ("--epochs", 1, "--attention", "none", "--batch-size", 32)
    train.main(flags(small, tmp_path, *common))
    corrected = small.parent / "corrected.csv"
    corrected.write_text(
        small.read_text().replace("happy_01.wav,happy,S01", "happy_01.wav,sad,S01")
    )
    with pytest.raises(UserError, match=r"of another \(other data: labels of test\); give"):
        train.main(flags(corrected, tmp_path, *common))
    with only_training(tmp_path), pytest.raises(SystemExit, match=f"{IN_USE}"):
        train.main(flags(small, tmp_path, *common))


def test_bad_clips_end_the_command_with_one_list_and_no_traceback(small, tmp_path):
    table = small.read_text().splitlines()
    bad = tmp_path / "manifest.csv"
    table[1] = table[1].replace("synthetic_S01", "missing_S01")
    silent = small.parent / "silent.wav"
    silent.write_bytes(b"")
    table[2] = f"{silent},{table[2].split(',', 1)[1]}"
    bad.write_text("\n".join(r.replace("S0", f"{small.parent}/S0", 1) for r in table) + "\n")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end, user_errors():
        train.main(flags(bad, tmp_path / "file" / "run"))
    message = str(end.value)
    for part in ("3 problem(s)", "expected a writable folder", "missing_S01", "silent.wav"):
        assert part in message


def test_other_augmentations_change_the_batch_and_go_with_aam(small, tmp_path):
    args = parse([*flags(small, tmp_path), "--augment", "mixup", "crop", "spec-augment"])
    x, y = torch.randn(8, 1, 39, 200), torch.arange(8) % 4
    mixed, target = train.make_augment(args, 4)(x, y, torch.Generator().manual_seed(0))
    assert target.shape == (8, 4)
    assert not torch.equal(mixed, x)
    plain = train.make_augment(parse(flags(small, tmp_path)), 4)
    assert plain(x, y, torch.Generator()) == (x, y)
    more = ("--augment", "mixup", "--aam", "--epochs", 1, "--attention", "none", "--no-validation")
    result = train.main(flags(small, tmp_path, *more))
    assert result[0]["augmentation"] == "mixup + aam"


def test_balanced_weights_give_every_class_an_equal_share():
    y = torch.tensor([0, 0, 0, 1])
    data = train.Segments(*[y] * 5)
    assert train.class_weights(data, 2, "none") is None
    weight = train.class_weights(data, 3, "balanced")
    assert weight.tolist() == pytest.approx([4 / 9, 4 / 3, 0])  # n / (K n_k); no third class
    assert (weight[0] * 3).item() == pytest.approx(weight[1].item())


def test_the_weights_change_the_training(small, tmp_path):
    text = small.read_text().splitlines()
    few = [line for n, line in enumerate(text) if ",sad," not in line or n % 2]
    manifest = small.parent / "unequal.csv"
    manifest.write_text("\n".join(few) + "\n")
    more = ("--epochs", 1, "--attention", "none", "--no-validation")
    losses = [
        train.main([*flags(manifest, tmp_path / mode, *more), "--class-weights", mode]) and
        rows(tmp_path / mode / "history.csv")[0]["train_loss"] for mode in ("none", "balanced")
    ]  # fmt: skip
    assert losses[0] != losses[1]


def test_a_loss_that_is_not_finite_names_its_batch(small, tmp_path, monkeypatch):
    make = train.network

    def overflow(args, classes):
        net = make(args, classes)
        torch.nn.init.constant_(net.classifier.bias, torch.inf)
        return net

    monkeypatch.setattr(train, "network", overflow)
    with pytest.raises(
        UserError, match=r"in epoch 1, batch 1: .* left classifier\.bias not finite"
    ):
        train.main(flags(small, tmp_path, "--epochs", 1, "--attention", "none"))


def test_a_full_disk_and_a_damaged_checkpoint_are_named(small, tmp_path, monkeypatch):
    def full(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    more = ("--epochs", 1, "--attention", "none", "--no-validation")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", full)
        with pytest.raises(
            UserError, match=r"expected room for [\d.]+ MB of .*checkpoint\.pt, got"
        ):
            train.main(flags(small, tmp_path, *more))
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"got .*checkpoint\.pt, which is damaged"):
        train.main(flags(small, tmp_path, *more))


def test_a_run_says_who_is_on_each_side_before_it_trains(small, tmp_path, capsys):
    train.main(flags(small, tmp_path, "--epochs", 1, "--attention", "none"))
    out = capsys.readouterr().out
    for line in (
        "note: train: 16 clips of 4 speakers (2 female, 2 male): S05, S06, S07, S08",
        "note: validation: 8 clips of 2 speakers (1 female, 1 male): S03, S04",
        "note: test: 8 clips of 2 speakers (1 female, 1 male): S01, S02",
        "training on ",
    ):
        assert line in out
        assert out.index(line) < out.index("epoch 1  lr")


def test_a_network_that_the_last_step_left_overflowing_is_named(tiny, tmp_path):
    more = ("--epochs", 1, "--batch-size", 64, "--attention", "none", "--lr", "1e30")
    with pytest.raises(UserError, match=r"in epoch 1, the evaluation: .*; lower --lr 1e\+30"):
        train.main(flags(tiny, tmp_path, *more))


def test_folds_numbered_from_one_are_said_so(tiny, tmp_path):
    table = [line.rsplit(",", 2) for line in tiny.read_text().splitlines()]
    rows = [f"{row},{int(fold) + 1 if fold.isdigit() else fold}" for row, fold, _ in table]
    manifest = tiny.parent / "from_one.csv"
    manifest.write_text("\n".join(rows) + "\n")
    with pytest.raises(UserError, match=r"got 0; its folds are numbered from 1: give --fold 1"):
        train.main(flags(manifest, tmp_path, "--attention", "none"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ("--train-stride", "nan"),
            r"expected a stride of 0\.01 to 1\.98 s, got nan s; correct --train",
        ),
        (
            ("--fold", 9),
            "expected a fold of corpus synthetic, 0, 1, 2, 3, got 9; give --fold one of",
        ),
        (
            ("--train-stride", 5),
            r"expected a stride of 0\.01 to 1\.98 s, got 5\.0 s; correct --train",
        ),
        (("--device", "cuda"), "expected a GPU for --device cuda"),
        (
            ("--folds", 2, "--labels", "sad", "rage"),
            "expected --labels among angry, happy, neutral",
        ),
    ],
)
def test_what_does_not_fit_the_corpus_is_a_users_error(small, tmp_path, more, message):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=message):
        train.main(flags(small, tmp_path, "--attention", "none", "--epochs", 1, *more))
