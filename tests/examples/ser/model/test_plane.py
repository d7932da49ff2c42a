"""The networks on the log-mel plane: shapes, parameters, pooling, and where the layer sits."""

import pytest
import torch
from torch import nn

from examples.ser.model.macnn import ATTENTION
from examples.ser.model.plane import PlaneCNN, PlaneResNet

X = torch.randn(2, 1, 64, 200)
NETS = {
    "A": lambda **options: PlaneCNN(8, 64, **options),
    "B": lambda **options: PlaneCNN(8, 64, keep_rows=True, **options),
    "C": lambda **options: PlaneResNet(8, **options),
}
SIZES = {"A": 2 * 96, "B": 2 * 96 * 4, "C": 2 * 64}  # of the embedding


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", NETS)
def test_logits_and_embedding_have_their_sizes(name, attention):
    net = NETS[name](attention=attention).eval()
    assert net.embed(X).shape == (2, SIZES[name])
    assert net(X).shape == (2, 8)
    torch.testing.assert_close(net(X[1:]), net(X)[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_parameters_are_those_of_the_closed_form(name):
    w = (16, 32, 64, 96)
    blocks = sum(9 * a * b + 2 * b for a, b in zip((1, *w), w, strict=False))
    if name == "C":  # a convolution and a norm each: the stem, then two for each block
        pairs = ((1, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64))
        blocks = sum(9 * a * b + 2 * b for a, b in pairs)
    assert parameters(NETS[name]()) == blocks + 8 * (SIZES[name] + 1)


@pytest.mark.parametrize("name", NETS)
def test_the_last_map_is_4_by_13_and_its_moments_are_the_embedding(name):
    net, maps = NETS[name]().eval(), []
    net.blocks[-1].register_forward_hook(lambda *call: maps.append(call[2]))
    embedded = net.embed(X)
    (y,) = maps
    assert y.shape[2:] == (4, 13)
    axes = 3 if name == "B" else (2, 3)
    mean, deviation = embedded.chunk(2, dim=1)
    torch.testing.assert_close(mean, y.mean(axes).flatten(1))
    expected = (y.var(axes, correction=0) + 1e-5).sqrt().flatten(1)
    torch.testing.assert_close(deviation, expected)


@pytest.mark.parametrize("name", ["A", "B"])
def test_the_layer_follows_the_activation_of_each_of_four_blocks(name):
    net = NETS[name](attention="icasa")
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, ATTENTION["icasa"]]
    assert [[type(part) for part in block] for block in net.blocks] == [kinds] * 4
    assert net.betas() == dict.fromkeys(["block1", "block2", "block3", "block4"], 0.5)


def test_the_layer_of_the_resnet_precedes_the_addition():
    net = PlaneResNet(8, attention="se").eval()
    for block in net.blocks:
        block.attention = nn.Module()
        block.attention.forward = torch.zeros_like
    x = net.stem(X)
    assert x.shape == (2, 16, 16, 50)
    y = net.blocks(x)  # with a layer of zeros the shortcut alone is left
    torch.testing.assert_close(y[:, :16], x[:, :, ::4, ::4])
    assert not y[:, 16:].any()


def test_an_unknown_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected attention among none, .*, got 'best'"):
        PlaneCNN(8, 64, attention="best")
