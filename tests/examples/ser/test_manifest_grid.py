"""A corpus of one's own, from a folder of WAV files to the pooled table, as docs/guide/corpus says.

The corpus is made, in the style of EMO-DB: names that say speaker and emotion, other sample rates,
classes of unequal size, genders partly unknown. Each training is one epoch in this process.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from examples.errors import UserError
from examples.provenance import read_csv
from examples.ser import check, manifest, reproduce, train
from examples.ser.grid import pooled
from examples.ser.grid.cells import read_cells, write_cell
from tests.examples.ser.acted import NAMES, PATTERN, write_acted
from tests.examples.ser.clips import write_clip

BUDGET = ("--folds", "2", "--seeds", "1", "2", "--preset", "onecycle", "--epochs", "1",
          "--variants", "none", "--device", "cpu")  # fmt: skip


def in_process(command, log):
    """Stand in for a training process."""
    train.main(command[3:])
    return 0


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """The three commands of the page; returns the flags of the third and what it wrote to."""
    root = tmp_path_factory.mktemp("acted")
    wavs, csv = write_acted(root / "wav", speakers=("03", "08", "09", "10")), root / "corpus.csv"
    genders = ("--male", "03", "10", "--female", "08")
    cache = ("--cache", str(root / "cache"))
    manifest.main([str(wavs), "--pattern", PATTERN, *NAMES, *genders, "--out", str(csv)])
    check.main([str(csv), "--folds", "2", *cache, "--out", str(root / "check"), "--quiet"])
    folders = (*cache, "--out", str(root / "pooled"), "--runs", str(root / "runs"))
    argv = ["--manifest", str(csv), *BUDGET, *folders]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "train_cell", in_process)
        assert reproduce.main(argv) == 0
    return root, argv


def test_three_commands_go_from_a_folder_to_a_pooled_table(grid):
    root, _ = grid
    (row,) = read_csv(root / "pooled" / "pooled.csv")
    assert (row["variant"], row["clips"], row["speakers"]) == ("none", "31", "4")
    assert (row["folds"], row["seeds"], row["epochs"]) == ("2", "2", "1")
    for measure in ("WA", "UA"):
        low, middle, high = (float(row[f"{measure}{end}"]) for end in (" low", "", " high"))
        assert 0 <= low <= middle <= high <= 100
    assert (root / "pooled" / "confusion-none.png").stat().st_size > 1000


def test_the_pooled_row_is_that_of_the_predictions(grid):
    root, _ = grid
    (row,) = read_csv(root / "pooled" / "pooled.csv")
    records = [record for _, record in read_cells(root / "pooled").values()]
    assert len(records) == 4
    hits = [
        record["labels"][int(np.argmax(clip["last"]))] == clip["label"]
        for record in records for clip in record["utterances"]
    ]  # fmt: skip
    assert float(row["WA"]) == pytest.approx(100 * np.mean(hits), abs=0.01)


def test_a_second_call_trains_nothing(grid, monkeypatch, capsys):
    _, argv = grid
    monkeypatch.setattr(reproduce, "train_cell", lambda *_: pytest.fail("trained again"))
    assert reproduce.main(argv) == 0
    assert "4 cells, 4 done, 0 to run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--class-weights", "balanced"], "class_weights none there, balanced now"),
        (["--labels", "anger", "joy"], r"labels None there, .*other data: features, ids of train"),
    ],
)
def test_cells_of_other_flags_are_refused(grid, more, message):
    _, argv = grid
    with pytest.raises(UserError, match=rf"expected cells of this corpus .*{message}.*give anot"):
        reproduce.main([*argv, *more])


def test_cells_of_a_corrected_manifest_are_refused(grid):
    root, argv = grid
    text = (root / "corpus.csv").read_text()
    row = next(line for line in text.splitlines() if "03a01Fa" in line)
    (root / "corrected.csv").write_text(text.replace(row, row.replace("joy", "anger")))
    argv = [str(root / "corrected.csv") if a == str(root / "corpus.csv") else a for a in argv]
    with pytest.raises(UserError, match=r"other data: labels of t\w+, of wav/03a01Fa\.wav\); give"):
        reproduce.main(argv)


def test_cells_of_other_audio_under_the_same_names_are_refused(grid, tmp_path):
    root, argv = grid
    other = Path(shutil.copytree(root / "wav", tmp_path / root.name / "wav"))
    shutil.copy(root / "corpus.csv", other.parent)
    write_clip(other / "03a01Fa.wav", 1)
    argv = [a.replace(str(root / "corpus.csv"), str(other.parent / "corpus.csv")) for a in argv]
    with pytest.raises(UserError, match=r"of others \(other data: features\); give another --out"):
        reproduce.main(argv)


def test_cells_of_before_the_digests_are_taken_with_a_note(grid, tmp_path, monkeypatch, capsys):
    root, argv = grid
    for path, (_, record) in read_cells(root / "pooled").items():
        del record["data"]
        write_cell(json.dumps(record).encode(), tmp_path / path.name)
    monkeypatch.setattr(reproduce, "train_cell", lambda *_: pytest.fail("trained again"))
    assert reproduce.main([*argv, "--out", str(tmp_path)]) == 0
    assert "note: 4 finished cells are of before cells knew their data" in capsys.readouterr().out
    assert (tmp_path / "pooled.csv").exists()


def test_a_fold_that_is_not_there_is_refused(grid):
    _, argv = grid
    with pytest.raises(UserError, match=re.escape("expected --fold among 0, 1, got 9; correct it")):
        reproduce.main([*argv, "--fold", "9"])


def test_the_interval_is_over_speakers():
    alike = np.tile(np.array([[3, 1], [1, 3]]), (6, 1, 1))
    np.testing.assert_allclose(pooled.interval(alike), 75)  # equal speakers: no spread
    apart = np.array([[[4, 0], [0, 4]]] * 3 + [[[0, 4], [4, 0]]] * 3)
    low, high = pooled.interval(apart)
    assert (pooled.accuracy(apart.sum(0)) == 50).all()
    assert (low < 20).all()
    assert (high > 80).all()
