"""Degraded speech: scored once, clean speech as in training, other cells left alone."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.errors import UserError
from examples.ser import robustness
from examples.ser.data.degrade import CONDITIONS
from examples.ser.data.feature_cache import load_frames
from examples.ser.data.manifest import load_manifest
from examples.ser.grid.cells import read_cells
from examples.ser.run.evaluate import scores
from tests.examples.ser.clips import write_clip


def test_degraded_speech_is_scored_once_and_clean_speech_as_in_training(
    small_grid, tmp_path, capsys
):
    root, source = small_grid
    grid = Path(shutil.copytree(root / "grid", tmp_path / "grid"))
    flags = [*source, "--runs", str(root / "runs"), "--grid", str(grid)]
    robustness.main(flags)
    for _, record in read_cells(grid).values():
        labels = record["labels"]
        y = np.array([labels.index(clip["label"]) for clip in record["utterances"]])
        found = {c: np.array([u[c] for u in record["utterances"]]) for c in (*CONDITIONS, "last")}
        np.testing.assert_allclose(found["clean"], found["last"], atol=2e-5)
        assert scores(found["clean"], y, labels)["WA"] == record["rows"][0]["WA"]
        assert not np.allclose(found["awgn0"], found["clean"], atol=1e-3)
        assert record["degraded"]["command"].startswith("python -m examples.ser.robustness")
    before = {path: path.read_bytes() for path in read_cells(grid)}
    robustness.main(flags)
    assert f"cells of synthetic in {grid}: 2 scored before" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in read_cells(grid)}


def test_only_the_papers_model_is_scored_on_degraded_speech(small_grid, tmp_path):
    root, source = small_grid
    (source_path, (cell, _)), *_ = read_cells(root / "grid").items()
    strong = replace(cell, preset="strong")
    (tmp_path / f"{strong.name}.json.gz").write_bytes(source_path.read_bytes())
    (tmp_path / strong.name).mkdir()
    (tmp_path / strong.name / "checkpoint.pt").touch()
    robustness.main([*source, "--runs", str(tmp_path), "--grid", str(tmp_path)])
    assert (tmp_path / f"{strong.name}.json.gz").read_bytes() == source_path.read_bytes()


def test_cells_of_another_corpus_are_left_alone(small_grid, tmp_path):
    root, source = small_grid
    (path, (cell, _)), *_ = read_cells(root / "grid").items()
    other = replace(cell, corpus="other")
    (tmp_path / f"{other.name}.json.gz").write_bytes(path.read_bytes())
    (tmp_path / other.name).mkdir()
    (tmp_path / other.name / "checkpoint.pt").touch()
    robustness.main([*source, "--runs", str(tmp_path), "--grid", str(tmp_path)])
    assert (tmp_path / f"{other.name}.json.gz").read_bytes() == path.read_bytes()


def test_cells_of_other_audio_under_the_same_names_are_refused(small_grid, tmp_path):
    root, _ = small_grid
    other = Path(shutil.copytree(root / "corpus", tmp_path / "corpus"))
    write_clip(next(other.glob("S01/*")), 1)
    corpus, frames = load_frames(
        load_manifest(other / "manifest.csv"), tmp_path / "cache", progress=False
    )
    cell, record = next(iter(read_cells(root / "grid").values()))
    with pytest.raises(UserError, match=r"expected the data that trained it, .* \(features\); giv"):
        robustness.evaluate(record, root / "runs" / cell.name, corpus, {"clean": frames})


def test_telephone_speech_is_degraded_but_by_the_mp3_that_its_rate_lacks(tmp_path, capsys):
    rows = ["path,label,speaker", "a.wav,sad,1", "b.wav,happy,2"]
    (tmp_path / "m.csv").write_text("\n".join(rows))
    for name in ("a.wav", "b.wav"):
        write_clip(tmp_path / name, 1, rate=8_000)
    flags = ["--manifest", str(tmp_path / "m.csv"), "--cache", str(tmp_path), "--quiet"]
    args = robustness.parse([*flags, "--telephone"])
    frames = robustness.degrade(load_manifest(args.manifest), args)
    assert [*frames] == [name for name in CONDITIONS if name not in {"clean", "mp3-128k"}]
    note = r"note: mp3-128k is left out: .*a\.wav: expected 16000, .* for MP3 .*, got 8000 Hz; res"
    assert re.search(note, capsys.readouterr().out)


def test_a_checkpoint_of_another_fold_is_refused(small_grid):
    root, _ = small_grid
    cell, record = next(iter(read_cells(root / "grid").values()))
    corpus, frames = load_frames(
        load_manifest(root / "corpus" / "manifest.csv"), root / "cache", progress=False
    )
    record["utterances"].reverse()
    with pytest.raises(ValueError, match="expected the test clips of fold 0, got others; give"):
        robustness.evaluate(record, root / "runs" / cell.name, corpus, {"clean": frames})


def test_packed_features_cannot_be_degraded(capsys):
    with pytest.raises(SystemExit):
        robustness.main(["--packed", "a.npz"])
    assert (
        "expected clips to degrade, got --packed features; give the corpus"
        in capsys.readouterr().err
    )
