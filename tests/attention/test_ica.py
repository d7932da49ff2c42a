"""ICA against Eq. 6-11 written out in numpy, its counts, its seam and its symmetry."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import ICA
from tests.strategies import SEEDS, feature_maps, randomise

CASES = [(1, 1), (1, 3), (2, 1), (2, 3), (2, 5), (3, 3)]  # ndim, kernel


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def numpy_ica(x, layer, training):
    """Eq. 6-11, one channel and one position at a time."""
    p = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    N, C, *S = x.shape
    axes = range(2, x.ndim)
    means = [x.mean(axis=tuple(a for a in axes if a != axis)) for axis in axes]  # Eq. 6, 7
    z = np.concatenate(means, axis=2)
    L, k = z.shape[2], p["reduce.depthwise.weight"].shape[2]
    padded = np.pad(z, ((0, 0), (0, 0), (k // 2, k // 2)))
    u = np.empty_like(z)
    for c in range(C):
        taps, bias = p["reduce.depthwise.weight"][c, 0], p["reduce.depthwise.bias"][c]
        for i in range(L):
            u[:, c, i] = padded[:, c, i : i + k] @ taps + bias
    u = np.einsum("mc,ncl->nml", p["reduce.pointwise.weight"][:, :, 0], u)
    u += p["reduce.pointwise.bias"][:, None]
    if "norm.weight" in p:
        mean, var = p["norm.running_mean"], p["norm.running_var"]
        if training:
            mean, var = u.mean(axis=(0, 2)), u.var(axis=(0, 2))
        u = (u - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
        u = u * p["norm.weight"][:, None] + p["norm.bias"][:, None]
    f = u * np.clip(u + 3, 0, 6) / 6  # Eq. 8
    y, start = x.copy(), 0
    for axis, size in enumerate(S):
        part = f[:, :, start : start + size]
        start += size
        gate = np.einsum("cm,nml->ncl", p[f"expand.{axis}.weight"][:, :, 0], part)
        gate = sigmoid(gate + p[f"expand.{axis}.bias"][:, None])  # Eq. 9, 10
        shape = [N, C, *[1] * len(S)]
        shape[2 + axis] = size
        y *= gate.reshape(shape)  # Eq. 11
    return y


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [True, False], ids=["norm", "bare"])
@pytest.mark.parametrize(("ndim", "kernel_size"), CASES)
def test_equals_the_equations_in_numpy(ndim, kernel_size, norm, training):
    layer = ICA(18, reduction=2, kernel_size=kernel_size, norm=norm, ndim=ndim, dtype=torch.float64)
    randomise(layer).train(training)
    x = torch.randn(3, 18, *(4, 5, 2)[:ndim], dtype=torch.float64)
    expected = numpy_ica(x.numpy(), layer, training)
    torch.testing.assert_close(layer(x), torch.from_numpy(expected))


def test_a_case_worked_by_hand():
    layer = ICA(1, norm=False, kernel_size=1, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        layer.reduce.depthwise.weight.fill_(2.0)
        layer.reduce.pointwise.weight[0] = 1.0
        layer.expand[0].weight[0, 0] = 1.0
        layer.expand[1].weight[0, 0] = -1.0
    x = torch.tensor([[[[1.0, 3.0], [-1.0, 1.0]]]], dtype=torch.float64)
    # Row means 2, 0; column means 0, 2. Doubled 4, 0; 0, 4, which h_swish leaves as they are.
    up, even, down = sigmoid(4.0), 0.5, sigmoid(-4.0)
    expected = [[1 * up * even, 3 * up * down], [-1 * even * even, 1 * even * down]]
    torch.testing.assert_close(layer(x), torch.tensor([[expected]], dtype=torch.float64))


@given(
    channels=st.integers(1, 70),
    reduction=st.integers(1, 40),
    kernel_size=st.sampled_from([1, 3, 5]),
    norm=st.booleans(),
    ndim=st.integers(1, 3),
)
def test_parameter_count_follows_the_docstring(channels, reduction, kernel_size, norm, ndim):
    layer = ICA(channels, reduction=reduction, kernel_size=kernel_size, norm=norm, ndim=ndim)
    C, k, M = channels, kernel_size, max(8, channels // reduction)
    expected = C * (k + 1) + C * M + (3 if norm else 1) * M + ndim * (M * C + C)
    assert sum(p.numel() for p in layer.parameters()) == expected
    assert layer.width == M


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_multiply_accumulates_follow_the_docstring(ndim):
    S = (19, 100, 7)[:ndim]
    with FlopCounterMode(display=False) as counter:
        ICA(32, ndim=ndim)(torch.randn(1, 32, *S))
    assert counter.get_total_flops() == 2 * sum(S) * (32 * 3 + 2 * 32 * 8)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_seam_joins_the_last_rows_to_the_first_columns(kernel_size):
    """A last row that changes without its column means reaches gates of columns by the seam."""
    layer = ICA(4, kernel_size=kernel_size, dtype=torch.float64)
    randomise(layer).eval()
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    other = x.clone()
    other[:, :, -1] += 1.0
    other[:, :, 0] -= 1.0  # the column means stay, the row means of the ends change
    (_, before), (_, after) = layer.gates(x), layer.gates(other)
    changed = ((before - after).abs() > 1e-9).any(dim=1).flatten().tolist()
    assert changed == [j < kernel_size // 2 for j in range(7)]


@given(x=feature_maps(channels=6, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_transposing_the_map_swaps_the_gates_away_from_the_seam(x, seed):
    layer = randomise(ICA(6, kernel_size=1, dtype=torch.float64), seed).eval()
    twin = ICA(6, kernel_size=1, dtype=torch.float64).eval()
    twin.load_state_dict(layer.state_dict())
    twin.expand = type(twin.expand)(reversed(twin.expand))
    torch.testing.assert_close(twin(x.mT), layer(x).mT)
    for gate, swapped in zip(layer.gates(x), reversed(twin.gates(x.mT)), strict=True):
        torch.testing.assert_close(gate, swapped.mT)


@given(x=feature_maps(channels=6, min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_reversing_every_axis_and_the_kernel_reverses_one_axis_maps(x, seed):
    layer = randomise(ICA(6, ndim=1, dtype=torch.float64), seed).eval()
    twin = ICA(6, ndim=1, dtype=torch.float64).eval()
    twin.load_state_dict(layer.state_dict())
    with torch.no_grad():
        twin.reduce.depthwise.weight.copy_(layer.reduce.depthwise.weight.flip(-1))
    x = x.flatten(2)
    torch.testing.assert_close(twin(x.flip(-1)), layer(x).flip(-1))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gates_have_one_value_per_channel_and_place_on_their_axis(ndim):
    S = (3, 4, 5)[:ndim]
    shapes = [tuple(g.shape) for g in ICA(8, ndim=ndim).gates(torch.randn(2, 8, *S))]
    assert shapes == [(2, 8, *[n if a == b else 1 for b, n in enumerate(S)]) for a in range(ndim)]


def test_without_norm_there_are_no_statistics_and_one_value_trains():
    layer = ICA(8, norm=False, ndim=1)
    assert not list(layer.buffers())
    before = layer.expand[0].weight.clone()
    layer.reset_parameters()
    assert (layer.expand[0].weight != before).any()
    assert layer.train()(torch.randn(1, 8, 1)).shape == (1, 8, 1)
