"""The grid: cells have names that say them, run once, and go on after a stop."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from examples.ser import reproduce
from examples.ser.data.corpora import Corpus, CorpusError, Utterance
from examples.ser.data.pack import pack
from examples.ser.grid.cells import FORMS, TABLES, VARIANTS, Cell
from examples.ser.reproduce import expand
from examples.ser.run.checkpoint import only_training
from examples.ser.run.flags import parse


def grid(tmp_path, *more):
    folders = ["--runs", tmp_path / "runs", "--out", tmp_path / "out", "--cache", tmp_path]
    return [str(a) for a in ("--ravdess", tmp_path / "corpus", *folders, *more)]


@pytest.fixture
def trained(monkeypatch):
    """Stand in for the training processes; returns the commands."""
    commands = []

    def train_cell(command, log):
        commands.append(command)
        args = parse(command[3:])
        run = {"command": shlex.join(["python", "-m", *command[2:]])}
        (args.out / "predictions.json").write_text(json.dumps({"run": run}))
        log.write_text("a message\n")
        return int(args.fold == 5)

    monkeypatch.setattr(reproduce, "train_cell", train_cell)
    return commands


def test_the_tables_expand_to_each_cell_once():
    args = reproduce.parse(["--ravdess", "x"])
    cells = expand(TABLES, args)
    assert len(cells) == len(set(cells))
    assert {cell.variant for cell in cells} == set(VARIANTS)
    usual = {cell.variant for cell in expand(args.table, args)}
    assert set(VARIANTS) - usual == {  # of the study, which has presets of its own
        "se", "eca", "cbam", "ca", "icasa-aligned", "sa", "ica", "none+aam-across-speakers",
        *FORMS,
    }  # fmt: skip
    some = reproduce.parse(["--ravdess", "x", "--variants", "none"])
    assert {cell.variant for cell in expand(["8"], some)} == {"none"}
    table8 = expand(["8"], args)
    assert len(table8) == 4 * 6
    assert {cell.fold for cell in table8[:4]} == {0}  # whole comparisons first
    thirds = [
        table8[reproduce.parse(["--ravdess", "x", "--shard", f"{i}/3"]).shard] for i in range(3)
    ]
    assert sorted(str(cell) for third in thirds for cell in third) == sorted(map(str, table8))


def test_a_part_of_iemocap_has_cells_of_its_own(tmp_path, trained, capsys):
    argv = ["--iemocap" if a == "--ravdess" else a for a in grid(tmp_path, "--table", "11")]
    cells = expand(["11"], reproduce.parse([*argv, "--part", "impro"]))
    assert len(cells) == len(TABLES["11"][0]) * 5
    assert {(cell.corpus, cell.base_corpus) for cell in cells} == {("iemocap-impro", "iemocap")}
    assert Cell.parse(cells[0].name) == cells[0]
    reproduce.main([*argv, "--part", "impro", "--fold", "0"])
    assert {parse(command[3:]).part for command in trained} == {"impro"}
    with pytest.raises(SystemExit):
        reproduce.parse(["--ravdess", "x", "--part", "impro"])
    assert "expected --iemocap with --part, got --part impro alone" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "in_names"), [("emo-db", "emo_db"), ("iemocap-impro",) * 2])
def test_a_packed_corpus_has_cells_of_its_name_and_folds(tmp_path, trained, name, in_names):
    clips = tuple(Utterance(f"{n}", Path(), "sad", f"s{n}", fold=n) for n in range(3))
    frames = {clip.id: np.zeros((13, 9), np.float32) for clip in clips}
    pack(Corpus(name, ("sad",), clips), frames, tmp_path / "a.npz")
    argv = [a.replace("--ravdess", "--packed") for a in grid(tmp_path, "--table", "13-19")]
    argv[1] = str(tmp_path / "a.npz")
    reproduce.main(argv)
    cells = [Cell.parse(path.name.removesuffix(".json.gz")) for path in tmp_path.glob("out/*.gz")]
    assert {(cell.corpus, cell.fold) for cell in cells} == {(in_names, fold) for fold in range(3)}
    with pytest.raises(CorpusError, match="expected prosody features, got mfcc"):
        reproduce.main([*argv, "--preset", "strong"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--jobs", "0"], "expected --jobs of 1 or more, got 0; raise it"),
        (["--epochs", "0"], "expected --epochs of 1 or more, got 0"),
        (["--seeds", "1", "-2"], "expected --seeds of 0 or more, got -2; correct it"),
        (["--folds", "1"], "expected 2 or more, or 'speaker', got '1'"),
    ],
)
def test_numbers_out_of_range_end_in_two_lines(more, message, capsys):
    with pytest.raises(SystemExit):
        reproduce.parse(["--ravdess", "x", *more])
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: python -m examples.ser.reproduce")
    assert message in error
    assert reproduce.parse(["--ravdess", "x", "--seeds", "2", "1", "2"]).seeds == [2, 1]


@pytest.mark.parametrize("shard", ["3/3", "-1/2", "one", "1"])
def test_a_shard_that_is_none_is_refused(shard, capsys):
    with pytest.raises(SystemExit):
        reproduce.parse(["--ravdess", "x", f"--shard={shard}"])
    assert "expected --shard I/N" in capsys.readouterr().err


def test_what_is_done_is_skipped_and_what_failed_is_not(tmp_path, trained, capsys):
    argv = grid(tmp_path, "--table", "13-19", "--fold", "4", "5", "--jobs", "2")
    assert reproduce.main(argv) == 2  # fold 5 fails for both variants
    assert len(trained) == 4
    assert "FAILED: a message, see" in capsys.readouterr().out
    assert len(list((tmp_path / "out").glob("*.json.gz"))) == 2
    trained.clear()
    assert reproduce.main(argv) == 2
    assert {parse(command[3:]).fold for command in trained} == {5}
    reproduce.main([*argv, "--list"])
    out = capsys.readouterr().out
    assert out.count("missing") == 2
    assert "note: 2 finished cells are of before cells knew their data; taken to be of this" in out


def test_a_cell_of_another_process_is_left_to_it(tmp_path, trained):
    argv = grid(tmp_path, "--table", "13-19", "--fold", "0")
    cells = expand(["13-19"], reproduce.parse(argv))
    folder = tmp_path / "runs" / cells[0].name
    folder.mkdir(parents=True)
    for hold in (
        FileLock(folder / "lock"),
        only_training(folder),
    ):  # of a grid, of an orphan of one
        trained.clear()
        with hold:
            assert reproduce.main(argv) == 0
        assert all(parse(command[3:]).out != folder for command in trained)
