"""where="residual": the addition decides; without an example, shortcuts and names by rule."""

from functools import partial

import pytest
import torch
from torch import nn

from icasa import ICASA, SE
from icasa.insert import insert_attention, remove_attention
from tests.insert import blocks
from tests.insert.blocks import MAP
from tests.insert.ecapa import ECAPA
from tests.strategies import randomise

WAVE = torch.randn(2, 8, 20)
ALIGNED = partial(ICASA, shuffle=False)
CONVNEXT, CONVNEXT_1X1 = (partial(blocks.ScaledConvNeXt, conv=conv) for conv in (False, True))
# Blocks -> how they are known without an example (None: not), and the ends of their main paths.
WRITTEN_OUT = {
    ECAPA: ("shortcut", ["blocks.1.tdnn2", "blocks.2.tdnn2", "blocks.3.tdnn2"]),
    blocks.UnetDecoderBlock: (None, []),
    blocks.DenseBlock: (None, []),
    blocks.RepVGGBlock: (None, []),
    blocks.SCSEBlock: (None, []),
    blocks.ResidualUnit: ("shortcut", ["conv.unit1.act"]),
    blocks.C2f: ("shortcut", ["m.0.cv2"]),
    blocks.PreActBlock: ("shortcut", ["conv2"]),
    blocks.PaddedBlock: ("shortcut", ["bn2"]),
    blocks.PoolBlock: (None, ["mixer", "fc2"]),
    blocks.PoolStage: (None, [f"blocks.{n}.{end}" for n in (0, 1) for end in ("mixer", "fc2")]),
    CONVNEXT: (None, ["mlp"]),
    CONVNEXT_1X1: ("shortcut", ["mlp"]),
    blocks.ResidualBlock: ("name", ["norm"]),
    blocks.LongSkip: ("name", ["first.norm"]),
}
NAMES = [getattr(block, "__name__", "ConvNeXt") for block in WRITTEN_OUT]


def find(model, layer=SE, example=None):
    done = insert_attention(model, layer, where="residual", example=example)
    return [(place.name, place.rule) for place in done]


def refusal(model, layer=SE, **options):
    keys = list(model.state_dict())
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        insert_attention(model, layer, **{"where": "residual"} | options)
    assert list(model.state_dict()) == keys
    assert not any(module._forward_hooks for module in model.modules())
    return str(caught.value)


def example_of(block):
    return WAVE if block is ECAPA else MAP


def layer_of(block):
    return partial(ICASA, ndim=1, shuffle=False) if block is ECAPA else SE


@pytest.mark.parametrize("block", WRITTEN_OUT, ids=NAMES)
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_the_addition_decides(block, around):
    model, (_, ends) = block(), WRITTEN_OUT[block]
    with around():
        if ends:
            found = find(model, layer_of(block), example_of(block))
            assert found == [(end, "addition") for end in ends]
            model.train()(example_of(block))
        else:
            assert "got none in" in refusal(model, example=example_of(block))


@pytest.mark.parametrize("block", WRITTEN_OUT, ids=NAMES)
def test_without_an_example_a_shortcut_or_a_name_decides_and_says_so(block):
    model, (rule, ends) = block(), WRITTEN_OUT[block]
    if rule is None:
        assert "give example=, an input of the model" in refusal(model)
    else:
        assert find(model, layer_of(block)) == [(end, rule) for end in ends]


def test_a_flag_outranks_a_name():
    block = blocks.ResidualBlock()
    block.has_skip = False
    assert "got none" in refusal(block)


@pytest.mark.parametrize("block", [CONVNEXT, CONVNEXT_1X1])
def test_the_layer_sees_channels_first_and_lies_before_the_layer_scale(block):
    model, seen = block().eval(), []
    (place,) = insert_attention(model, ALIGNED, where="residual", example=MAP)
    randomise(place.layer).register_forward_hook(lambda _, args, y: seen.append((*args, y)))
    out = model(MAP)
    ((x, y),) = seen
    assert x.shape == MAP.shape
    torch.testing.assert_close(out, MAP + y * model.gamma.view(-1, 1, 1))
    remove_attention(model)
    torch.testing.assert_close(model(MAP), MAP + x * model.gamma.view(-1, 1, 1))


class SharedActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.conv1, self.conv2 = nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.act(self.conv2(self.act(self.conv1(x))))


class Siamese(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) - self.block(x.flip(2))


