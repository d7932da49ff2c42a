"""Fig. 7: rows and picture of two cells, one budget, the right corpus."""

from dataclasses import replace

import numpy as np
import pytest

from examples.provenance import read_csv
from examples.ser import embedding
from examples.ser.grid.cells import OURS, read_cells


def test_embeddings_give_a_row_per_space_and_a_picture(small_grid, tmp_path):
    root, source = small_grid
    flags = ["--runs", str(root / "runs"), "--grid", str(root / "grid"), "--seed", "1"]
    embedding.main([*source, *flags, "--out", str(tmp_path)])
    assert [row["space"] for row in read_csv(tmp_path / "figure7.csv")] == ["input", *OURS]
    assert (tmp_path / "figure7.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match=r"run examples\.ser\.reproduce first"):
        embedding.main([*source, *flags, "--fold", "7"])


def test_of_several_budgets_one_must_be_named(small_grid, tmp_path):
    root, source = small_grid
    for path, (cell, _) in read_cells(root / "grid").items():
        for epochs in (1, 2):
            other = replace(cell, epochs=epochs)
            (tmp_path / f"{other.name}.json.gz").write_bytes(path.read_bytes())
    flags = ["--runs", str(root / "runs"), "--grid", str(tmp_path), "--seed", "1"]
    with pytest.raises(
        SystemExit, match=r"got \['onecycle1-32-true', 'onecycle2-32-true'\]; choose"
    ):
        embedding.main([*source, *flags])
    embedding.main([*source, *flags, "--budget", "onecycle1-32-true", "--out", str(tmp_path)])
    assert {row["budget"] for row in read_csv(tmp_path / "figure7.csv")} == {"onecycle1-32-true"}


def test_cells_of_another_corpus_do_not_count(small_grid, tmp_path):
    root, source = small_grid
    for path, (cell, _) in read_cells(root / "grid").items():
        other = replace(cell, corpus="other")
        (tmp_path / f"{other.name}.json.gz").write_bytes(path.read_bytes())
    flags = ["--runs", str(tmp_path), "--grid", str(tmp_path), "--seed", "1"]
    with pytest.raises(SystemExit, match="got none of one of them for synthetic, fold 0, seed 1"):
        embedding.main([*source, *flags])


def test_purity_of_separate_and_of_mixed_groups():
    points = np.repeat(np.eye(3) * 100, 20, axis=0) + np.random.default_rng(0).normal(size=(60, 3))
    groups = np.repeat(["a", "b", "c"], 20)
    assert embedding.purity(points, groups) == 100
    assert embedding.purity(points, np.tile(["a", "b", "c"], 20)) < 50
