"""insert_attention on blocks written as torchvision and timm write them, and back out again."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn

import icasa.attention
from icasa import CBAM, ICASA, SE
from icasa.insert import FadeIn, insert_attention, remove_attention
from tests.insert.blocks import BasicBlock, Bottleneck, ConvNeXtBlock, net
from tests.strategies import randomise, seeded

LAYERS = [getattr(icasa.attention, name) for name in icasa.attention.__all__]
ALIGNED = partial(ICASA, shuffle=False)


X = torch.randn(2, 3, 9, 7, generator=seeded(1))
RESIDUAL = {"1.0.bn2": 16, "1.1.bn2": 32, "2.0.bn3": 32, "2.1.bn3": 32}
RESIDUAL |= {"3.1.conv.2": 48, "4.pwconv2": 48}


def places(done):
    return {name: channels for name, channels, *_ in done}


def state(model):
    tensors = {key: value.tolist() for key, value in model.state_dict().items()}
    return tensors, [(repr(m), m.training, list(m._forward_hooks)) for m in model.modules()]


def refusal(model, layer=SE, **options):
    before = state(model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        insert_attention(model, layer, **options)
    assert state(model) == before
    return str(caught.value)


def test_the_place_is_the_end_of_each_main_path():
    model = net()
    done = insert_attention(model, ALIGNED, where="residual", example=X)
    assert places(done) == RESIDUAL
    assert all(place.rule == "addition" for place in done)
    assert all(model.get_submodule(p.name).attention is p.layer for p in done)


@pytest.mark.parametrize("example", [None, X], ids=["declared", "traced"])
def test_a_module_under_two_names_gets_one_layer(example):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 16, 1)
            self.body = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16))
            self.all = nn.Sequential(self.stem, self.body)

        def forward(self, x):
            return self.all(x)

    model = Tied().eval()
    before = state(model), model(X)
    (done,) = insert_attention(model, SE, where="*body.1", example=example)
    assert (done.name, done.layer) == ("body.1", model.body[1].attention)
    assert len(model.body[1]._forward_hooks) == 1
    torch.testing.assert_close(model(X), done.layer(before[1]))
    assert remove_attention(model) == ["body.1"]
    assert state(model) == before[0]
    (done,) = insert_attention(model, SE, where="all.1.1", example=example)
    assert done.name == "all.1.1"


def test_the_layer_follows_the_module():
    block = randomise(BasicBlock(3, 16, nn.Conv2d(3, 16, 1))).eval()
    y = block.bn2(block.conv2(block.bn1(block.conv1(X)).relu()))
    insert_attention(block, SE, where="bn2")
    wanted = (block.downsample(X) + randomise(block.bn2.attention)(y)).relu()
    torch.testing.assert_close(block(X), wanted)


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("1.?.bn[12]", {"1.0.bn1": 16, "1.0.bn2": 16, "1.1.bn1": 32, "1.1.bn2": 32}),
        ("2.*.bn3", {"2.0.bn3": 32, "2.1.bn3": 32}),
        (nn.ReLU6, {"3.0.conv.0.2": 64, "3.1.conv.0.2": 96}),
        ("[04]", {"0.2": 16, "4": 48}),  # a Sequential ends in its last module
    ],
    ids=str,
)
def test_patterns_and_types_find_their_channels(where, wanted):
    model = net()
    assert places(insert_attention(model, SE, where=where, example=(X,))) == wanted
    assert model(X).shape == (2, 48, 9, 7)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("where", ["residual", nn.BatchNorm2d], ids=str)
def test_identity_leaves_the_output_exactly_and_learns(where, layer):
    model = net().eval()
    before = model(X)
    done = insert_attention(model, layer, where=where, identity=True, example=X)
    assert torch.equal(model(X), before)
    model(X).square().mean().backward()
    for name, channels, faded, _ in done:
        assert isinstance(faded, FadeIn)
        assert faded.gamma.grad.abs() > 0, name
        inner = {f"layer.{key}" for key in faded.layer.no_weight_decay()}
        assert faded.no_weight_decay() == {"gamma"} | inner
        x = torch.randn(1, channels, 5, 4)
        torch.nn.init.ones_(faded.gamma)
        torch.testing.assert_close(faded(x), faded.layer(x))
    assert FadeIn(nn.Conv2d(4, 4, 1)).no_weight_decay() == {"gamma"}


def test_an_old_checkpoint_loads_missing_the_layers_alone():
    old, model = randomise(net()), net()
    done = insert_attention(model, CBAM, where="residual", identity=True, example=X)
    missing, unexpected = model.load_state_dict(old.state_dict(), strict=False)
    added = {f"{name}.attention.{key}" for name, _, f, _ in done for key in f.state_dict()}
    assert {key for key in added if "num_batches" not in key} <= set(missing) <= added
    assert not unexpected
    assert set(model.state_dict()) == set(old.state_dict()) | added
    assert torch.equal(model.eval()(X), old.eval()(X))


def test_remove_undoes_it_exactly():
    model = net().eval()
    before, attributes = state(model), [set(vars(m)) for m in model.modules()]
    y = model(X)
    done = insert_attention(model, ALIGNED, where="residual", example=X)
    assert not torch.equal(model(X), y)
    assert remove_attention(model) == list(places(done))
    assert state(model) == before
    assert [set(vars(m)) for m in model.modules()] == attributes
    assert torch.equal(model(X), y)
    assert remove_attention(model) == []


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_keeps_its_layers_and_loses_them_alone(clone):
    model = net().eval()
    plain = model(X)
    done = insert_attention(model, ALIGNED, where="residual", example=X)
    y = model(X)
    twin = clone(model)
    assert torch.equal(twin(X), y)
    randomise(twin[4].pwconv2.attention, seed=1)
    assert not torch.equal(twin(X), y)
    assert remove_attention(twin) == list(places(done))
    assert torch.equal(twin(X), plain)
    assert torch.equal(model(X), y)


def test_compiles_in_one_graph_exports_and_calls_functionally():
    model = net().eval()
    insert_attention(model, ALIGNED, where="residual", example=X)
    y = model(X)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(X), y)
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X), y)
    halved = {key: value / 2 for key, value in model.named_parameters() if "attention" in key}
    assert not torch.equal(torch.func.functional_call(model, halved, (X,)), y)


def test_device_dtype_and_mode_are_those_of_the_module():
    model = net().to("meta", torch.bfloat16)
    model[1].eval()
    x = X.to("meta", torch.bfloat16)
    done = insert_attention(model, SE, where="residual", identity=True, example=x)
    assert places(done) == RESIDUAL
    for name, _, layer, _ in done:
        kinds = {(p.device.type, p.dtype) for p in layer.parameters()}
        assert kinds == {("meta", torch.bfloat16)}
        assert layer.training == (not name.startswith("1"))
    model = nn.Sequential(nn.ReLU())
    model.table = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    ((_, _, layer, _),) = insert_attention(model, SE, where="0", example=X)
    assert layer.squeeze.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        (
            {"where": "2.*.bn4"},
            ["where to match a module, got '2.*.bn4'", "similar names", "2.0.bn"],
        ),
        ({"where": nn.BatchNorm3d}, ["got 'BatchNorm3d'", "'BatchNorm2d'"]),
        ({"where": 3}, ["a type of nn.Module or 'residual', got 3"]),
        (
            {"where": nn.LayerNorm},
            ["(N, C, ...) from '4.norm', got channels on the last axis; choose a convolution"],
        ),
        ({"where": nn.Linear, "example": X}, ["'4.pwconv1', got channels on the last axis"]),
        ({"where": nn.GELU}, ["names its channels, got GELU '4.act'; give example="]),
        ({"where": nn.GELU, "example": X}, ["'4.act', got channels on the last axis"]),
        (
            {"where": "1.0.relu", "example": X},
            ["one output (N, C, ...) of '1.0.relu', got [(2, 16, 9, 7), (2, 16, 9, 7)]"],
        ),
        ({"where": "2.*"}, ["got Bottleneck '2.0'"]),
        ({"where": "1.0.bn2", "layer": SE(16)}, ["function of the channels, got the module SE"]),
        ({"where": "1.0.bn2", "layer": lambda c: 3}, ["layer(channels) to be a module, got 3"]),
        (
            {"where": "residual", "layer": partial(ICASA, groups=16)},
            ["the 16 channels of '1.0.bn2', got an error: "],
        ),
    ],
    ids=lambda value: None,
)
def test_refusals_name_the_place_and_change_nothing(options, texts):
    message = refusal(net(), **options)
    for text in texts:
        assert text in message


def test_places_that_no_hook_can_follow_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ModuleList([nn.ReLU()]))
    assert "'2', got the container ModuleList" in refusal(model, where="2")
    message = refusal(model[:2], where="1", example=X)
    assert "one output (N, C, ...) of '1', got [(2, 252)]" in message
    idle = BasicBlock(3, 3)
    idle.unused = nn.BatchNorm2d(3)
    assert "of 'unused', got no call" in refusal(idle, where="unused", example=X)


def test_channels_are_told_from_a_width_that_equals_their_number():
    model, x = nn.Sequential(ConvNeXtBlock(7), nn.Identity()), torch.randn(1, 7, 7, 7)
    assert "'0.act', got channels on the last axis" in refusal(model, where="0.act", example=x)
    assert places(insert_attention(model, SE, where="1", example=x)) == {"1": 7}


def test_one_layer_a_place_and_none_inside_another():
    model = net()
    insert_attention(model, CBAM, where="2.0.bn3", identity=True)
    message = refusal(model, where="2.*.bn3")
    assert (
        "'2.0.bn3' without attention, but it has attention already; call remove_attention"
        in message
    )
    assert "expected where to match" in refusal(model, where="*.attention*")
    model = nn.Sequential(nn.Conv2d(3, 8, 1), CBAM(8))
    assert list(places(insert_attention(model, SE, where=nn.Conv2d))) == ["0"]  # not CBAM's
    assert "'1' without attention, but it has" in refusal(model, where=CBAM)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda cls: cls.__name__)
def test_every_layer_works_as_timm_s_attn_layer(layer):
    block = Bottleneck(32, 8, attn_layer=layer)  # timm calls it with the channels, by position
    assert block(torch.randn(2, 32, 5, 4)).shape == (2, 32, 5, 4)
