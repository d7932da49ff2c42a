"""The comparison with other code: its cells, what it leaves out, and how it goes on."""

import csv

import pytest
import torch
from torch import nn

from benchmarks import rivals

NAME = "SA/2x32x7x9/*/float32/forward*"


def run(out, *flags):
    rivals.main(["--quick", "--rounds", "2", "--no-compile", "--out", str(out), *flags])
    with (out / rivals.FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_measures_each_cell_once(tmp_path, monkeypatch, capsys):
    rows = run(tmp_path, NAME)
    assert len({tuple(row[k] for k in rivals.KEYS) for row in rows}) == 4
    for row in rows:
        assert row["layer"] == "SA"
        assert row["dtype"] == "float32"
        assert float(row["ms"]) > 0
        assert (float(row["time / ours"]) == 1) == (row["variant"] == "ours")
    assert {"ours", "own eager", "official structure", "floor"} <= {r["variant"] for r in rows}

    monkeypatch.setattr(rivals, "measure_cell", lambda *args: pytest.fail("measured again"))
    assert run(tmp_path, NAME) == rows
    text = (tmp_path / rivals.FILE).read_text()
    (tmp_path / rivals.FILE).write_text(text.replace(rows[0]["commit"], "another"))
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        run(tmp_path, NAME)


def test_autocast_is_a_cell_of_its_own(tmp_path, monkeypatch):
    kinds = []

    class Looks(nn.Linear):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                kinds.append((x.dtype, self.weight.dtype, torch.get_autocast_dtype("cpu")))
            return x * 1

    monkeypatch.setitem(rivals.LAYERS, "SE", lambda channels: Looks(1, 1))
    monkeypatch.setattr(rivals, "PACKAGES", {})
    rows = run(tmp_path, "SE/2x32x7x9/planes/*/forward")
    assert {row["dtype"] for row in rows} == set(rivals.TYPES)
    assert set(kinds) == {(torch.bfloat16, torch.float32, torch.bfloat16)}


def test_names_a_package_that_fails_and_goes_on(tmp_path, monkeypatch, capsys):
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such stride")

    classes = {"fails": Fails, "missing": None}
    known = {name: {"SA": (name, name, lambda channels: {})} for name in classes}
    monkeypatch.setattr(rivals, "PACKAGES", known)
    monkeypatch.setattr(rivals, "imported", lambda package, module, name: classes[name])
    rows = run(tmp_path, "SA/2x32x7x9/planes/float32/forward")
    assert {row["variant"] for row in rows} == {"ours", "own eager", "official structure", "floor"}
    assert "fails is left out, as it does not compute this cell: no such" in capsys.readouterr().err


def test_says_once_that_a_package_cannot_be_imported(capsys):
    for _ in range(2):
        assert rivals.imported("nothing", "icasa.nothing", "Nothing") is None
    assert capsys.readouterr().err.count("nothing is left out: ModuleNotFoundError") == 1


def test_a_pattern_without_a_cell():
    with pytest.raises(ValueError, match=r"expected a pattern of cells such as SE/.*, got"):
        rivals.cells(rivals.SHAPES, ["SE/none"])
