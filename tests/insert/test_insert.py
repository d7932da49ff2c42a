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
from tests.strategies import randomise, seeded

LAYERS = [getattr(icasa.attention, name) for name in icasa.attention.__all__]
ALIGNED = partial(ICASA, shuffle=False)


class BasicBlock(nn.Module):  # torchvision
    def __init__(self, width, channels, downsample=None):
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):  # timm: `se`, of whatever modules, is not the main path
    def __init__(self, channels, width, attn_layer=None):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.se = attn_layer(channels) if attn_layer is not None else nn.Identity()

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        return (x + self.se(self.bn3(self.conv3(y)))).relu()


class InvertedResidual(nn.Module):  # torchvision's MobileNetV2
    def __init__(self, width, channels):
        super().__init__()
        self.use_res_connect = width == channels
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU6()),
            nn.Conv2d(2 * width, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class ConvNeXtBlock(nn.Module):  # the published one, LayerNorm and Linear on (N, H, W, C)
    def __init__(self, channels):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        return x + self.pwconv2(self.act(self.pwconv1(y))).permute(0, 3, 1, 2)


def net():
    torch.manual_seed(0)
    conv, down = partial(nn.Conv2d, 32, kernel_size=1), nn.Conv2d(16, 32, 1)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, down)),
        nn.Sequential(Bottleneck(32, 8), Bottleneck(32, 8, conv)),
        nn.Sequential(InvertedResidual(32, 48), InvertedResidual(48, 48)),
        ConvNeXtBlock(48),
    )


X = torch.randn(2, 3, 9, 7, generator=seeded(1))
RESIDUAL = {"1.0.bn2": 16, "1.1.bn2": 32, "2.0.bn3": 32, "2.1.bn3": 32}
RESIDUAL |= {"3.1.conv.2": 48, "4.dwconv": 48}


def places(done):
    return {name: channels for name, channels, _ in done}


def state(model):
    tensors = {key: value.tolist() for key, value in model.state_dict().items()}
    return tensors, [(repr(m), m.training, list(m._forward_hooks)) for m in model.modules()]


def refusal(model, layer=SE, **options):
    before = state(model)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        insert_attention(model, layer, **options)
    assert state(model) == before
    return str(caught.value)


@pytest.mark.parametrize("example", [None, X], ids=["declared", "traced"])
def test_residual_is_the_last_norm_or_convolution_of_each_block(example):
    model = net()
    done = insert_attention(model, ALIGNED, where="residual", example=example)
    assert places(done) == RESIDUAL
    assert all(model.get_submodule(name).attention is layer for name, _, layer in done)


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


def test_a_block_without_a_shortcut_is_known_by_its_name_and_holds_no_other():
    def block(name, *children):
        return type(name, (nn.Sequential,), {})(*children)

    parts = lambda: (nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))  # noqa: E731 (new ones each time)
    pre = block("PreActResidual", nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))
    post = block("ResBlock", block("ConvBlock", *parts()), block("ConvBlock", *parts()))
    model = nn.Sequential(block("StageBlock", pre, post, *parts()), block("SEBlock", parts()[0]))
    assert places(insert_attention(model, SE, where="residual")) == {"0.0.1": 8, "0.1.1.1": 8}


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
    done = insert_attention(model, layer, where=where, identity=True)
    assert torch.equal(model(X), before)
    model(X).square().mean().backward()
    for name, channels, faded in done:
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
    done = insert_attention(model, CBAM, where="residual", identity=True)
    missing, unexpected = model.load_state_dict(old.state_dict(), strict=False)
    added = {f"{name}.attention.{key}" for name, _, f in done for key in f.state_dict()}
    assert {key for key in added if "num_batches" not in key} <= set(missing) <= added
    assert not unexpected
    assert set(model.state_dict()) == set(old.state_dict()) | added
    assert torch.equal(model.eval()(X), old.eval()(X))


def test_remove_undoes_it_exactly():
    model = net().eval()
    before, attributes = state(model), [set(vars(m)) for m in model.modules()]
    y = model(X)
    done = insert_attention(model, ALIGNED, where="residual")
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
    done = insert_attention(model, ALIGNED, where="residual")
    y = model(X)
    twin = clone(model)
    assert torch.equal(twin(X), y)
    randomise(twin[4].dwconv.attention, seed=1)
    assert not torch.equal(twin(X), y)
    assert remove_attention(twin) == list(places(done))
    assert torch.equal(twin(X), plain)
    assert torch.equal(model(X), y)


