"""A loss that is not finite is traced to clips, weights or a layer."""

from pathlib import Path

import pytest
import torch
from torch import nn

from examples.ser.data.corpora import Corpus, Utterance
from examples.ser.data.segments import Segments
from examples.ser.run.nonfinite import NonFiniteLossError, explain

CLIPS = tuple(Utterance(f"{n}.wav", Path(), "sad", "s") for n in range(3))
CORPUS = Corpus("toy", ("sad",), CLIPS)
WHERE = "expected a finite loss, got NaN or infinity in epoch 2, batch 7: "


@pytest.fixture
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2))


def message(net, x):
    owner = torch.arange(3)
    data = Segments(x, torch.zeros(3), owner, owner, owner)
    return explain(NonFiniteLossError("batch 7", owner), net, data, CORPUS, 2, 0.1)


def test_the_clips_are_named(net):
    x = torch.zeros(3, 1, 2, 2)
    x[1, 0, 0, 0] = torch.nan
    wanted = "the features of 1.wav are not finite; correct or remove these clips"
    assert message(net, x) == WHERE + wanted


def test_the_weights_are_named(net):
    nn.init.constant_(net[1].bias, torch.inf)
    wanted = "the step before left 1.bias not finite; lower --lr 0.1"
    assert message(net, torch.zeros(3, 1, 2, 2)) == WHERE + wanted


def test_the_layer_is_named(net):
    nn.init.constant_(net[2].weight, 3e38)
    found = message(net, torch.full((3, 1, 2, 2), 1e6))
    assert found == f"{WHERE}layer 2 overflows on clips 0.wav, 1.wav, 2.wav; lower --lr 0.1"
