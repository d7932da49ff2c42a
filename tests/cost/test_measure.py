"""The cost of a layer in a model: a row for each, the model untouched, clear errors."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from icasa import ECA, ICASA, SA, SE
from icasa.attention import LAYERS
from icasa.cost import compare, default_layers, macs, measure

X = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    """A residual block of 9 * 16 * 16 + 2 * 16 parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return (x + self.norm(self.conv(x))).relu()


def make():
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Block(), Block())


def test_a_row_per_device_batch_size_and_layer_with_counts_by_hand():
    layers = {"SE": SE, "ICASA": partial(ICASA, shuffle=False)}
    costs = compare(make(), X, layers=layers, batch_sizes=(1, 4), rounds=2, warmup=1)
    rows = [(c.layer, c.device, c.batch_size, c.places) for c in costs]
    expected = [("plain", 0), ("SE", 2), ("ICASA", 2)]
    assert rows == [(name, "cpu", size, n) for size in (1, 4) for name, n in expected]
    plain = 64 * 16 * (27 + 2 * 9 * 16)
    parameters = 16 * 28 + 2 * (9 * 16 * 16 + 32)
    for cost, layer in zip(costs[:3], (None, SE(16), ICASA(16)), strict=True):
        inserted = 0 if layer is None else 2
        size = sum(p.numel() for p in layer.parameters()) if layer else 0
        assert cost.parameters == parameters + inserted * size
        alone = macs(layer, torch.randn(1, 16, 8, 8)) if layer else 0
        assert cost.macs == plain + inserted * alone
        assert cost.forward.ms > 0
        assert cost.step.ms > 0
    assert [4 * a.macs for a in costs[:3]] == [b.macs for b in costs[3:]]
    assert all(a.saved < b.saved for a, b in zip(costs[:3], costs[3:], strict=True))
    assert all(costs[0].saved < cost.saved for cost in costs[1:3])
    assert costs[0].forward[3:6] == costs[0].step[3:6] == (1, 1, 1)


def test_saved_is_what_a_training_step_saves():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid())
    (plain, *_) = compare(model, X, layers={"SE": SE}, where="0", rounds=1)
    assert plain.saved == X.nbytes + 2 * 4 * 64 * 4  # the input, and what the sigmoid returned


def test_the_model_is_left_as_it_was():
    model = make().eval()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    compare(model, X, layers={"SE": SE}, rounds=1)
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_step_none_leaves_training_out():
    costs = compare(make(), X, layers={"SE": SE}, rounds=1, step=False)
    assert [(cost.step, cost.saved) for cost in costs] == [(None, 0)] * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda conv, x: {"out": conv(x), "size": 3},
        lambda conv, x: (conv(x), [conv(x)], x.long()),
        lambda conv, x: conv(x).detach(),
    ],
    ids=["dict", "nested", "no gradient"],
)
def test_models_may_return_anything(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x):
            return function(self.conv, x)

    outputs = measure._outputs(Net()(X))
    assert outputs
    assert all(out.is_floating_point() for out in outputs)
    measure._step(Net(), X)


def test_a_step_reaches_every_parameter():
    model = make()
    measure._step(model, X)
    assert all(p.grad is not None for p in model.parameters())


def test_several_arguments_of_one_batch():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 1)

        def forward(self, x, scale):
            return self.conv(x) * scale[:, None, None, None]

    costs = compare(
        Two(), (X, torch.ones(2)), layers={"ECA": ECA}, where="conv", batch_sizes=[3], rounds=1
    )
    assert [cost.macs for cost in costs] == [3 * 64 * 48, 3 * (64 * 48 + 3 * 16)]


def test_default_layers_are_all_that_take_such_maps():
    assert list(default_layers()) == ["ICA", "SA", "ICASA", "CA", "SE", "ECA", "CBAM"]
    for ndim in (1, 2, 3):
        x = torch.randn(2, 16, *(5, 6, 7)[:ndim])
        for layer in default_layers(ndim).values():
            made = layer(16)
            assert made(x).shape == x.shape
            assert not getattr(made, "shuffle", False)
            assert isinstance(made, LAYERS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "nothing*"}, r"no places for a layer: .*nothing"),
        ({"layers": {"SA": partial(SA, groups=3)}}, r"SA does not fit: .*leave it out of layers"),
        ({"layers": {}}, r"expected names of layers other than 'plain', got \[\]"),
        ({"layers": {"plain": SE}}, r"expected names of layers .*got \['plain'\]"),
        ({"rounds": 0}, "expected rounds to be an integer >= 1, got 0"),
        ({"warmup": 0}, "expected warmup to be an integer >= 1, got 0"),
        ({"batch_sizes": [0]}, "expected batch_sizes to be an integer >= 1, got 0"),
        ({"devices": ["abc"]}, "expected a device of this machine, got 'abc'"),
    ],
)
def test_errors_say_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        compare(make(), X, **{"layers": {"SE": SE}, "rounds": 1} | options)


def test_an_input_that_the_model_does_not_take():
    with pytest.raises(ValueError, match=r"x of shape \(1, 4, 8, 8\) fails: RuntimeError: Given"):
        compare(make(), torch.randn(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"expected a tensor with a batch axis as x, .* got int"):
        compare(make(), 3)


def test_a_step_that_fails_names_the_model():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16))
    with pytest.raises(ValueError, match="the step of plain fails: ValueError: Expected more than"):
        compare(model, X[:1], layers={"SE": SE}, where="0", rounds=1)
