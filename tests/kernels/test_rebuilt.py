"""Parts that were replaced, hooked or told otherwise: the fast path does as its modules."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import icasa
from tests.kernels.test_attend import PARTS, X, make, operators
from tests.kernels.test_layers import insist
from tests.strategies import randomise, seeded

REBUILDS = {
    "a hook on the norm": lambda ica: ica.norm.register_forward_hook(lambda *_: None),
    "a hook on a convolution": lambda ica: ica.reduce.pointwise.register_forward_pre_hook(
        lambda *_: None
    ),
    "another activation": lambda ica: setattr(ica, "act", nn.ReLU()),
    "another norm": lambda ica: setattr(ica, "norm", nn.GroupNorm(1, 8)),
    "a norm without statistics": lambda ica: setattr(
        ica, "norm", nn.BatchNorm1d(8, track_running_stats=False)
    ),
    "another convolution": lambda ica: setattr(ica.reduce, "depthwise", nn.Identity()),
    "another dilation": lambda ica: setattr(
        ica.reduce, "depthwise", nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8)
    ),
    "another padding": lambda ica: setattr(ica.reduce.depthwise, "padding_mode", "circular"),
    "no bias": lambda ica: setattr(ica.expand[0], "bias", None),
    "a parametrisation": lambda ica: nn.utils.parametrizations.weight_norm(ica.expand[1]),
    "a wide net": lambda ica: ica.__init__(80, reduction=1, fused=True),
    "many taps": lambda ica: ica.__init__(8, kernel_size=65, fused=True),
}


@pytest.mark.parametrize("learns", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("rebuild", REBUILDS.values(), ids=REBUILDS)
def test_a_rebuilt_layer_calls_its_own_modules(rebuild, learns):
    ica = make(icasa.ICA)
    rebuild(ica)
    ica.train(learns)
    x = torch.randn(2, ica.channels, 3, 5, generator=seeded(4))
    eager = copy.deepcopy(ica)
    eager.fused = False
    with torch.set_grad_enabled(learns):
        assert operators(copy.deepcopy(ica), x) == PARTS
        torch.testing.assert_close(ica(x), eager(x))


@pytest.mark.parametrize("shape", [(1, 8, 3, 5), (8, 8, 64, 64)], ids=["small", "large"])
def test_a_rebuilt_layer_that_may_choose_is_eager_where_that_is_faster(shape):
    ica = make(icasa.ICA, fused=None)
    ica.norm.register_forward_hook(lambda *_: None)
    large = shape[0] > 1
    assert operators(ica, torch.ones(shape)) == (PARTS if large else [])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentum", None),
        ("momentum", 0.3),
        ("track_running_stats", False),
        ("num_batches_tracked", None),
    ],
)
def test_a_norm_tracks_what_it_was_told_to(name, value, body):
    norms = []
    for fused in (True, False):
        layer = make(icasa.ICA, fused=fused).train()
        setattr(layer.norm, name, value)
        for k in range(3):
            layer(X + k)
        norms.append(layer.norm)
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())


def test_a_norm_of_another_width_is_refused_as_torch_does(body):
    for learns in (True, False):
        layer = make(icasa.ICA)
        layer.norm = nn.BatchNorm1d(4)
        with pytest.raises(RuntimeError, match="should contain 8 elements not 4"):
            layer.train(learns)(X)


class Doubled(icasa.ICA):
    """Stands in for a branch."""

    def forward(self, x, lengths=None):
        return 2 * super().forward(x, lengths)


SWAPS = {
    "SA's norm": lambda sa: setattr(sa, "norm", nn.GroupNorm(1, 4)),
    "ICA": lambda both: setattr(both, "ica", Doubled(8)),
    "SA": lambda both: setattr(both, "sa", Doubled(8)),
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_branch_or_norm_that_was_replaced_is_called(swap):
    layer = randomise((icasa.SA if "norm" in swap else icasa.ICASA)(8, groups=1))
    SWAPS[swap](layer)
    torch.testing.assert_close(layer(X), insist(layer, False)(X))
    with pytest.raises(ValueError, match="fused=True knows its own branches, norm and gates alone"):
        insist(layer, True)(X)


def test_hooks_on_all_modules_are_run():
    seen, layer = [], make(icasa.ICASA, fused=None)
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        layer(X)
    finally:
        handle.remove()
    assert nn.BatchNorm1d in seen


@pytest.mark.parametrize(
    ("cls", "name", "fused"),
    [
        (icasa.SA, "channel_weight", True),
        (icasa.SA, "norm.weight", None),
        (icasa.ICA, "norm.weight", True),
    ],
)
def test_a_pruned_parameter_is_that_of_its_module(cls, name, fused, body):
    layer = make(cls, fused=fused)
    owner, _, parameter = name.rpartition(".")
    prune.random_unstructured(layer.get_submodule(owner), parameter, 0.5)
    optimizer = torch.optim.SGD(layer.parameters(), 1.0)
    for _ in range(2):  # the pruned weight is computed anew by each call of its module
        optimizer.zero_grad()
        layer(X).square().sum().backward()
        optimizer.step()
    y = layer(X)
    layer.fused = False
    torch.testing.assert_close(y, layer(X))


class Halved(icasa.ICA):
    """Has gates of its own."""

    def gates(self, x, lengths=None):
        return tuple(torch.full_like(gate, 0.5) for gate in super().gates(x, lengths))


@pytest.mark.parametrize("x", [X, torch.ones(8, 8, 64, 64)], ids=["small", "large"])
def test_gates_that_were_overridden_are_applied(x, body):
    layer = Halved(8).eval()
    torch.testing.assert_close(layer(x), x / 4)
    with pytest.raises(ValueError, match="got another; put them back"):
        insist(layer, True)(x)
    for cls in (icasa.ICA, icasa.SA):
        layer = make(cls, fused=None)
        layer.gates = lambda x, lengths=None: (torch.full_like(x, 0.5),)
        torch.testing.assert_close(layer(x).sort(1)[0], (x / 2).sort(1)[0])


@pytest.mark.parametrize("branch", ["ica", "sa"])
def test_a_branch_whose_forward_was_replaced_is_called(branch):
    layer = make(icasa.ICASA, fused=None)
    layer.get_submodule(branch).forward = lambda x, lengths=None: 0 * x
    torch.testing.assert_close(layer(X), insist(copy.deepcopy(layer), False)(X))