def test_every_call_of_a_place_ends_a_main_path():
    assert find(SharedActivation(), example=MAP) == [("conv2", "addition")]
    assert find(Siamese(blocks.ResidualBlock()), example=MAP) == [("block.norm", "addition")]
    message = refusal(Siamese(SharedActivation()), example=MAP)
    assert "got 2 (no module gives what is added alone: 'block') in Siamese" in message


@pytest.mark.parametrize("add", ["iadd", "out", "module", "sum", "view", "custom"])
def test_additions_of_every_form(add):
    class Add(nn.Module):
        def forward(self, x, y):
            return x + y

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            return torch.add(x, y)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.add = nn.Conv2d(8, 8, 3, padding=1), Add()

        def forward(self, x):
            y = self.conv(x)
            if add == "iadd":
                y += x
            elif add == "out":
                torch.add(x, y, alpha=0.5, out=y)
            elif add == "view":
                y.view(-1, 30).add_(x.view(-1, 30))
            else:
                y = {"module": self.add, "custom": Custom.apply}.get(add, lambda *xs: sum(xs))(x, y)
            return y.relu_()

    if add == "view":  # (N C, H W) has no channels to see, so the block is refused, not guessed
        assert "got none" in refusal(Block(), example=MAP)
    else:
        assert find(Block(), example=MAP) == [("conv", "addition")]


def test_what_gets_no_layer_is_told():
    both = nn.Sequential(blocks.ResidualBlock(), blocks.SwinBlock())
    with pytest.warns(UserWarning, match=r"without a layer: 1 \(channels are last: '1'\)"):
        assert find(both, example=MAP) == [("0.norm", "addition")]
    assert "1 (channels are last: '')" in refusal(blocks.SwinBlock(), example=MAP)


@pytest.mark.parametrize("example", [None, MAP], ids=["declared", "traced"])
def test_a_plain_network_is_told_what_to_give(example):
    vgg = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    message = refusal(vgg, example=example)
    assert "got none in Sequential" in message
    assert "give where=, a type such as Conv2d or a pattern of names such as '3'" in message


@pytest.mark.parametrize("example", [None, WAVE], ids=["declared", "traced"])
@pytest.mark.parametrize("where", ["residual", nn.BatchNorm1d, "mfa.norm"], ids=str)
def test_a_layer_for_another_number_of_axes_is_refused(example, where):
    message = refusal(ECAPA(), ALIGNED, where=where, example=example)
    assert "keeps the shape (N, " in message
    assert "ndim=1" in message


def test_a_layer_that_changes_the_shape_is_refused():
    halve = lambda channels: nn.Conv2d(channels, channels, 1, stride=2)  # noqa: E731
    message = refusal(blocks.ResidualBlock(), halve, example=MAP)
    assert "shape (N, 8, 6, 5) of 'norm', got (1, 8, 3, 3) from Conv2d" in message


@pytest.mark.parametrize("example", [[MAP], MAP[0, 0], (MAP, MAP)], ids=["list", "rank", "many"])
def test_an_example_that_the_model_refuses(example):
    assert "expected example to be" in refusal(blocks.ResidualBlock(), example=example)


def test_a_fused_network_keeps_its_layers_on_whole_modules():
    model = randomise(blocks.C2f()).eval()
    (place,) = insert_attention(model, SE, where="residual")
    y = model(MAP)
    assert model.m[0].cv2.attention is place.layer
    torch.testing.assert_close(model.fuse()(MAP), y)


@pytest.mark.parametrize("where", [nn.BatchNorm2d, "m.*.conv"], ids=str)
def test_a_layer_that_a_fusion_may_drop_warns_once(where):
    with pytest.warns(UserWarning, match="FusedConv has a method that may fuse") as caught:
        insert_attention(blocks.C2f(), SE, where=where)
    assert [str(w.filename) for w in caught] == [__file__]


@pytest.mark.parametrize("block", [CONVNEXT, blocks.ResidualBlock])
def test_nothing_of_an_insertion_stops_torch_fx(block):
    model, layer = block().eval(), partial(nn.Conv2d, kernel_size=1)
    (place,) = insert_attention(
        model, lambda c: layer(c, c), where="residual", identity=True, example=MAP
    )
    nn.init.ones_(place.layer.gamma)
    graph = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(graph(MAP), model(MAP))
    model(MAP).sum().backward()
    assert place.layer.gamma.grad.abs() > 0
