"""attention_maps: the gates that the forward used, with the model left as it was."""

import pytest
import torch
from torch import nn

import icasa.attention
from icasa import CBAM, ECA, ICASA, SA, SE
from icasa.insert import insert_attention
from icasa.maps import attention_maps
from tests.strategies import build, randomise, seeded

LAYERS = [getattr(icasa.attention, name) for name in icasa.attention.__all__]
X = torch.randn(2, 3, 6, 5, generator=seeded(0))


def net(*layers):
    return randomise(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), *layers))


def state(model):
    tensors = {key: value.tolist() for key, value in model.state_dict().items()}
    hooks = [(m.training, list(m._forward_pre_hooks)) for m in model.modules()]
    return tensors, hooks, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_gates_are_those_at_the_layer_s_own_input(cls, training):
    model = net(build(cls, 16), nn.ReLU()).train(training)
    before = state(model)
    maps = attention_maps(model, X)
    assert state(model) == before
    assert list(maps) == ["2"]
    with torch.no_grad():
        expected = model[2].gates(model[:2](X))
    for got, gate in zip(maps["2"].gates, expected, strict=True):
        torch.testing.assert_close(got, gate)
        assert not got.requires_grad


def test_icasa_is_shown_once_with_its_branches_and_beta():
    model = net(ICASA(16, shuffle=False)).eval()
    ((name, (gates, beta)),) = attention_maps(model, X).items()
    assert name == "2"
    assert [tuple(g.shape) for g in gates] == [(2, 16, 6, 1), (2, 16, 1, 5), (2, 16, 6, 5)]
    rows, columns, plane = gates
    y = model[:2](X)
    torch.testing.assert_close(y * (beta * rows * columns + (1 - beta) * plane), model(X))
    kept = beta.clone()
    nn.init.constant_(model[2].raw_beta, 3.0)
    assert torch.equal(beta, kept)  # a record, which training does not change
    assert attention_maps(net(SE(16)), X)["2"].beta is None


def test_layers_come_by_name_in_the_order_of_their_run():
    class Reversed(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = SE(3), nn.ModuleDict({"a": ECA(3), "unused": CBAM(3)})

        def forward(self, x):
            return self.last(x=self.first["a"](x))

    model = nn.Sequential(Reversed())
    maps = attention_maps(model, X)
    assert list(maps) == ["0.first.a", "0.last"]
    y = model[0].first["a"](X)
    assert torch.equal(maps["0.last"].gates[0], model[0].last.gates(y)[0])


def test_a_layer_that_runs_again_keeps_both_maps():
    layer = randomise(SE(3))
    maps = attention_maps(nn.Sequential(layer, nn.Tanh(), layer), X)
    assert list(maps) == ["0", "0#2"]
    assert torch.equal(maps["0#2"].gates[0], layer.gates(layer(X).tanh())[0])
    assert list(attention_maps(ICASA(16), torch.randn(2, 16, 6, 5))) == [""]


def test_inserted_layers_are_seen():
    model = net(nn.ReLU())
    insert_attention(model, ICASA, where="1", identity=True)
    assert list(attention_maps(model, X)) == ["1.attention.layer"]
    assert attention_maps(net(), X) == {}


def test_grad_keeps_the_graph():
    model = net(SA(16)).eval()
    x = X.clone().requires_grad_()
    attention_maps(model, x, grad=True)["2"].gates[0].sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_forward_that_fails_leaves_no_hook():
    model = net(SE(8))
    before = state(model)
    with pytest.raises(ValueError, match="channels=16"):
        attention_maps(model, X)
    assert state(model) == before
