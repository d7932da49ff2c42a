"""One rule for a modified part: PyTorch computes the layer, and fused=True names the part."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import prune

import icasa
from icasa.attention._fused import PlaneOperands, _refuse_tensors
from tests.kernels.test_attend import X, make, operators
from tests.kernels.test_layers import insist
from tests.strategies import randomise, seeded


def hook(module):
    module.register_forward_pre_hook(lambda *_: None)


MODIFICATIONS = {  # of ICA: what fused=True says of it
    "expected norm without hooks": lambda ica: hook(ica.norm),
    "expected pointwise without hooks": lambda ica: hook(ica.reduce.pointwise),
    "expected reduce without hooks": lambda ica: hook(ica.reduce),
    r"expected HSwish as act, got ReLU\(\) as act; restore": lambda ica: setattr(
        ica, "act", nn.ReLU()
    ),
    r"expected BatchNorm1d or Identity as norm, got GroupNorm\(": lambda ica: setattr(
        ica, "norm", nn.GroupNorm(1, 8)
    ),
    "expected norm with parameters and statistics of 8 channels": lambda ica: setattr(
        ica, "norm", nn.BatchNorm1d(8, track_running_stats=False)
    ),
    r"expected Conv1d as depthwise, got Identity\(\) as depthwise": lambda ica: setattr(
        ica.reduce, "depthwise", nn.Identity()
    ),
    "got Conv1d.* dilation=.* as depthwise": lambda ica: setattr(
        ica.reduce, "depthwise", nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8)
    ),
    "got Conv1d.* padding_mode=circular.* as depthwise": lambda ica: setattr(
        ica.reduce.depthwise, "padding_mode", "circular"
    ),
    "with bias as 0, got Conv1d": lambda ica: setattr(ica.expand[0], "bias", None),
    "expected Conv1d as 1, got Parametrized": lambda ica: nn.utils.parametrizations.weight_norm(
        ica.expand[1]
    ),
    "expected the gates of ICA, got another on ICA": lambda ica: setattr(
        ica, "gates", lambda x, lengths=None: (torch.full_like(x, 0.5),)
    ),
    "expected the _squeeze of ICA, got another on ICA": lambda ica: setattr(
        ica, "_squeeze", lambda z, valid: z[:, :8]
    ),
}


PLANE_MODIFICATIONS = {  # of SE and ECA
    "expected squeeze without hooks": (icasa.SE, lambda se: hook(se.squeeze)),
    r"expected Linear as excite, got Identity\(\) as excite; restore": (
        icasa.SE,
        lambda se: setattr(se, "excite", nn.Identity()),
    ),
    "expected squeeze and excite with parameters of shapes": (
        icasa.SE,
        lambda se: setattr(se.excite, "bias", None),
    ),
    "expected Linear as squeeze, got Parametrized": (
        icasa.SE,
        lambda se: nn.utils.parametrizations.weight_norm(se.squeeze),
    ),
    "expected the gates of SE, got another on SE": (
        icasa.SE,
        lambda se: setattr(se, "gates", lambda x, lengths=None: (torch.full_like(x, 0.5),)),
    ),
    "expected conv without hooks": (icasa.ECA, lambda eca: hook(eca.conv)),
    "expected norm without hooks": (icasa.CBAM, lambda cbam: hook(cbam.norm)),
    r"expected BatchNorm2d as norm, got GroupNorm\(": (
        icasa.CBAM,
        lambda cbam: setattr(cbam, "norm", nn.GroupNorm(1, 1)),
    ),
    r"expected a convolution of shape \(1, 2, 7, 7\) without bias as conv, got Conv2d": (
        icasa.CBAM,
        lambda cbam: setattr(cbam, "conv", nn.Conv2d(2, 1, 3, padding=1, bias=False)),
    ),
    "expected the _attend of CBAM, got another on CBAM": (
        icasa.CBAM,
        lambda cbam: setattr(cbam, "_attend", lambda x, lengths: (x, x, torch.ones_like(x))),
    ),
    r"expected a convolution of shape \(1, 1, 3\) without bias as conv, got Conv1d": (
        icasa.ECA,
        lambda eca: setattr(eca, "conv", nn.Conv1d(1, 1, 3, padding=1)),
    ),
    "got Conv1d.* padding_mode=circular.* as conv": (
        icasa.ECA,
        lambda eca: setattr(eca.conv, "padding_mode", "circular"),
    ),
    "got Conv1d.*kernel_size=.5,.* as conv": (
        icasa.ECA,
        lambda eca: setattr(eca, "conv", nn.Conv1d(1, 1, 5, padding=2, bias=False)),
    ),
}


@pytest.mark.parametrize("needs_grad", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("message", PLANE_MODIFICATIONS)
def test_a_modified_layer_of_plane_gates_is_left_to_pytorch(message, needs_grad):
    cls, modify = PLANE_MODIFICATIONS[message]
    layer = make(cls)
    modify(layer)
    with torch.set_grad_enabled(needs_grad):
        agrees_with_eager(layer)
        with pytest.raises(ValueError, match=f"{cls.__name__} with fused=True .*{message}"):
            layer(X)


def test_cuda_has_no_kernel_of_plane_gates():
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 8, 3, 5, device="cuda")
        net = [torch.empty(1, 1, 3, device="cuda")]
    refused = _refuse_tensors(PlaneOperands(net), x)
    assert refused.expected == "x on the CPU, where alone this layer has a kernel"


def agrees_with_eager(layer, x=X):
    """A layer that may choose computes what its equations do, without an operator of ours."""
    free = insist(layer, None)
    torch.testing.assert_close(free(x), insist(layer, False)(x))
    assert operators(free, x) == []


@pytest.mark.parametrize("needs_grad", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("message", MODIFICATIONS)
def test_a_modified_ica_is_left_to_pytorch(message, needs_grad):
    ica = make(icasa.ICA)
    MODIFICATIONS[message](ica)
    with torch.set_grad_enabled(needs_grad):
        agrees_with_eager(ica.train(needs_grad))
        with pytest.raises(ValueError, match=f"ICA with fused=True .*{message}"):
            ica(X)


@pytest.mark.parametrize("options", [{"reduction": 1}, {"kernel_size": 65}], ids=str)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["eval", "train"])
def test_what_the_c_is_too_narrow_for_is_computed_by_the_specification(options, needs_grad):
    layer = randomise(icasa.ICA(80, fused=True, **options)).train(needs_grad)
    x = torch.randn(2, 80, 3, 5, generator=seeded(4))
    assert operators(copy.deepcopy(layer), x) == ["attend_forward"]
    torch.testing.assert_close(copy.deepcopy(layer)(x), insist(layer, False)(x))
    assert operators(insist(layer, None), x) == []


@pytest.mark.parametrize(
    ("name", "value", "served"),
    [
        ("momentum", None, False),
        ("momentum", 0.3, True),
        ("track_running_stats", False, False),
        ("num_batches_tracked", None, True),
    ],
)
def test_a_norm_tracks_as_it_is_set_to(name, value, served, backend):
    norms = []
    for fused in (True if served else None, False):
        layer = make(icasa.ICA, fused=fused).train()
        setattr(layer.norm, name, value)
        for k in range(3):
            layer(X + k)
        norms.append(layer.norm)
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())


def test_a_norm_of_another_width_is_refused_as_by_pytorch(backend):
    for needs_grad in (True, False):
        layer = make(icasa.ICA, fused=None)
        layer.norm = nn.BatchNorm1d(4)
        with pytest.raises(RuntimeError, match="should contain 8 elements not 4"):
            layer.train(needs_grad)(X)


class Doubled(icasa.ICA):
    """Stands in for a branch."""

    def forward(self, x, lengths=None):
        return 2 * super().forward(x, lengths)


SWAPS = {
    r"SA with fused=True expected PlaneNorm as norm, got GroupNorm": (
        icasa.SA,
        lambda sa: setattr(sa, "norm", nn.GroupNorm(1, 4)),
    ),
    r"SA with fused=True expected norm with 4 groups of one channel, got PlaneNorm\(2, 4": (
        icasa.SA,
        lambda sa: setattr(sa.norm, "num_groups", 2),
    ),
    r"SA with fused=True expected norm without hooks": (icasa.SA, lambda sa: hook(sa.norm)),
    r"expected ICA as ica, got Doubled": (
        icasa.ICASA,
        lambda both: setattr(both, "ica", Doubled(8)),
    ),
    r"expected SA as sa, got Doubled": (icasa.ICASA, lambda both: setattr(both, "sa", Doubled(8))),
    r"ICASA with fused=True expected norm without hooks": (
        icasa.ICASA,
        lambda both: hook(both.sa.norm),
    ),
    r"ICASA with fused=True expected HSwish as act": (
        icasa.ICASA,
        lambda both: setattr(both.ica, "act", nn.ReLU()),
    ),
}


@pytest.mark.parametrize("message", SWAPS)
def test_a_replaced_or_hooked_branch_or_norm_is_called(message):
    cls, swap = SWAPS[message]
    layer = randomise(cls(8, groups=1))
    swap(layer)
    torch.testing.assert_close(insist(layer, None)(X), insist(layer, False)(X))
    with pytest.raises(ValueError, match=message):
        insist(layer, True)(X)


@pytest.mark.parametrize("branch", [icasa.ICA(4), icasa.ICA(16), icasa.SA(16)], ids=str)
def test_a_branch_for_other_channels_is_refused_as_by_its_own_check(branch):
    layer = make(icasa.ICASA, fused=None)
    setattr(layer, type(branch).__name__.lower(), branch)
    with pytest.raises(ValueError, match=f"{branch.channels}, H, W"):
        layer(X)
    layer.fused = True
    with pytest.raises(ValueError, match=r"ICASA with fused=True expected .* for 8 channels"):
        layer(X)


@pytest.mark.parametrize("size", [0, 8])
def test_a_beta_of_another_shape_reaches_no_kernel(size):
    layer = make(icasa.ICASA)
    layer.raw_beta = nn.Parameter(torch.full((size, 1, 1), 0.5))
    with pytest.raises(ValueError, match=rf"expected beta of shape \(1,\), got shape \({size}, 1"):
        layer(X)


def test_hooks_on_all_modules_are_run():
    for cls in (icasa.ICASA, icasa.SA):
        seen, layer = [], make(cls, fused=None)
        handle = nn.modules.module.register_module_forward_hook(
            lambda m, *_, seen=seen: seen.append(type(m).__name__)
        )
        try:
            layer(X)
        finally:
            handle.remove()
        assert "PlaneNorm" in seen


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (icasa.SA, "channel_weight"),
        (icasa.SA, "norm.weight"),
        (icasa.ICA, "norm.weight"),
        (icasa.SE, "excite.weight"),
        (icasa.ECA, "conv.weight"),
    ],
)
def test_a_pruned_parameter_is_that_of_its_module(cls, name, backend):
    layer = make(cls, fused=None)
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
    layer.fused = True
    with pytest.raises(ValueError, match=r"channel_weight .* got none|expected \w+ without hooks"):
        layer(X)


class Halved(icasa.ICA):
    """Has gates of its own."""

    def gates(self, x, lengths=None):
        return tuple(torch.full_like(gate, 0.5) for gate in super().gates(x, lengths))


def test_gates_that_were_overridden_are_applied(backend):
    layer = Halved(8).eval()
    torch.testing.assert_close(layer(X), X / 4)
    with pytest.raises(ValueError, match="expected the gates of ICA, got another on Halved"):
        insist(layer, True)(X)
    layer = make(icasa.SA, fused=None)
    layer.gates = lambda x, lengths=None: (torch.full_like(x, 0.5),)
    torch.testing.assert_close(layer(X).sort(1)[0], (X / 2).sort(1)[0])


@pytest.mark.parametrize("branch", ["ica", "sa"])
def test_a_branch_whose_forward_was_replaced_is_called(branch):
    layer = make(icasa.ICASA, fused=None)
    layer.get_submodule(branch).forward = lambda x, lengths=None: 0 * x
    torch.testing.assert_close(layer(X), insist(copy.deepcopy(layer), False)(X))
