"""The TDNN takes segments of any length, with every attention layer."""

import pytest
import torch

from examples.ser.model.macnn import ATTENTION
from examples.ser.model.tdnn import TDNN


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("frames", [9, 320])
def test_logits_of_segments_of_any_length(attention, frames):
    net = TDNN(8, 53, attention=attention).eval()
    x = torch.randn(3, 1, 53, frames)
    y = net(x)
    assert y.shape == (3, 8)
    torch.testing.assert_close(net(x[1:2]), y[1:2])


def test_the_embedding_is_mean_and_deviation_over_time():
    net = TDNN(8, 5).eval()
    x = torch.randn(1, 1, 5, 1).expand(-1, -1, -1, 64)
    net.blocks[0][0].padding = net.blocks[1][0].padding = net.blocks[2][0].padding = (0, 0)
    mean, deviation = net.embed(x).chunk(2, dim=1)  # a constant segment has no deviation
    torch.testing.assert_close(deviation, torch.full_like(deviation, 1e-5**0.5))
    assert mean.abs().max() > 0.01


def test_beta_of_every_icasa_is_reported():
    assert TDNN(8, 5, attention="icasa").betas() == dict.fromkeys(
        ["block1", "block2", "block3"], 0.5
    )
    assert TDNN(8, 5, attention="sa").betas() == {}


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected attention among none, .*, got 'best'"):
        TDNN(8, 5, attention="best")
