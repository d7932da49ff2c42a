"""What stands beside the grid: similarity, SVM, degraded speech and embeddings, end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from examples.provenance import read_csv
from examples.ser import embedding, reproduce, robustness, similarity, svm, train
from examples.ser.data.degrade import CONDITIONS
from examples.ser.grid.cells import OURS, Cell, read_cells, write_cell
from examples.ser.run.evaluate import scores
from examples.ser.synthetic import write_synthetic


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A synthetic corpus with a grid of its own: both models, one fold, one epoch."""
    root = tmp_path_factory.mktemp("references")
    source = ["--manifest", str(write_synthetic(root / "corpus", per_class=8)), "--quiet"]
    source += ["--cache", str(root / "cache")]
    (root / "grid").mkdir()
    for variant in OURS:
        cell = Cell("synthetic", "speaker", variant, 0, 1, "onecycle", 1, "32-true")
        out = root / "runs" / cell.name
        run = ["--out", str(out), "--threads", "1", "--device", "cpu", "--batch-size", "4"]
        train.main([*cell.flags(), *source, *run])
        write_cell((out / "predictions.json").read_bytes(), root / "grid" / f"{cell.name}.json.gz")
    return root, source


def test_a_trained_cell_comes_back_as_it_was(corpus):
    root, _ = corpus
    for cell, record in read_cells(root / "grid").values():
        args, net = reproduce.trained(record, root / "runs" / cell.name)
        state = torch.load(root / "runs" / cell.name / "checkpoint.pt", weights_only=True)["model"]
        assert (args.fold, args.seed) == (0, 1)
        assert not net.training
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_degraded_speech_is_scored_once_and_clean_speech_as_in_training(corpus):
    root, source = corpus
    flags = [*source, "--runs", str(root / "runs"), "--grid", str(root / "grid")]
    robustness.main(flags)
    for _, record in read_cells(root / "grid").values():
        labels = record["labels"]
        y = np.array([labels.index(clip["label"]) for clip in record["utterances"]])
        found = {c: np.array([u[c] for u in record["utterances"]]) for c in (*CONDITIONS, "last")}
        np.testing.assert_allclose(found["clean"], found["last"], atol=2e-5)
        assert scores(found["clean"], y, labels)["WA"] == record["rows"][0]["WA"]
        assert not np.allclose(found["awgn0"], found["clean"], atol=1e-3)
        assert record["degraded"]["command"].startswith("python -m examples.ser.robustness")
    before = {path: path.read_bytes() for path in read_cells(root / "grid")}
    robustness.main(flags)
    assert before == {path: path.read_bytes() for path in read_cells(root / "grid")}


def test_only_the_papers_model_is_scored_on_degraded_speech(corpus, tmp_path):
    root, source = corpus
    (source_path, (cell, _)), *_ = read_cells(root / "grid").items()
    strong = replace(cell, preset="strong")
    (tmp_path / f"{strong.name}.json.gz").write_bytes(source_path.read_bytes())
    (tmp_path / strong.name).mkdir()
    (tmp_path / strong.name / "checkpoint.pt").touch()
    robustness.main([*source, "--runs", str(tmp_path), "--grid", str(tmp_path)])
    assert (tmp_path / f"{strong.name}.json.gz").read_bytes() == source_path.read_bytes()


def test_packed_features_cannot_be_degraded(capsys):
    with pytest.raises(SystemExit):
        robustness.main(["--packed", "a.npz"])
    assert "holds no audio" in capsys.readouterr().err


def test_embeddings_give_a_row_per_space_and_a_picture(corpus, tmp_path):
    root, source = corpus
    flags = ["--runs", str(root / "runs"), "--grid", str(root / "grid"), "--seed", "1"]
    embedding.main([*source, *flags, "--out", str(tmp_path)])
    assert [row["space"] for row in read_csv(tmp_path / "figure7.csv")] == ["input", *OURS]
    assert (tmp_path / "figure7.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match=r"run examples\.ser\.reproduce first"):
        embedding.main([*source, *flags, "--fold", "7"])


def test_of_several_budgets_one_must_be_named(corpus, tmp_path):
    root, source = corpus
    for path, (cell, _) in read_cells(root / "grid").items():
        for epochs in (1, 2):
            other = replace(cell, epochs=epochs)
            (tmp_path / f"{other.name}.json.gz").write_bytes(path.read_bytes())
    flags = ["--runs", str(root / "runs"), "--grid", str(tmp_path), "--seed", "1"]
    with pytest.raises(
        SystemExit, match=r"by --budget: \['onecycle1-32-true', 'onecycle2-32-true'"
    ):
        embedding.main([*source, *flags])
    embedding.main([*source, *flags, "--budget", "onecycle1-32-true", "--out", str(tmp_path)])
    assert {row["budget"] for row in read_csv(tmp_path / "figure7.csv")} == {"onecycle1-32-true"}


def test_cells_of_another_corpus_are_left_alone(corpus, tmp_path):
    root, source = corpus
    (path, (cell, _)), *_ = read_cells(root / "grid").items()
    other = replace(cell, corpus="other")
    (tmp_path / f"{other.name}.json.gz").write_bytes(path.read_bytes())
    (tmp_path / other.name).mkdir()
    (tmp_path / other.name / "checkpoint.pt").touch()
    flags = ["--runs", str(tmp_path), "--grid", str(tmp_path)]
    robustness.main([*source, *flags])
    assert (tmp_path / f"{other.name}.json.gz").read_bytes() == path.read_bytes()
    with pytest.raises(SystemExit, match="lacks none or icasa"):
        embedding.main([*source, *flags, "--seed", "1"])


def test_purity_of_separate_and_of_mixed_groups():
    points = np.repeat(np.eye(3) * 100, 20, axis=0) + np.random.default_rng(0).normal(size=(60, 3))
    groups = np.repeat(["a", "b", "c"], 20)
    assert embedding.purity(points, groups) == 100
    assert embedding.purity(points, np.tile(["a", "b", "c"], 20)) < 50


def test_the_svm_has_a_row_per_protocol_and_fold_and_beats_chance(corpus, tmp_path, monkeypatch):
    _, source = corpus
    monkeypatch.setattr(svm, "RESULTS", tmp_path)
    svm.main([*source, "--out", str(tmp_path)])
    rows = read_csv(tmp_path / "svm.csv")
    assert {row["protocol"] for row in rows} == set(svm.PROTOCOLS)
    assert len(rows) % len(svm.PROTOCOLS) == 0
    assert np.mean([float(row["WA"]) for row in rows]) > 40  # four classes


def test_similarity_counts_the_pairs_that_it_admits(corpus, tmp_path):
    _, source = corpus
    similarity.main([*source, "--out", str(tmp_path / "t.csv")])
    rows = read_csv(tmp_path / "t.csv")
    assert len(rows) == len(similarity.REPRESENTATIONS) * len(similarity.THRESHOLDS)
    for start in range(0, len(rows), len(similarity.THRESHOLDS)):
        group = rows[start : start + len(similarity.THRESHOLDS)]
        shares, pairs = ([float(row[k]) for row in group] for k in ("pair share", "pairs"))
        assert shares == sorted(shares, reverse=True)
        every = pairs[0] / shares[0]  # T = 0.1 admits some
        assert pairs == pytest.approx([share * every for share in shares], abs=0.0051 * every)
        assert [row["paper label match"] for row in group] == [
            "52.3",
            "60.8",
            "68.7",
            "75.4",
            "82.1",
        ]
