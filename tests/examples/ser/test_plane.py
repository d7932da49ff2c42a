"""The choice of the network on the plane: validation speakers alone, the protocol's rule, rows."""

import json

import pytest
import torch

from examples.errors import UserError
from examples.provenance import read_csv
from examples.ser import plane, train
from examples.ser.data.manifest import load_manifest
from examples.ser.grid.cells import RESULTS, TABLES, Cell
from examples.ser.run.flags import PRESETS, network, parse
from examples.ser.synthetic import write_synthetic
from examples.study.cells import FAMILIES

RUN = ["--manifest", "m", "--out", "o", "--plane"]
FOUR_BLOCKS = 9 * (16 * 3200 + 16 * 32 * 800 + 32 * 64 * 200 + 64 * 96 * 52)


def made(name, ua, macs=10, seconds=60.0, lr=1e-3):
    return [
        {"network": name, "lr": lr, "macs": macs, "seconds": seconds + fold, "UA": ua + fold}
        for fold in range(2)
    ]


def test_the_best_wins_the_cheaper_of_near_ones_and_the_slow_are_out():
    assert plane.choose(made("a", 60) + made("b", 60.6, 20)) == ("b", 1e-3)
    assert plane.choose(made("a", 60) + made("b", 60.4, 20)) == ("a", 1e-3)
    assert plane.choose(made("a", 60) + made("a", 60.1, lr=3e-3)) == ("a", 3e-3)
    assert plane.choose(made("a", 60) + made("b", 70, seconds=121)) == ("a", 1e-3)
    with pytest.raises(UserError, match="expected a candidate of 120 s a fold or less, got none"):
        plane.choose(made("a", 60, seconds=121))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plane-cnn", FOUR_BLOCKS + 8 * 192),
        ("plane-cnn-rows", FOUR_BLOCKS + 8 * 768),
        ("plane-resnet", 9 * (16 * 800 + 2 * 16**2 * 800 + (16 * 32 + 32**2) * 200
                              + (32 * 64 + 64**2) * 52) + 8 * 128),
    ],
)  # fmt: skip
def test_multiply_accumulates_are_those_of_the_closed_form(name, expected):
    net = network(parse([*RUN, "--network", name]), 8)
    assert plane.macs(net, torch.zeros(1, 1, 64, 200)) == expected


def test_the_preset_is_strongs_but_for_features_network_rate_and_noise():
    ours, strong = PRESETS["plane"], PRESETS["strong"]
    differ = {"features", "network", "lr", "augment"}
    assert {k: v for k, v in ours.items() if k not in differ} == {
        k: v for k, v in strong.items() if k not in differ
    }
    assert parse(RUN).augment == []
    assert ours["network"] in plane.CANDIDATES.values()
    assert ours["lr"] in map(float, plane.RATES)


@pytest.mark.skipif(not (RESULTS / "plane.csv").exists(), reason="not chosen yet")
def test_the_preset_is_the_one_chosen():
    chosen = plane.choose(read_csv(RESULTS / "plane.csv"))
    assert chosen == (PRESETS["plane"]["network"], PRESETS["plane"]["lr"])


def test_its_cells_are_those_that_the_study_reads():
    family = next(family for family in FAMILIES if family.name == "speech-2d-layers")
    assert set(TABLES["layers-2d"][0]) == set(family.variants)
    cell = Cell("ravdess", "speaker", "se", 3, 2, "plane", 30, "32-true")
    path = family.pattern.format(variant="se", seed=2, fold=3)
    assert path.endswith(f"/{cell.name}.json.gz")
    assert not cell.is_paper_model
    args = parse([*cell.flags(), "--ravdess", "r", "--out", "o"])
    assert (args.attention, args.features, args.validation) == ("se", "log-mel", False)


def test_validation_scores_need_validation(capsys):
    with pytest.raises(SystemExit):
        parse([*RUN, "--score", "validation"])
    assert "expected --validation with --score validation" in capsys.readouterr().err


def test_the_choice_runs_and_scores_no_test_clip(tmp_path, monkeypatch, capsys):
    manifest = write_synthetic(tmp_path / "corpus", per_class=1)
    monkeypatch.setattr(plane, "train_cell", lambda command, log: not train.main(command[3:]))
    monkeypatch.setattr(plane, "RATES", ("1e-3",))
    argv = ["--manifest", manifest, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs"]
    argv += ["--out", tmp_path / "plane.csv", "--fold", "0", "--epochs", "1"]
    plane.main([str(word) for word in argv])
    rows = read_csv(tmp_path / "plane.csv")
    assert [row["candidate"] for row in rows] == ["A", "B", "C"]
    assert {(row["scored"], row["selection"], row["seed"]) for row in rows} == {
        ("validation", "last", "0")
    }
    record = json.loads(next((tmp_path / "runs").glob("*/predictions.json")).read_text())
    assert not any(key.startswith("test") for row in record["history"] for key in row)
    scored = {clip["id"] for clip in record["utterances"]}
    clips = load_manifest(manifest).utterances
    assert {clip.fold for clip in clips if clip.id in scored} <= {*range(1, 9)}
    assert 0 < len(scored) < len(clips) / 2
    assert "the preset is to have network plane-" in capsys.readouterr().out
