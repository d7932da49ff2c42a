"""parameter_groups: what AdamW decays, what it leaves alone, and each parameter once."""

import math
from functools import partial

import pytest
import torch
from torch import nn

import icasa.attention
from icasa import ICASA, SA
from icasa.insert import insert_attention
from icasa.optim import parameter_groups

LAYERS = [getattr(icasa.attention, name) for name in icasa.attention.__all__]


class Tied(nn.Module):
    """A weight under two names, one of which no_weight_decay gives, as timm's models do."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 4)
        self.decode = nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.position = nn.Parameter(torch.randn(1, 4, 4))
        self.table = nn.Parameter(torch.randn(4, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.offset_bias = nn.Parameter(torch.randn(1, 4))
        self.norm = nn.LayerNorm([2, 2])

    def no_weight_decay(self):
        return {"decode.weight", "position", "dist_token"}  # timm names what may not exist


def names(model, group):
    found = {id(p): name for name, p in model.named_parameters()}
    return {found[id(p)] for p in group["params"]}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3, bias=True), nn.BatchNorm2d(16), ICASA(16))


def step_without_gradient(groups):
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    return optimizer


def test_gates_and_beta_stay_and_convolutions_shrink():
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = step_without_gradient(parameter_groups(model, 0.5))
    decayed, spared = optimizer.param_groups
    assert [(g["name"], g["weight_decay"]) for g in (decayed, spared)] == [
        ("decayed", 0.5),
        ("spared", 0.0),
    ]
    shrunk = names(model, decayed)
    expected = {"0.weight", *(f"2.ica.{part}.weight" for part in ("expand.0", "expand.1"))}
    assert shrunk == expected | {f"2.ica.reduce.{part}wise.weight" for part in ("depth", "point")}
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in shrunk else 1.0
        torch.testing.assert_close(p, factor * before[name], rtol=1e-6, atol=0)
    assert model[2].beta.item() == 0.5
    assert model[2].sa.channel_bias.eq(1).all()


def test_the_naive_setting_pulls_the_gates_shut():
    model = net()
    step_without_gradient(model.parameters())
    assert model[2].beta.item() == pytest.approx(0.475)
    torch.testing.assert_close(model[2].sa.channel_bias, torch.full((2,), 0.95))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda cls: cls.__name__)
def test_spares_what_every_layer_names_also_when_inserted(layer):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    ((_, _, faded, _),) = insert_attention(model, layer, where="1", identity=True)
    decayed, spared = (names(model, group) for group in parameter_groups(model, 0.1))
    inside = {f"1.attention.{name}" for name in faded.no_weight_decay()}
    assert inside | {"0.bias", "1.weight", "1.bias"} == spared
    # A layer that is the child of a norm has weights of its own to decay.
    assert {"0.weight"} | {n for n, p in model.named_parameters() if p.ndim > 1} == decayed


def test_norms_biases_and_names_at_every_depth_and_shared_ones_once():
    model = nn.ModuleDict({"body": Tied(), "head": nn.Linear(4, 2)})
    decayed, spared = parameter_groups(model, 0.1)
    assert names(model, decayed) == {"body.table", "head.weight"}
    ids = [id(p) for group in (decayed, spared) for p in group["params"]]
    assert sorted(ids) == sorted({id(p) for p in model.parameters()})
    assert {"body.encode.weight", "body.position", "body.offset_bias"} <= names(model, spared)
    assert {"body.norm.weight", "body.norm.bias"} <= names(model, spared)


def test_frozen_parameters_are_left_out():
    model = net().requires_grad_(False)
    assert [group["params"] for group in parameter_groups(model, 0.1)] == [[], []]
    model[2].sa.requires_grad_(True)
    decayed, spared = parameter_groups(model, 0.1)
    assert not decayed["params"]
    assert {id(p) for p in spared["params"]} == {id(p) for p in model[2].sa.parameters()}
    torch.optim.AdamW([decayed, spared])


@pytest.mark.parametrize("decay", [-0.1, math.nan])
def test_a_negative_decay_is_refused(decay):
    with pytest.raises(ValueError, match=rf"expected weight_decay >= 0, got {decay}; 0 swit"):
        parameter_groups(SA(8), decay)


def test_a_layer_alone_has_groups_too():
    model = partial(ICASA, norm=False)(8)
    assert names(model, parameter_groups(model, 0.1)[1]) == model.no_weight_decay()
