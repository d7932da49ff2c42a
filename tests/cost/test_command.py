"""`python -m icasa.cost`: a table, rows, and one line for each thing that a user can get wrong."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icasa.cost
from icasa.cost import align, table
from icasa.cost.__main__ import main

MODULE = """
import torch
from torch import nn
from icasa import SE

class Block(nn.Module):
    def __init__(self, channels=16):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x + self.norm(self.conv(x))

def make(channels=16):
    return nn.Sequential(nn.Conv2d(3, channels, 1), Block(channels))

def odd():
    return make(20)

def needs(width):
    return make(width)

def broken():
    raise KeyError("weights.pt")

made = make()
mine = SE
number = 3
"""
FAST = ("--input", "3x8x8", "--rounds", "1", "--warmup", "1", "--device", "cpu", "--no-step")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mymodule.py").write_text(MODULE)
    (tmp_path / "failing.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mymodule", "failing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_a_table_and_rows_with_where_they_come_from(folder, capsys):
    argv = ["mymodule:make", "--input", "3x8x8", "--batch", "1", "2", "--layers", "SE", "ECA"]
    argv += ["--rounds", "2", "--device", "cpu", "--csv", "cost.csv", "--json", "cost.json"]
    main(argv)
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.split("\n")[2:7]] == [
        "cpu,", "layer", "plain", "SE", "ECA",
    ]  # fmt: skip
    assert "cpu, batch size 2: 2 forwards, 2 steps" in out
    assert "6 rows in cost.csv\n6 rows in cost.json" in out
    with (folder / "cost.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["layer"], r["batch size"], r["places"]) for r in rows] == [
        (name, size, places)
        for size in "12"
        for name, places in (("plain", "0"), ("SE", "1"), ("ECA", "1"))
    ]
    assert rows[0]["forward / plain"] == "1.0"
    assert float(rows[1]["step ms p80"]) > 0
    assert rows[1]["forward rounds"] == rows[1]["step rounds"] == "2"
    assert rows[0]["command"] == f"python -m icasa.cost {' '.join(argv)}"
    assert rows[0]["icasa"] == icasa.__version__
    assert rows[0]["instruction set"]
    loaded = json.loads((folder / "cost.json").read_text())
    assert [{k: str(v) for k, v in row.items()} for row in loaded] == rows


@pytest.mark.parametrize("model", ["mymodule:make", "mymodule:made"])
def test_a_callable_or_a_model(model, capsys):
    main([model, *FAST, "--layers", "SE"])
    assert "SE" in capsys.readouterr().out


def test_layers_and_places_may_be_the_user_s(capsys):
    layers = ("--layers", "ECA", "mymodule:mine")
    main(["mymodule:make", *FAST, *layers, "--where", "torch.nn:Conv2d"])
    out = capsys.readouterr().out.split("\n")
    assert [line.split()[:2] for line in out[4:7]] == [
        ["plain", "0"], ["ECA", "2"], ["mymodule:mine", "2"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere:make"], "expected a module that imports from .* got 'nowhere'"),
        (["failing:make"], r"got 'failing' \(ModuleNotFoundError: No module named 'nowhere_to_be"),
        (["mymodule:mak"], "expected a name in mymodule, got 'mak'; it has .*'make'"),
        (["mymodule"], "expected module:callable, got 'mymodule'; for example mymodule:make"),
        (["mymodule:needs"], r"mymodule:needs\(\) fails: TypeError: .*; name a function without"),
        (["mymodule:broken"], r"mymodule:broken\(\) fails: KeyError: 'weights.pt'"),
        (["builtins:list"], "expected a torch.nn.Module from builtins:list, got list"),
        (["mymodule:make", "--input", "3x8xq"], "sizes >= 1 joined by x, .*, got '3x8xq'"),
        (["mymodule:make", "--input", "3x0"], "sizes >= 1 joined by x, .*, got '3x0'"),
        (["mymodule:make", "--input", "4x8x8"], r"x of shape \(1, 4, 8, 8\) fails: RuntimeError"),
        (["mymodule:odd"], "SA does not fit: .* the 20 channels of .*; leave it out of layers"),
        (["mymodule:make", "--where", "gone"], "no places for a layer: expected .*where.*got"),
        (["mymodule:make", "--layers", "XX"], r"expected module:callable or one of .*, got 'XX'"),
        (["mymodule:make", "--batch", "0"], "expected batch_sizes to be an integer >= 1, got 0"),
        (["mymodule:make", "--device", "abc"], "expected a device of this machine, got 'abc'"),
        (["mymodule:make", "--layers", "mymodule:broken"], "mymodule:broken does not fit: TypeErr"),
        (["mymodule:make", "--threads", "0"], "expected threads to be an integer >= 1, got 0"),
        (["mymodule:make", "--csv", "no/a.csv"], "expected a file in an existing folder, got no/a"),
        (["mymodule:make", "--json", "."], r"expected a file in an existing folder, got \.; make"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_status_2(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main([argv[0], *FAST, *argv[1:]])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("python -m icasa.cost: error: ")
    assert re.search(message, last)


def test_it_is_run_from_the_user_s_folder_and_says_what_it_does(folder):
    command = [sys.executable, "-m", "icasa.cost", "mymodule:make", *FAST, "--layers", "SE"]
    env = {**os.environ, "PYTHONPATH": str(Path(icasa.__file__).parent.parent)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    assert "plain" in done.stdout
    assert done.stderr == "places: 1.norm\ncpu, batch size 1\n"


def test_the_table_has_a_block_per_batch_size_and_digits_for_people():
    latency = icasa.cost.Latency(12.345, 1234.5, 0.012345, 1.0, 0.98765, 1.2, 30)
    cost = icasa.cost.Cost("SE", "cpu", 1, 2, 25557032, 4089184256, 89_000, latency, None)
    assert table([cost, cost._replace(batch_size=32, saved=999, step=latency)]).split("\n") == [
        "cpu, batch size 1: 30 forwards",
        "layer  places  parameters    MACs  saved          forward ms            x plain",
        "SE          2      25.6 M  4.09 G      -  12.3 (1234-0.0123)  1.00 (0.988-1.20)",
        "",
        "cpu, batch size 32: 30 forwards, 30 steps",
        "layer  places  parameters    MACs  saved          forward ms            x plain"
        "             step ms            x plain",
        "SE          2      25.6 M  4.09 G  999 B  12.3 (1234-0.0123)  1.00 (0.988-1.20)"
        "  12.3 (1234-0.0123)  1.00 (0.988-1.20)",
    ]
    assert align([["a", "bb"], ["ccc", "d"]]) == "a    bb\nccc   d"
