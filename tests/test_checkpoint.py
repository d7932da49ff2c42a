"""Checkpoints of an earlier commit load: keys, shapes and values that users have on disk."""

from pathlib import Path

import pytest
import torch

import icasa
from tests.strategies import build

# Written at commit 645bba3: for each layer with 8 channels and every tensor off its initial value,
# its state, an input, the outputs in both modes, and the state after the call in training.
SAVED = torch.load(Path(__file__).parent / "fixtures" / "layers-645bba3.pt", weights_only=True)


def test_every_layer_has_a_checkpoint():
    assert {*icasa.attention.__all__, "HSwish", "DepthwiseSeparableConv"} == set(SAVED)


@pytest.mark.parametrize("name", SAVED)
def test_a_checkpoint_loads_strictly_and_gives_the_outputs_stored_with_it(name):
    saved = SAVED[name]
    layer = build(getattr(icasa, name))
    layer.load_state_dict(saved["state"], strict=True)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(saved["x"]), saved["evaluation"])
        torch.testing.assert_close(layer.train()(saved["x"]), saved["training"])
    torch.testing.assert_close(dict(layer.state_dict()), saved["state after"])
