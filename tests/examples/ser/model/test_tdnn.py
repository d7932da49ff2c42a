"""The TDNN takes segments of any length, with every attention layer."""

import pytest
import torch

from examples.ser.model.macnn import ATTENTION
from examples.ser.model.tdnn import TDNN
from icasa import ICASA, parameter_groups


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


def test_icasa_faded_in_starts_as_the_identity_and_adds_a_share_of_icasa():
    ours, base = TDNN(8, 5, attention="icasa", icasa_form="faded"), TDNN(8, 5)
    x = torch.randn(4, 1, 5, 64)
    base.load_state_dict({key: ours.state_dict()[key] for key in base.state_dict()})
    torch.testing.assert_close(ours.eval()(x), base.eval()(x))
    gammas = [p for name, p in ours.named_parameters() if name.endswith("gamma")]
    layers = [module for module in ours.modules() if isinstance(module, ICASA)]
    assert [len(gammas), len(layers)] == [3, 3]
    for gamma, layer, block in zip(gammas, layers, ours.blocks, strict=True):
        assert gamma.item() == 0
        torch.nn.init.constant_(gamma, 0.7)
        seen = []
        handle = block[3].register_forward_hook(lambda _, args, y, seen=seen: seen.append(y))
        y = block(torch.rand(2, block[0].in_channels, 1, 9))
        handle.remove()
        added = 0.5 * layer.ica(seen[0]) + 0.5 * layer.sa(seen[0])  # beta is 0.5
        torch.testing.assert_close(y, seen[0] + 0.7 * added)
    assert ours.betas() == dict.fromkeys(["block1", "block2", "block3"], 0.5)
    spared = parameter_groups(ours, 0.1)[1]["params"]
    assert all(any(gamma is p for p in spared) for gamma in gammas)


def test_bounded_beta_stays_between_0_and_1():
    net = TDNN(8, 5, attention="icasa", icasa_form="bounded")
    assert set(net.betas().values()) == {0.5}
    for block in net.blocks:
        torch.nn.init.constant_(block[-1].raw_beta, -50.0)
    assert all(0 < beta < 1e-6 for beta in net.betas().values())


def test_icasa_may_stand_after_the_last_block_alone():
    net = TDNN(8, 5, attention="icasa", icasa_form="last")
    assert [type(block[-1]) for block in net.blocks] == [torch.nn.Identity] * 2 + [ICASA]
    assert list(net.betas()) == ["block3"]
    assert net(torch.randn(2, 1, 5, 64)).shape == (2, 8)


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected attention among none, .*, got 'best'"):
        TDNN(8, 5, attention="best")
