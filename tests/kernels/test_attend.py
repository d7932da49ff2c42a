"""Evaluation as one operator: its values against the modules, and who takes it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import icasa
from icasa.kernels import OPS
from tests.strategies import randomise, seeded

CLASSES = (icasa.ICA, icasa.SA, icasa.ICASA)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
X = torch.randn(2, 8, 3, 5, generator=seeded(0))
CASES = [  # channels, shape, options
    (16, (1, 19, 100), {}),
    (24, (2, 1, 33), {"kernel_size": 5, "groups": 3}),
    (32, (3, 31, 1), {"kernel_size": 1, "norm": False}),
    (64, (1, 56, 56), {"groups": 8, "reduction": 3}),
    (128, (2, 7, 65), {"reduction": 2, "groups": 1}),
    (10, (1, 2, 3), {"kernel_size": 9, "groups": 1}),
    (12, (1, 3, 300), {"groups": 3}),  # more columns than are summed at a time
    (16, (7, 60, 70), {}),  # more samples than are worked on at a time
]


class Calls(TorchDispatchMode):
    """Counts the calls of the operator."""

    count = 0

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        self.count += call is OPS.attend.default
        return call(*args, **(kwargs or {}))


def takes_it(layer, x=X):
    """Whether a forward reaches the operator."""
    with Calls() as calls:
        layer(x)
    return calls.count == 1


def make(cls, channels=8, fused=True, dtype=torch.float32, **options):
    allowed = ("groups",) if cls is icasa.SA else ("kernel_size", "norm", "reduction", "groups")
    allowed = allowed[:3] if cls is icasa.ICA else allowed
    options = {k: v for k, v in options.items() if k in allowed}
    return randomise(cls(channels, fused=fused, dtype=dtype, **options)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "shape", "options"), CASES)
@every_class
def test_computes_what_the_modules_do(cls, channels, shape, options, dtype, body):
    layer = make(cls, channels, dtype=dtype, **options)
    x = torch.randn(shape[0], channels, *shape[1:], generator=seeded(1)).to(dtype)
    with torch.no_grad():
        assert takes_it(layer, x)
        got, exact = layer(x), copy.deepcopy(layer).double()(x.double())
    modules = layer(x)  # with gradients
    slack = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 4e-3}[dtype]
    distance = (got - exact).norm() / exact.norm()
    assert distance <= slack
    assert distance <= slack / 2 + (modules - exact).norm() / exact.norm()


def draw(shape, dtype):
    return torch.rand(shape, generator=seeded(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("parts", ["ica", "sa", "ica sa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_passes_opcheck(parts, dtype, body):
    shapes = [(12, 1, 3), (12,), (8, 12, 1), (8,), *[(12, 8, 1), (12,)] * 2, *[(8,)] * 4]
    coordinate, shuffle = ([draw(s, dtype) for s in sizes] for sizes in (shapes, [(2,)] * 6))
    x, beta = draw((2, 12, 3, 5), dtype), draw((1,), dtype) if parts == "ica sa" else None
    lists = (coordinate if "ica" in parts else [], shuffle if "sa" in parts else [])
    options = (beta, 1e-5, 1e-5, 3 * ("sa" in parts), True, True)
    torch.library.opcheck(OPS.attend.default, (x, *lists, *options))
    strided, *apart = (
        [torch.stack((t, -t), -1)[..., 0] for t in tensors] for tensors in ([x], *lists)
    )
    got, wanted = OPS.attend(*strided, *apart, *options), OPS.attend(x, *lists, *options)
    assert torch.equal(got, wanted)


@every_class
def test_is_for_evaluation_without_gradients(cls, body):
    layer = make(cls)
    assert not takes_it(layer)
    with torch.no_grad():
        assert takes_it(layer)
        assert takes_it(layer.train()) == (cls is icasa.SA)  # which has no state
        with torch.autocast("cpu", torch.bfloat16):
            assert not takes_it(layer.eval())
        assert not takes_it(make(cls, fused=False))
        assert takes_it(make(cls, fused=None)) == (body == "c")
    with torch.inference_mode():
        assert takes_it(layer)


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


@pytest.mark.parametrize("rebuild", REBUILDS.values(), ids=REBUILDS)
def test_a_rebuilt_layer_calls_its_own_modules(rebuild):
    ica = make(icasa.ICA)
    rebuild(ica)
    ica.eval()
    x = torch.randn(2, ica.channels, 3, 5, generator=seeded(4))
    eager = copy.deepcopy(ica)
    eager.fused = False
    with torch.no_grad():
        assert not takes_it(ica, x)
        torch.testing.assert_close(ica(x), eager(x))


def test_reads_the_running_statistics_and_the_parameters_of_the_moment(body):
    layer = make(icasa.ICASA)
    with torch.no_grad():
        before = layer(X)
        layer.ica.norm.running_mean += 1
        moved = layer(X)
        assert takes_it(layer)
        assert not torch.allclose(before, moved)
        torch.testing.assert_close(moved, copy.deepcopy(layer).double()(X.double()).float())
        changed = {"sa.channel_bias": layer.sa.channel_bias + 1}
        assert not torch.allclose(torch.func.functional_call(layer, changed, (X,)), moved)


@every_class
def test_compiles_into_one_graph_in_evaluation(cls):
    torch._dynamo.reset()
    layer, graphs = make(cls), []

    def backend(graph, example):
        graphs.append(str(graph.code))
        return graph

    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend=backend)
        torch.testing.assert_close(compiled(X), layer(X))
    assert ["icasa.attend" in code for code in graphs] == [True]