def test_compiles_in_one_graph_exports_and_calls_functionally():
    model = net().eval()
    insert_attention(model, ALIGNED, where="residual")
    y = model(X)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(X), y)
    torch.testing.assert_close(torch.export.export(model, (X,)).module()(X), y)
    halved = {key: value / 2 for key, value in model.named_parameters() if "attention" in key}
    assert not torch.equal(torch.func.functional_call(model, halved, (X,)), y)


def test_device_dtype_and_mode_are_those_of_the_module():
    model = net().to("meta", torch.bfloat16)
    model[1].eval()
    for name, _, layer in insert_attention(model, SE, where="residual", identity=True):
        kinds = {(p.device.type, p.dtype) for p in layer.parameters()}
        assert kinds == {("meta", torch.bfloat16)}
        assert layer.training == (not name.startswith("1"))
    model = nn.Sequential(nn.ReLU())
    model.table = nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)
    ((_, _, layer),) = insert_attention(model, SE, where="0", example=X)
    assert layer.squeeze.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"where": "2.*.bn4"}, ["'2.*.bn4' matches no", "near it", "2.0.bn"]),
        ({"where": nn.BatchNorm3d}, ["'BatchNorm3d' matches no", "'BatchNorm2d'"]),
        ({"where": 3}, ["pattern, a type of nn.Module or 'residual', got 3"]),
        ({"where": nn.LayerNorm}, ["'4.norm' has its channels last", "choose a convolution"]),
        ({"where": nn.Linear, "example": X}, ["'4.pwconv1' has its channels last"]),
        ({"where": nn.GELU}, ["GELU '4.act' names no channels; give example="]),
        ({"where": nn.GELU, "example": X}, ["'4.act' has its channels last", "another width"]),
        ({"where": "1.0.relu", "example": X}, ["'1.0.relu' must give (N, C, ...) once", "twice"]),
        ({"where": "2.*"}, ["Bottleneck '2.0' names no channels"]),
        ({"where": "1.0.bn2", "layer": lambda c: 3}, ["must give a module, got 3"]),
        ({"where": "residual", "layer": partial(ICASA, groups=16)}, ["16 channels of '1.0.bn2'"]),
    ],
    ids=str,
)
def test_refusals_name_the_place_and_change_nothing(options, texts):
    message = refusal(net(), **options)
    for text in texts:
        assert text in message


def test_places_that_no_hook_can_follow_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.ModuleList([nn.ReLU()]))
    assert "'2' is a container" in refusal(model, where="2")
    message = refusal(model[:2], where="1", example=X)
    assert "'1' must give (N, C, ...) once a forward, gave (2, 252)" in message
    idle = BasicBlock(3, 3)
    idle.unused = nn.BatchNorm2d(3)
    assert "['unused'] are not called" in refusal(idle, where="unused", example=X)


def test_a_width_like_the_channels_asks_for_another_example():
    model, x = nn.Sequential(ConvNeXtBlock(7), nn.Identity()), torch.randn(1, 7, 5, 7)
    assert "'1' has its channels last" in refusal(model, where="1", example=x)
    assert places(insert_attention(model, SE, where="1", example=x[..., :6])) == {"1": 7}


def test_one_layer_a_place_and_none_inside_another():
    model = net()
    insert_attention(model, CBAM, where="2.0.bn3", identity=True)
    message = refusal(model, where="2.*.bn3")
    assert "'2.0.bn3' has attention already; call remove_attention(model)" in message
    assert "matches no" in refusal(model, where="*.attention*")
    model = nn.Sequential(nn.Conv2d(3, 8, 1), CBAM(8))
    assert list(places(insert_attention(model, SE, where=nn.Conv2d))) == ["0"]  # not CBAM's
    assert "'1' has attention already" in refusal(model, where=CBAM)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda cls: cls.__name__)
def test_every_layer_works_as_timm_s_attn_layer(layer):
    block = Bottleneck(32, 8, attn_layer=layer)  # timm calls it with the channels, by position
    assert block(torch.randn(2, 32, 5, 4)).shape == (2, 32, 5, 4)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda cls: cls.__name__)
def test_real_timm(layer):
    timm = pytest.importorskip("timm", reason="timm is no dependency; its blocks are written above")
    x = torch.randn(2, 3, 64, 64)
    assert timm.create_model("resnet18", block_args={"attn_layer": layer})(x).shape == (2, 1000)
    for name, blocks in (("resnet18", 8), ("mobilenetv2_100", 10), ("convnext_atto", 12)):
        model = timm.create_model(name).eval()
        y = model(x)
        assert len(insert_attention(model, layer, where="residual", identity=True)) == blocks
        assert torch.equal(model(x), y)
