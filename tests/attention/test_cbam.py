"""CBAM against Woo et al. written out in numpy, and its bottleneck that is never empty."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import CBAM
from tests.strategies import randomise


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def numpy_cbam(x, layer, training):
    """One sample and one position at a time."""
    p = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    N, C, H, W = x.shape
    k = layer.kernel_size

    def mlp(v):
        return (
            p["excite.weight"] @ np.maximum(p["squeeze.weight"] @ v + p["squeeze.bias"], 0)
            + (p["excite.bias"])
        )

    y, logits = np.empty_like(x), np.empty((N, H, W))
    for n in range(N):
        gate = sigmoid(mlp(x[n].reshape(C, -1).mean(1)) + mlp(x[n].reshape(C, -1).max(1)))
        y[n] = x[n] * gate[:, None, None]
        maps = np.stack([y[n].max(0), y[n].mean(0)])
        maps = np.pad(maps, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        for i in range(H):
            for j in range(W):
                logits[n, i, j] = (maps[:, i : i + k, j : j + k] * p["conv.weight"][0]).sum()
    mean, var = p["norm.running_mean"], p["norm.running_var"]
    if training:
        mean, var = logits.mean(), logits.var()
    logits = (logits - mean) / np.sqrt(var + 1e-5) * p["norm.weight"] + p["norm.bias"]
    return y * sigmoid(logits)[:, None]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_equals_its_equations_in_numpy(kernel_size, training):
    layer = CBAM(12, reduction=4, kernel_size=kernel_size, dtype=torch.float64)
    randomise(layer).train(training)
    x = torch.randn(3, 12, 4, 5, dtype=torch.float64)
    expected = numpy_cbam(x.numpy(), layer, training)
    torch.testing.assert_close(layer(x), torch.from_numpy(expected))


@given(channels=st.integers(1, 40), reduction=st.integers(1, 40), k=st.sampled_from([1, 3, 5, 7]))
def test_the_bottleneck_is_never_empty_and_counts_follow_the_docstring(channels, reduction, k):
    C, M = channels, max(1, channels // reduction)
    layer = CBAM(channels, reduction=reduction, kernel_size=k).eval()
    expected = 2 * C * M + C + M + 2 * k * k + 2
    assert sum(p.numel() for p in layer.parameters()) == expected
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, channels, 3, 5))
    assert counter.get_total_flops() == 2 * (4 * C * M + 2 * k * k * 3 * 5)


def test_statistics_move_at_the_official_momentum():
    layer, x = CBAM(8), torch.randn(4, 8, 5, 7)
    logits = []
    layer.conv.register_forward_hook(lambda module, args, output: logits.append(output))
    layer.train()(x)
    torch.testing.assert_close(layer.norm.running_mean, 0.01 * logits[0].mean().reshape(1))


def test_a_tie_of_maxima_shares_its_gradient():
    layer = randomise(CBAM(4, dtype=torch.float64)).eval()
    x = torch.ones(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    layer.gates(x)[0].sum().backward()
    torch.testing.assert_close(x.grad, x.grad.mean((2, 3), keepdim=True).expand_as(x.grad))
