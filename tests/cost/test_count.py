"""What is counted: multiply-accumulates and saved bytes, by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from icasa.attention import LAYERS
from icasa.cost import macs, saved_bytes


def net_of(function, *modules):
    """A module whose forward is ``function(*modules, x)``."""
    net = nn.ModuleList(modules)
    net.forward = partial(function, *modules)
    return net


def attention(x):
    return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Conv2d(3, 5, 3, groups=1), (1, 3, 6, 6), 5 * 16 * 27),
        (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 6, 6), 2 * 4 * 16 * 9),
        (nn.ConvTranspose2d(3, 5, 3), (1, 3, 6, 6), 36 * 3 * 5 * 9),
        (nn.Linear(3, 5), (2, 7, 3), 2 * 7 * 15),
        (net_of(attention), (2, 4, 7, 8), 2 * 2 * 4 * 7 * 7 * 8),
        (nn.LSTM(3, 5, batch_first=True), (2, 7, 3), 2 * 7 * 4 * 5 * (3 + 5)),
        (nn.GRU(3, 5, batch_first=True), (2, 7, 3), 2 * 7 * 3 * 5 * (3 + 5)),
        (
            nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True),
            (1, 7, 8),
            7 * (4 * 64 + 2 * 8 * 16) + 2 * 7 * 7 * 8,
        ),
        (nn.BatchNorm2d(3), (2, 3, 4, 4), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_by_hand(model, shape, expected):
    assert macs(model, torch.randn(shape)) == expected


@pytest.mark.parametrize("layer", LAYERS)
def test_macs_do_not_depend_on_the_kernel(layer):
    fast, x = layer(16, fused=True), torch.randn(1, 16, 5, 7)
    assert macs(fast, x) == macs(layer(16, fused=False), x)
    assert fast.fused is True


def test_macs_leave_the_switches():
    fast = torch.backends.mha.get_fastpath_enabled()
    macs(nn.TransformerEncoderLayer(8, 2), torch.randn(2, 7, 8))
    assert torch.backends.mha.get_fastpath_enabled() is fast is True
    macs(nn.LSTM(3, 5), torch.randn(2, 7, 3))
    assert torch._C._get_mkldnn_enabled()
    assert torch.backends.cudnn.enabled


def test_macs_of_a_view_of_a_parameter():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.linear = nn.Parameter(torch.ones(2, 3)), nn.Linear(3, 5)

        def forward(self, x):
            return self.linear(self.token[:1]) + x

    assert macs(Net(), torch.ones(5)) == 15  # the counter alone raises an AssertionError here


def test_saved_are_unique_storages_without_parameters():
    x = torch.randn(4, 3, requires_grad=True)
    assert saved_bytes(lambda: x.sin() + x.cos(), []) == x.nbytes  # both save x
    assert saved_bytes(lambda: x.sin() + x.cos(), [x]) == 0
    assert saved_bytes(lambda: x.exp().exp(), []) == 2 * x.nbytes
    assert saved_bytes(lambda: x + 1, []) == 0
