"""A record leads back to its trained network."""

from pathlib import Path

import pytest
import torch

from examples.errors import UserError
from examples.ser.grid.cells import read_cells
from examples.ser.run.record import load_saved, load_trained


def test_a_trained_cell_comes_back_as_it_was(small_grid):
    root, _ = small_grid
    for cell, record in read_cells(root / "grid").values():
        args, net = load_trained(record, root / "runs" / cell.name)
        state = torch.load(root / "runs" / cell.name / "checkpoint.pt", weights_only=True)["model"]
        assert (args.fold, args.seed) == (0, 1)
        assert not net.training
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_damaged_or_foreign_checkpoint_is_refused_without_torchs_advice(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"model": {}}, path)
    assert load_saved(path, ("model",)) == {"model": {}}
    whole = path.read_bytes()
    torch.save({"weights": Path("a.pt")}, tmp_path / "code.pt")  # unpickling runs a function
    for content in (whole[:100], b"", b"text", b"junk", (tmp_path / "code.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"got .*checkpoint\.pt, which is damaged") as caught:
            load_saved(path, ("model",))
        assert "weights_only" not in str(caught.value)
    path.write_bytes(whole)
    with pytest.raises(UserError, match="expected a checkpoint of this recipe with model, config"):
        load_saved(path, ("model", "config"))
