"""ECA against Wang et al. written out in numpy, and its kernel sizes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icasa import ECA
from tests.strategies import SEEDS, feature_maps, randomise


@pytest.mark.parametrize("kernel_size", [None, 1, 3, 5])
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_equals_its_equation_in_numpy(channels, kernel_size):
    layer = randomise(ECA(channels, kernel_size=kernel_size, dtype=torch.float64))
    x = torch.randn(3, channels, 4, 5, dtype=torch.float64)
    taps = layer.conv.weight.detach().numpy()[0, 0]
    k = len(taps)
    expected = x.numpy().copy()
    for n in range(3):
        means = [plane.mean() for plane in x[n].numpy()]
        for c in range(channels):
            seen = [(t, c + t - k // 2) for t in range(k)]
            logit = sum(taps[t] * means[i] for t, i in seen if 0 <= i < channels)
            expected[n, c] /= 1 + np.exp(-logit)
    torch.testing.assert_close(layer(x), torch.from_numpy(expected))


def test_kernel_sizes_are_those_of_the_official_code():
    official = {8: 3, 16: 3, 32: 3, 64: 3, 128: 5, 256: 5, 512: 5, 1024: 5, 2048: 7}
    assert {c: ECA(c).kernel_size for c in official} == official


@given(channels=st.integers(1, 3000))
def test_the_kernel_is_odd_and_its_only_parameter(channels):
    layer = ECA(channels)
    k = layer.kernel_size
    assert k % 2 == 1
    assert [p.numel() for p in layer.parameters()] == [k]
    assert k - 2 < (np.log2(channels) + 1) / 2 < k + 1  # the nearest odd, upward


@given(x=feature_maps(channels=9, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_a_channel_reaches_its_neighbours_only(x, seed):
    layer = randomise(ECA(9, kernel_size=3, dtype=torch.float64), seed)
    other = x.clone()
    other[:, 4] += 1.0
    (before,), (after,) = layer.gates(x), layer.gates(other)
    changed = ((before - after).abs() > 1e-9).any(0).flatten().tolist()
    assert changed == [3 <= c <= 5 for c in range(9)]


@given(x=feature_maps(channels=9, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_reversing_channels_and_kernel_reverses_the_gates(x, seed):
    layer = randomise(ECA(9, dtype=torch.float64), seed)
    (gate,) = layer.gates(x)
    with torch.no_grad():
        layer.conv.weight.copy_(layer.conv.weight.flip(-1))
    torch.testing.assert_close(layer.gates(x.flip(1))[0], gate.flip(1))
