"""MACNN: Table 1's shapes and counts, and every layer in every place."""

import pytest
import torch

from examples.ser.model.macnn import ATTENTION, CHANNELS, HEADS, MACNN, PADDING


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_table_1_with_four_heads_has_155636_parameters():
    conv = [(1, 8, 20), (1, 8, 16), (16, 32, 9), (32, 48, 9), (48, 64, 9), (64, 80, 9)]
    by_formula = sum(i * o * k + o + 2 * o for i, o, k in conv)  # weights, bias, BatchNorm
    by_formula += 4 * 3 * (80 * 64 + 64) + 64 * 4 + 4  # heads of query, key, value; classifier
    assert count(MACNN(4)) == by_formula == 155_636


@pytest.mark.parametrize(("padding", "sizes"), [("macnn", (38, 199)), ("same", (39, 200))])
def test_sizes_follow_the_padding(padding, sizes):
    seen = []
    model = MACNN(4, padding=padding)
    for block in model.blocks.values():
        block.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape[1:])))
    model.head.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape[1:])))
    model(torch.randn(2, 1, 39, 200))
    (h, w), (h2, w2), (h4, w4) = sizes, [s // 2 for s in sizes], [s // 4 for s in sizes]
    assert seen == [(16, h, w), (32, h2, w2), (48, h4, w4), (64, h4, w4), (80, h4, w4)]


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_attention_trains_in_every_place(attention):
    model = MACNN(3, attention=attention)
    model(torch.randn(2, 1, 39, 200)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_every_head_gives_logits_and_gradients(head):
    model = MACNN(3, head=head)
    y = model(torch.randn(2, 1, 39, 200))
    assert y.shape == (2, 3)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_places_choose_where_the_layer_goes():
    model = MACNN(3, attention="icasa", places=["conv3", "conv5"])
    assert model.betas() == {"conv3": 0.5, "conv5": 0.5}
    assert MACNN(3, attention="sa").betas() == {}


def test_the_layer_stands_after_relu_and_before_the_pool():
    model = MACNN(3, attention="se")
    block = [type(m).__name__ for m in model.blocks["conv2"]]
    assert block == ["Conv2d", "BatchNorm2d", "ReLU", "SE", "MaxPool2d"]


def test_heads_joined_along_the_height_equal_the_mean_over_heads():
    head = MACNN(3).head
    x = torch.randn(2, 80, 9, 49)
    joined = torch.cat(head.attend(x).unbind(1), dim=2)  # (N, 64, 4 * 9, 49)
    torch.testing.assert_close(head(x), joined.relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("attention", "sea", ATTENTION), ("head", "tail", HEADS), ("padding", "valid", PADDING)],
)
def test_an_unknown_name_is_refused_with_the_known_ones(option, value, known):
    with pytest.raises(ValueError, match=f"expected {option} among {', '.join(known)}, got"):
        MACNN(3, **{option: value})


def test_an_unknown_place_is_refused():
    with pytest.raises(
        ValueError, match=f"expected places among {', '.join(CHANNELS)}, got 'conv9'"
    ):
        MACNN(3, places=["conv9"])
