"""CA against Hou et al. written out in numpy, and its official counts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import CA
from tests.strategies import SEEDS, feature_maps, randomise


def numpy_ca(x, layer, training):
    p = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    axes = range(2, x.ndim)
    z = np.concatenate([x.mean(axis=tuple(a for a in axes if a != b)) for b in axes], axis=2)
    u = np.einsum("mc,ncl->nml", p["reduce.weight"][:, :, 0], z) + p["reduce.bias"][:, None]
    mean, var = p["norm.running_mean"], p["norm.running_var"]
    if training:
        mean, var = u.mean(axis=(0, 2)), u.var(axis=(0, 2))
    u = (u - mean[:, None]) / np.sqrt(var[:, None] + 1e-5)
    u = u * p["norm.weight"][:, None] + p["norm.bias"][:, None]
    f = u * np.clip(u + 3, 0, 6) / 6
    y, start = x.copy(), 0
    for axis in axes:
        part = f[:, :, start : start + x.shape[axis]]
        start += x.shape[axis]
        gate = np.einsum("cm,nml->ncl", p[f"expand.{axis - 2}.weight"][:, :, 0], part)
        gate = 1 / (1 + np.exp(-gate - p[f"expand.{axis - 2}.bias"][:, None]))
        gate = np.expand_dims(gate, tuple(a for a in axes if a != axis))
        y *= gate
    return y


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_equals_its_equations_in_numpy(ndim, training):
    layer = randomise(CA(20, reduction=2, ndim=ndim, dtype=torch.float64)).train(training)
    x = torch.randn(3, 20, *(4, 5, 2)[:ndim], dtype=torch.float64)
    expected = numpy_ca(x.numpy(), layer, training)
    torch.testing.assert_close(layer(x), torch.from_numpy(expected))


def test_has_the_official_parameter_count():
    assert sum(p.numel() for p in CA(64).parameters()) == 1688


@given(channels=st.integers(1, 600), reduction=st.integers(1, 40), ndim=st.integers(1, 3))
def test_parameter_count_follows_the_docstring(channels, reduction, ndim):
    C, M = channels, max(8, channels // reduction)
    layer = CA(channels, reduction=reduction, ndim=ndim, device="meta")
    expected = C * M + 3 * M + ndim * (M * C + C)
    assert sum(p.numel() for p in layer.parameters()) == expected


def test_multiply_accumulates_follow_the_docstring():
    with FlopCounterMode(display=False) as counter:
        CA(32)(torch.randn(1, 32, 19, 100))
    assert counter.get_total_flops() == 2 * (2 * (19 + 100) * 32 * 8)


def test_norm_is_torch_s_default_as_in_the_official_code():
    norm = CA(64).norm
    assert (norm.eps, norm.momentum, norm.affine) == (1e-5, 0.1, True)


@given(x=feature_maps(channels=6, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_permuting_rows_and_columns_permutes_the_output(x, seed):
    layer = randomise(CA(6, dtype=torch.float64), seed).eval()
    rows, columns = (torch.randperm(n) for n in x.shape[2:])
    permuted = x[:, :, rows][..., columns]
    torch.testing.assert_close(layer(permuted), layer(x)[:, :, rows][..., columns])


@given(x=feature_maps(channels=6, ndims=(2,), min_batch=1, dtype=torch.float64), seed=SEEDS)
def test_transposing_the_map_swaps_the_gates(x, seed):
    layer = randomise(CA(6, dtype=torch.float64), seed).eval()
    twin = CA(6, dtype=torch.float64).eval()
    twin.load_state_dict(layer.state_dict())
    twin.expand = type(twin.expand)(reversed(twin.expand))
    torch.testing.assert_close(twin(x.mT), layer(x).mT)
