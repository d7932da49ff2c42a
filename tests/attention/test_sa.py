"""SA against Eq. 12-14 written out in numpy, its initial value, order and valid groups."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icasa import SA
from tests.strategies import SEEDS, feature_maps, lay_out, randomise


def numpy_sa(x, layer, shuffle):
    """Eq. 12-14, one group and one channel at a time."""
    p = {k: v.numpy() for k, v in layer.state_dict().items()}
    N, C = x.shape[:2]
    half = C // layer.groups // 2
    y = np.empty_like(x)
    for n in range(N):
        for c in range(C):
            k = c % (2 * half)  # place inside the group
            if k < half:
                t = x[n, c].mean()  # Eq. 12
                t = p["channel_weight"][k] * t + p["channel_bias"][k]  # Eq. 13
            else:
                k -= half
                t = (x[n, c] - x[n, c].mean()) / np.sqrt(x[n, c].var() + 1e-5)
                t = t * p["norm.weight"][k] + p["norm.bias"][k]
                t = p["spatial_weight"][k] * t + p["spatial_bias"][k]  # Eq. 14
            y[n, c] = x[n, c] / (1 + np.exp(-t))
    if not shuffle:
        return y
    order = [j * (C // 2) + i for i in range(C // 2) for j in range(2)]
    return y[:, order]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_equals_the_equations_in_numpy(ndim, groups, shuffle, training):
    layer = SA(12, groups=groups, shuffle=shuffle, ndim=ndim, dtype=torch.float64)
    randomise(layer).train(training)
    x = torch.randn(2, 12, *(4, 5, 2)[:ndim], dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.from_numpy(numpy_sa(x.numpy(), layer, shuffle)))


def test_a_case_worked_by_hand():
    layer = SA(2, groups=1, ndim=1, dtype=torch.float64)
    with torch.no_grad():
        layer.channel_weight.fill_(2.0)
        layer.channel_bias.fill_(-4.0)
        layer.norm.eps = 0.0
        layer.spatial_weight.fill_(np.log(3.0))
        layer.spatial_bias.fill_(0.0)
    x = torch.tensor([[[1.0, 3.0], [10.0, 30.0]]], dtype=torch.float64)
    # Mean 2 gives sigmoid(2*2 - 4) = 1/2; (10, 30) normed is (-1, 1): sigmoid(-+log 3) = 1/4, 3/4.
    expected = torch.tensor([[[0.5, 1.5], [2.5, 22.5]]], dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected)


@given(x=feature_maps(channels=16), groups=st.sampled_from([1, 2, 4, 8]))
def test_a_fresh_layer_is_the_shuffle_of_sigmoid_1_times_x(x, groups):
    order = [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15]
    scaled = x * torch.sigmoid(torch.tensor(1.0))
    ndim = x.ndim - 2
    torch.testing.assert_close(SA(16, groups=groups, ndim=ndim)(x), scaled[:, order])
    torch.testing.assert_close(SA(16, groups=groups, ndim=ndim, shuffle=False)(x), scaled)


@given(half=st.integers(1, 40), groups=st.integers(1, 40))
def test_has_3_c_over_g_parameters(half, groups):
    layer = SA(2 * half * groups, groups=groups, device="meta")
    assert sum(p.numel() for p in layer.parameters()) == 3 * layer.channels // groups
    assert {p.shape for p in layer.parameters()} == {(half,)}


@pytest.mark.parametrize(("channels", "groups"), [(192, 64), (24, 8), (64, 64), (7, 1), (8, 8)])
def test_channels_that_do_not_divide_are_refused_with_the_groups_that_fit(channels, groups):
    with pytest.raises(ValueError, match="divisible by 2 \\* groups") as caught:
        SA(channels, groups=groups)
    text = str(caught.value)
    assert f"channels={channels}, groups={groups}" in text
    offered = text.rsplit(": ", 1)[1]
    if channels % 2:
        assert offered.startswith("none")
    else:
        fits = [g for g in range(1, channels) if channels % (2 * g) == 0]
        assert [int(g) for g in offered.split(", ")] == fits
        for g in fits:
            SA(channels, groups=g)


@pytest.mark.parametrize("fused", [False, True])
@given(x=feature_maps(channels=12, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_groups_do_not_meet_but_in_the_shuffle(fused, x, seed):
    layer = randomise(SA(12, groups=3, shuffle=False, fused=fused, dtype=torch.float64), seed)
    other = x.clone()
    other[:, 4:8] = torch.randn_like(other[:, 4:8])
    outside = [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(layer(x)[:, outside], layer(other)[:, outside])
    group_order = [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7]  # all groups share their parameters
    torch.testing.assert_close(layer(x[:, group_order]), layer(x)[:, group_order])


@given(x=feature_maps(channels=8, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_spatial_gates_do_not_see_the_scale_and_shift_of_their_channel(x, seed):
    layer = randomise(SA(8, groups=2, dtype=torch.float64), seed)
    layer.norm.eps = 0.0
    if x[0, 0].numel() == 1:
        return
    spatial = [2, 3, 6, 7]
    (before,), (after,) = layer.gates(x), layer.gates(5 * x - 3)
    torch.testing.assert_close(before[:, spatial], after[:, spatial])


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (2, 16, 3, 5, 7)])
def test_the_shuffle_is_a_permutation_that_keeps_the_layout(shape, layout):
    x = lay_out(torch.randn(shape), layout)
    layer = SA(16, ndim=len(shape) - 2)
    y = layer(x)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y.sum(1), x.sum(1) * torch.sigmoid(torch.tensor(1.0)))


def test_groups_beyond_the_first_train_the_shared_parameters():
    layer, x = SA(16, groups=4), torch.randn(2, 16, 3, 5)
    x[:, :12] = 0
    layer(x).square().sum().backward()
    for name in ("channel_weight", "channel_bias", "spatial_weight", "spatial_bias"):
        assert getattr(layer, name).grad.abs().min() > 0, name


def test_one_value_per_channel_trains_even_in_one_group():
    x = torch.randn(1, 4, 1, 1)
    scaled = x * torch.sigmoid(torch.tensor(1.0))
    torch.testing.assert_close(SA(4, groups=1).train()(x), scaled[:, [0, 2, 1, 3]])
