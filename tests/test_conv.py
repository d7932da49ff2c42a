"""DepthwiseSeparableConv against one dense convolution, its shapes and its counts."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import DepthwiseSeparableConv
from tests.strategies import SEEDS, randomise, seeded

DENSE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
ARGUMENTS = {
    "kernel_size": st.integers(1, 4),
    "stride": st.integers(1, 3),
    "padding": st.integers(0, 2),
    "dilation": st.integers(1, 2),
}


@given(
    options=st.fixed_dictionaries(ARGUMENTS),
    out_channels=st.integers(1, 5),
    bias=st.booleans(),
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    seed=SEEDS,
)
def test_equals_one_dense_convolution_with_shape_and_counts(
    options, out_channels, bias, sizes, seed
):
    k, s, p, d = (options[name] for name in ("kernel_size", "stride", "padding", "dilation"))
    outer = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n in sizes]
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n in sizes))
    ndim, C, M = len(sizes), 3, out_channels
    layer = DepthwiseSeparableConv(C, M, **options, bias=bias, ndim=ndim, dtype=torch.float64)
    randomise(layer, seed)
    x = torch.randn(2, C, *sizes, dtype=torch.float64, generator=seeded(seed))
    y = layer(x)
    assert y.shape == (2, M, *outer)

    mix, taps = layer.pointwise.weight.flatten(1), layer.depthwise.weight[:, 0]
    dense = torch.einsum("mc,c...->mc...", mix, taps)
    shift = mix @ layer.depthwise.bias + layer.pointwise.bias if bias else None
    expected = DENSE[ndim](x, dense, shift, stride=s, padding=p, dilation=d)
    torch.testing.assert_close(y, expected)

    weights = C * k**ndim + C * M
    assert sum(q.numel() for q in layer.parameters()) == weights + (C + M if bias else 0)
    with FlopCounterMode(display=False) as counter:
        layer(x[:1])
    assert counter.get_total_flops() == 2 * weights * torch.Size(outer).numel()


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_keeps_every_length_by_default(ndim, kernel_size, dilation):
    layer = DepthwiseSeparableConv(4, kernel_size=kernel_size, dilation=dilation, ndim=ndim)
    x = torch.randn(1, 4, *(1, 2, 5)[:ndim])
    assert layer(x).shape == x.shape


def test_a_case_worked_by_hand():
    layer = DepthwiseSeparableConv(2, 1, ndim=1, dtype=torch.float64)
    with torch.no_grad():
        layer.depthwise.weight.copy_(torch.tensor([[[1.0, 2, 3]], [[0, 1, -1]]]))
        layer.depthwise.bias.copy_(torch.tensor([0.5, 0]))
        layer.pointwise.weight.copy_(torch.tensor([[[2.0], [10]]]))
        layer.pointwise.bias.fill_(-1.0)
    x = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]], dtype=torch.float64)
    # Depthwise: 2+6, 1+4+9, 2+6 and a half each; 4-5, 5-6, 6.
    expected = [2 * 8.5 - 10 - 1, 2 * 14.5 - 10 - 1, 2 * 8.5 + 60 - 1]
    torch.testing.assert_close(layer(x), torch.tensor([[expected]], dtype=torch.float64))


def test_without_bias_the_zero_map_stays_zero():
    layer = DepthwiseSeparableConv(4, 6, bias=False)
    assert not [name for name, _ in layer.named_parameters() if "bias" in name]
    assert not layer(torch.zeros(1, 4, 3, 3)).any()


def test_an_even_kernel_needs_a_padding():
    with pytest.raises(ValueError, match=r"kernel_size.* to be odd.*got 4; use 3 or 5"):
        DepthwiseSeparableConv(8, kernel_size=4)
    layer = DepthwiseSeparableConv(8, kernel_size=4, padding=0)
    assert layer(torch.ones(1, 8, 4, 4)).shape == (1, 8, 1, 1)
