"""AAM of the flags: Eq. 1 by the network's embedding, which training does not notice."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from examples.ser.model.tdnn import TDNN
from examples.ser.run.flags import parse
from examples.ser.run.mixing import centred_embedding, make_aam

RUN = ["--manifest", "m", "--out", "o", "--strong", "--aam"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TDNN(4, 5)


def make(net, *more):
    return make_aam(parse([*RUN, *more]), net, 4, fixed_size=False)


def test_partners_are_alike_in_the_centred_embedding(net):
    y = torch.arange(24) % 4
    x = torch.randn(24, 1, 5, 64) + torch.randn(4, 1, 5, 64)[y]
    aam = make(net, "--representation", "embedding", "--threshold", "0.3", "--alpha", "0")
    index, partner, _ = aam.mix(x, y)[2]
    r = net.eval().embed(x)
    similarity = F.cosine_similarity(r[index] - r.mean(0), r[partner] - r.mean(0))
    assert len(index) > 8
    assert similarity.min() > 0.3
    raw = F.cosine_similarity(r.unsqueeze(1), r, dim=2)
    assert raw.min() > 0.3  # not centred, every pair would pass
    other = make(net, "--threshold", "0.3").report(x, y).pair_share
    assert aam.report(x, y).pair_share != other  # it is not the features that are compared


@pytest.mark.parametrize("mode", [True, False])
def test_training_does_not_notice_the_embedding(net, mode):
    x = torch.randn(8, 1, 5, 64)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = torch.get_rng_state()
    assert not centred_embedding(net.train(mode), x).requires_grad
    assert all(module.training == mode for module in net.modules())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    aam = make(net, "--representation", "embedding", "--threshold", "-1", "--alpha", "0")
    x_mix, _, _ = aam.mix(x.requires_grad_(), torch.arange(8) % 4)
    x_mix.sum().backward()
    assert all(p.grad is None for p in net.parameters())
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(x[0].numel() * 8)))


def test_the_other_flags_reach_aam(net):
    flags = ("--pairing", "same-class", "--threshold", "0.2", "--alpha", "-2")
    aam = make(net, *flags, "--representation", "flat")
    shown = "4, threshold=0.2, alpha=-2.0, pairing='same-class', representation='flat'"
    assert shown in repr(aam)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aam.mix(torch.randn(4, 1, 5, 9), torch.zeros(4).long(), torch.rand(4))
