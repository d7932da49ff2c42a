"""A layer as one operator: its values against the modules, its gradients, and who takes it."""

import copy
import inspect

import pytest
import torch

import icasa
from tests.kernels.test_layers import distances, insist, outcome
from tests.strategies import randomise, seeded

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA, icasa.SE, icasa.ECA, icasa.CBAM)
WEIGHED = (icasa.SE, icasa.ECA, icasa.CBAM)  # the others are computed by `attend`
STATELESS = (icasa.SA, icasa.SE, icasa.ECA)  # the others have a BatchNorm
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
X = torch.randn(2, 8, 3, 5, generator=seeded(0))
CASES = [  # channels, shape, options
    (16, (1, 19, 100), {}),
    (24, (2, 1, 33), {"kernel_size": 5, "groups": 3}),
    (32, (3, 31, 1), {"kernel_size": 1, "norm": False}),
    (64, (1, 56, 56), {"groups": 8, "reduction": 3}),
    (128, (2, 7, 65), {"reduction": 2, "groups": 1}),
    (72, (1, 35, 4), {"reduction": 2, "groups": 1, "kernel_size": 63}),
    (10, (1, 2, 3), {"kernel_size": 9, "groups": 1}),
    (12, (1, 3, 300), {"groups": 3}),  # more columns than are summed at a time
    (16, (7, 60, 70), {}),  # more samples than are worked on at a time
]


def operators(layer, x=X):
    """Names of the operators that a forward reaches."""
    with torch.profiler.profile() as profile:
        layer(x)
    own = [event.name for event in profile.events() if event.name.startswith("icasa::")]
    return [name.removeprefix("icasa::") for name in own]


def own(layer):
    """The operators that compute a layer in evaluation and with gradients."""
    name = "weigh" if isinstance(layer, WEIGHED) else "attend"
    return [name], [f"{name}_forward"]


def takes_it(layer, x=X):
    """Whether a forward is the operator of evaluation."""
    return operators(layer, x) == own(layer)[0]


def make(cls, channels=8, fused=True, dtype=torch.float32, **options):
    allowed = inspect.signature(cls).parameters
    options = {k: v for k, v in options.items() if k in allowed}
    return randomise(cls(channels, fused=fused, dtype=dtype, **options)).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "shape", "options"), CASES)
@every_class
def test_computes_what_the_modules_do(cls, channels, shape, options, dtype, backend):
    layer = make(cls, channels, dtype=dtype, **options)
    x = torch.randn(shape[0], channels, *shape[1:], generator=seeded(1)).to(dtype)
    with torch.no_grad():
        assert takes_it(layer, x)
        got, exact = layer(x), insist(layer, False).double()(x.double())
        modules = insist(layer, False)(x)
    slack = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 4e-3}[dtype]
    distance = (got - exact).norm() / exact.norm()
    assert distance <= slack
    assert distance <= slack / 2 + (modules - exact).norm() / exact.norm()


@pytest.mark.parametrize(("channels", "shape", "options"), CASES)
@every_class
def test_learns_what_the_modules_do(cls, channels, shape, options, c_library):
    layer = make(cls, channels, **options).train()
    x, g = (torch.randn(shape[0], channels, *shape[1:], generator=seeded(k)) for k in (1, 2))
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    for name, distance in distances(outcome(layer, x, g), exact).items():
        assert distance <= 2e-6, name


@every_class
def test_is_one_operator_also_with_gradients(cls, backend):
    layer = make(cls)
    evaluation, needs_grad = own(layer)
    assert operators(layer) == operators(layer.train()) == needs_grad
    with torch.no_grad():
        assert takes_it(layer.eval())
        # A BatchNorm takes the statistics of the batch.
        assert operators(layer.train()) == (evaluation if cls in STATELESS else needs_grad)
        assert operators(make(cls, fused=False)) == []
        assert takes_it(make(cls, fused=None)) == (backend == "c")
    with torch.inference_mode():
        assert takes_it(layer.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["eval", "train"])
@every_class
def test_takes_float32_parameters_as_they_are_under_autocast(cls, needs_grad, dtype, backend):
    layer, x = make(cls).train(needs_grad), X.to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.set_grad_enabled(needs_grad), torch.autocast("cpu", torch.bfloat16):
        assert operators(copy.deepcopy(layer), x) == own(layer)[needs_grad]
        y = layer(x)
    assert y.dtype == dtype
    slack = 1e-6 if dtype == torch.float32 else 1e-2
    assert (y - exact).norm() <= slack * exact.norm()


def test_reads_the_running_statistics_and_the_parameters_of_the_moment(backend):
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

    def note(graph, example):
        graphs.append(str(graph.code))
        return graph

    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend=note)
        torch.testing.assert_close(compiled(X), layer(X))
    assert [f"icasa.{own(layer)[0][0]}" in code for code in graphs] == [True]
