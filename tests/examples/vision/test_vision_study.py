"""The image cells: chosen by validation images, run once, one file each."""

import contextlib
import csv
import gzip
import json
import subprocess
from types import SimpleNamespace

import pytest

from examples.vision import study, train


@pytest.fixture
def in_process(monkeypatch):
    """Train in this process, without pictures; collect the commands."""
    commands = []
    for name in ("draw_curves", "draw_confusion", "draw_gates"):
        monkeypatch.setattr(train, name, lambda *arguments: None)

    def run(command, stdout, stderr, env):
        commands.append(command)
        assert stderr == subprocess.STDOUT
        assert env["MALLOC_MMAP_MAX_"] == "0"
        with contextlib.redirect_stdout(stdout):
            try:
                train.main([*command[3:], "--batch-size", "16", "--device", "cpu"])
            except SystemExit as error:
                print(error)
                return SimpleNamespace(returncode=1)
        return SimpleNamespace(returncode=0)

    replacement = SimpleNamespace(run=run, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(study, "subprocess", replacement)
    monkeypatch.setattr(study.os, "nice", lambda by: by)
    return commands


def flags(pictures, tmp_path, *more):
    folders = {"cache": tmp_path / "cache", "runs": tmp_path / "runs", "out": tmp_path / "out"}
    given = [word for key, path in folders.items() for word in (f"--{key}", str(path))]
    return ["--data", str(pictures), "--name", "Tiny, made", "--epochs", "1", *given, *more]


def test_the_rate_is_chosen_by_validation_images_and_cells_run_once(
    pictures, tmp_path, in_process, capsys
):
    with pytest.raises(SystemExit, match="run --choose first"):
        study.main(flags(pictures, tmp_path))
    assert study.main(flags(pictures, tmp_path, "--choose")) == 0
    with (tmp_path / "out" / "choice.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["lr"] for row in rows] == list(study.RATES)
    assert {(row["part"], row["attention"], row["seed"]) for row in rows} == {
        ("validation", "none", "0")
    }
    best = max(float(row["accuracy"]) for row in rows)
    chosen = study.chosen_rate(tmp_path / "out")
    assert next(row["lr"] for row in rows if float(row["accuracy"]) == best) == chosen
    in_process.clear()

    cells = ["--variants", "none", "eca", "--seeds", "1"]
    assert study.main(flags(pictures, tmp_path, *cells)) == 0
    assert [c[c.index("--attention") + 1] for c in in_process] == ["none", "eca"]
    record = json.loads(
        gzip.decompress(
            (tmp_path / "out/cells/tiny-made-resnet8-1epochs-eca-seed1.json.gz").read_bytes()
        )
    )
    facts = record["run"]
    assert (facts["lr"], facts["seed"], facts["trained_on"]) == (float(chosen), 1, 42)
    in_process.clear()
    assert study.main(flags(pictures, tmp_path, *cells)) == 0
    assert not in_process
    capsys.readouterr()
    study.main(flags(pictures, tmp_path, *cells, "--list", "--seeds", "1", "2"))
    assert capsys.readouterr().out.splitlines() == [
        "4 cells, 2 done, 2 to run",
        *(f"done    tiny-made-resnet8-1epochs-{name}-seed1" for name in ("none", "eca")),
        *(f"missing tiny-made-resnet8-1epochs-{name}-seed2" for name in ("none", "eca")),
    ]


def test_a_cell_that_fails_is_named_and_counted(pictures, tmp_path, in_process, capsys):
    missing = tmp_path / "nowhere"
    assert study.main(flags(missing, tmp_path, "--choose")) == 1
    assert f"FAILED: {missing}: expected a folder or a zip, got none" in capsys.readouterr().out
    assert not (tmp_path / "out" / "choice.csv").exists()
