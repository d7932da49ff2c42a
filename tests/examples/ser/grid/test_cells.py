"""Cells: names that parse, flags that train takes, files of equal bytes, committed cells."""

import gzip
import re

import pytest

from examples.errors import UserError
from examples.ser.grid.cells import FORMS, GRID, VARIANTS, Cell, read_cells, write_cell
from examples.ser.run.flags import parse

CELL = Cell("ravdess", "leaky-utterance", "none+aam-T0.1", 3, 7, "onecycle", 10, "bf16-mixed")


def test_a_name_says_its_cell():
    assert Cell.parse(CELL.name) == CELL
    with pytest.raises(ValueError, match=r"expected the name of a cell, .* got 'ravdess-none'"):
        Cell.parse("ravdess-none")


def test_a_part_of_a_corpus_has_its_base():
    part = Cell.parse("iemocap-impro-speaker-none-paper60-32-true-seed1-fold0")
    assert (part.corpus, part.base_corpus) == ("iemocap-impro", "iemocap")
    assert (CELL.base_corpus, CELL.is_paper_model) == ("ravdess", True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_train_understands_every_variant(variant):
    preset = "strong" if variant in FORMS else "paper"
    cell = Cell("ravdess", "leaky-segment", variant, 2, 7, preset, 60, "32-true")
    args = parse([*cell.flags(), "--ravdess", "x", "--out", "y"])
    assert (args.protocol, args.fold, args.seed, args.epochs) == ("leaky-segment", 2, 7, 60)
    assert not args.validation
    assert args.aam == ("aam" in variant)


def test_equal_predictions_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_cell(b"content", tmp_path / f"{name}.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"content"


def test_the_committed_cells_are_readable():
    cells = read_cells(GRID)
    assert len(cells) == len(list(GRID.glob("*.json.gz"))) > 100
    for path, (cell, record) in cells.items():
        assert f"{cell.name}.json.gz" == path.name
        assert (record["run"]["fold"], record["run"]["seed"]) == (cell.fold, cell.seed)
        assert {row["selection"] for row in record["rows"]} >= {"last"}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / f"{CELL.name}.json.gz"
    for content in (b"no gzip", gzip.compress(b'{"half": '), gzip.compress(b"{}")[:-4]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"got .*{re.escape(path.name)}, which cannot be read"):
            read_cells(tmp_path)
