"""SE against Hu et al. written out in numpy, and its bottleneck that is never empty."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import SE
from tests.strategies import SEEDS, feature_maps, randomise


@pytest.mark.parametrize("reduction", [1, 4, 16])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_equals_its_equation_in_numpy(ndim, reduction):
    layer = randomise(SE(12, reduction=reduction, ndim=ndim, dtype=torch.float64))
    x = torch.randn(3, 12, *(4, 5, 2)[:ndim], dtype=torch.float64)
    p = {k: v.numpy() for k, v in layer.state_dict().items()}
    for n, sample in enumerate(x.numpy()):
        mean = np.array([plane.mean() for plane in sample])
        hidden = np.maximum(p["squeeze.weight"] @ mean + p["squeeze.bias"], 0)
        gate = 1 / (1 + np.exp(-p["excite.weight"] @ hidden - p["excite.bias"]))
        expected = np.stack([g * plane for g, plane in zip(gate, sample, strict=True)])
        torch.testing.assert_close(layer(x)[n], torch.from_numpy(expected))


@given(channels=st.integers(1, 40), reduction=st.integers(1, 40))
def test_the_bottleneck_is_never_empty_and_counts_follow_the_docstring(channels, reduction):
    C, M = channels, max(1, channels // reduction)
    layer = SE(channels, reduction=reduction)
    assert sum(p.numel() for p in layer.parameters()) == 2 * C * M + C + M
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, channels, 2, 3))
    assert counter.get_total_flops() == 2 * (2 * C * M)


def test_a_narrow_layer_still_looks_at_its_input():
    layer = randomise(SE(8))
    (low,), (high,) = (layer.gates(torch.full((1, 8, 2, 2), v)) for v in (1.0, 5.0))
    assert ((low - high).abs() > 0).all()


@given(x=feature_maps(channels=8, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_gates_do_not_see_where_things_are(x, seed):
    layer = randomise(SE(8, dtype=torch.float64), seed)
    flat = x.flatten(2)
    moved = flat[..., torch.randperm(flat.shape[2])].view(x.shape)
    torch.testing.assert_close(layer.gates(moved), layer.gates(x))
