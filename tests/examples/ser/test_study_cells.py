"""The speech cells of docs/study.md: their flags are those of the protocol, their rows complete."""

import csv
import json

import pytest
import torch

from examples.ser import train
from examples.ser.grid.cells import FORMS, TABLES, VARIANTS, Cell
from examples.ser.run.flags import parse
from examples.ser.synthetic import write_synthetic
from examples.study.cells import FAMILIES
from icasa import backend

FAMILY = {family.name: family for family in FAMILIES}


def flags(variant, preset="strong"):
    cell = Cell("ravdess", "speaker", variant, 0, 1, preset, 30, "32-true")
    return parse([*cell.flags(), "--ravdess", "r", "--out", "o"])


def test_the_tables_have_every_layer_of_the_study_and_no_other():
    assert set(TABLES["layers"][0]) == set(FAMILY["speech-1d-layers"].variants)
    assert set(TABLES["layers-2d"][0]) == set(FAMILY["speech-2d-layers"].variants)


@pytest.mark.parametrize("variant", FAMILY["speech-1d-layers"].variants)
def test_a_layer_alone_differs_from_none_in_the_attention_only(variant):
    ours, base = vars(flags(variant)), vars(flags("none"))
    assert ours == base | {"attention": variant}
    assert not ours["aam"]


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("none+aam", {"aam": True}),
        ("none+aam-random", {"aam": True, "pairing": "random"}),
        ("none+aam-unweighted", {"aam": True, "alpha": 0}),
        ("none+mixup", {"augment": ["jitter", "mixup"]}),
        ("none+spec-augment", {"augment": ["jitter", "spec-augment"]}),
        ("none+crop", {"augment": ["jitter", "crop"]}),
        ("none+aam+mixup", {"aam": True, "augment": ["jitter", "mixup"]}),
        ("none+aam+spec-augment", {"aam": True, "augment": ["jitter", "spec-augment"]}),
        ("none+aam-across-speakers", {"aam": True, "across_speakers": True}),
    ],
)
def test_an_augmentation_differs_from_none_as_the_protocol_says(variant, changes):
    assert flags("none").augment == ["jitter"]
    assert vars(flags(variant)) == vars(flags("none")) | changes


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("icasa-faded", {"attention": "icasa", "icasa_form": "faded"}),
        ("icasa-bounded", {"attention": "icasa", "icasa_form": "bounded"}),
        ("icasa-last", {"attention": "icasa", "icasa_form": "last"}),
        ("none+aam-harder", {"aam": True, "alpha": -2}),
        ("none+aam-embedding", {"aam": True, "representation": "embedding"}),
        ("none+aam-same-class", {"aam": True, "pairing": "same-class", "across_speakers": True}),
    ],
)
def test_a_form_differs_from_none_as_the_protocol_says(form, changes):
    assert form in FORMS
    assert vars(flags(form)) == vars(flags("none")) | changes


def test_a_preset_without_augmentation_adds_none():
    assert flags("none+mixup", "paper").augment == ["mixup"]
    assert VARIANTS["none+mixup"][-1] == "mixup"  # the list that all cells share is unchanged


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("corpus"), per_class=2)


def run(manifest, out, *more):
    source = ["--manifest", manifest, "--cache", manifest.parent / "cache", "--out", out]
    usual = ["--strong", "--epochs", 1, "--threads", 1, "--device", "cpu", "--quiet", *more]
    return train.main([str(flag) for flag in (*source, *usual)])


@pytest.fixture
def steps(monkeypatch):
    """Collect what each AAM step of a training returns, with its labels and ids."""
    seen, step = [], train.aam_loss

    def watched(model, aam, x, y, **options):
        out = step(model, aam, x, y, **options)
        seen.append((out, y, options["utterance"]))
        return out

    monkeypatch.setattr(train, "aam_loss", watched)
    return seen


def test_the_form_within_classes_pairs_one_class_and_two_speakers(manifest, tmp_path, steps):
    run(manifest, tmp_path / "run", *FORMS["none+aam-same-class"], "--threshold", -1)
    for out, y, speaker in steps:
        index, partner, _ = out.pairs
        assert len(index) > len(y) / 2
        assert torch.equal(y[index], y[partner])
        assert not (speaker[index] == speaker[partner]).any()


@pytest.mark.parametrize(("form", "sign"), [("none+aam-harder", 1), ("none+aam", -1)])
def test_the_harder_sample_weighs_more_or_less(manifest, tmp_path, steps, form, sign):
    run(manifest, tmp_path / "run", *VARIANTS[form], "--threshold", -1)
    for out, _, _ in steps:
        index, partner, lam = out.pairs
        harder = out.difficulty[index] - out.difficulty[partner]
        assert len(index)
        assert torch.equal((lam - 0.5).sign(), sign * harder.sign())


@pytest.mark.parametrize("flag", ["--across-speakers", None])
def test_across_speakers_pairs_no_speaker_with_itself(manifest, tmp_path, monkeypatch, flag):
    inside = []
    step = train.aam_loss

    def watched(model, aam, x, y, **options):
        out = step(model, aam, x, y, **options)
        if (apart := options["utterance"]) is not None:
            partners = out.pairs
            inside.append((apart[partners.index] == apart[partners.partner]).sum().item())
            speakers.update(apart.tolist())
        return out

    speakers = set()
    monkeypatch.setattr(train, "aam_loss", watched)
    more = ["--attention", "none", "--aam", "--pairing", "random", *([flag] if flag else [])]
    run(manifest, tmp_path / "run", *more)
    assert bool(inside) == bool(flag)
    assert not any(inside)
    assert len(speakers) < 12 if flag else not speakers  # ids of speakers, not of clips


def test_a_row_has_parameters_threads_and_backend(manifest, tmp_path):
    run(manifest, tmp_path / "run", "--attention", "se")
    with (tmp_path / "run" / "result.csv").open() as file:
        row, *_ = csv.DictReader(file)
    args = parse(["--strong", "--attention", "se", "--manifest", "m", "--out", "o"])
    net = train.network(args, 4)
    assert int(row["parameters"]) == sum(p.numel() for p in net.parameters())
    assert (row["threads"], row["backend"]) == ("1", backend("cpu"))


@pytest.mark.parametrize("flag", ["--across-speakers", "--across-utterances"])
def test_the_report_counts_pairs_as_training_draws_them(manifest, tmp_path, flag):
    run(manifest, tmp_path / "run", "--attention", "none", "--aam", flag)
    pairs = json.loads((tmp_path / "run" / "predictions.json").read_text())["pairs"]
    assert (pairs["speaker_chance"] == 0) == (flag == "--across-speakers")
    assert pairs["pair_share"] > 0
