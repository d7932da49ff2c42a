"""A record leads back to its trained network."""

import torch

from examples.ser.grid.cells import read_cells
from examples.ser.run.record import load_trained


def test_a_trained_cell_comes_back_as_it_was(small_grid):
    root, _ = small_grid
    for cell, record in read_cells(root / "grid").values():
        args, net = load_trained(record, root / "runs" / cell.name)
        state = torch.load(root / "runs" / cell.name / "checkpoint.pt", weights_only=True)["model"]
        assert (args.fold, args.seed) == (0, 1)
        assert not net.training
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
