"""A layer as one operator: its values against the modules, its gradients, and who takes it."""

import copy

import pytest
import torch

import icasa
from icasa.kernels import OPS, native
from tests.kernels.test_layers import insist
from tests.strategies import randomise, seeded

CLASSES = (icasa.ICA, icasa.SA, icasa.ICASA)
PARTS = ["moments", "mix"]  # what a layer puts together around its own modules
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


def operators(layer, x=X):
    """Names of the operators that a forward reaches."""
    with torch.profiler.profile() as profile:
        layer(x)
    own = [event.name for event in profile.events() if event.name.startswith("icasa::")]
    return [name.removeprefix("icasa::") for name in own]


def takes_it(layer, x=X):
    """Whether a forward is the operator of evaluation."""
    return operators(layer, x) == ["attend"]


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
        got, exact = layer(x), insist(layer, False).double()(x.double())
        modules = insist(layer, False)(x)
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
def test_is_one_operator_also_where_it_learns_if_in_c(cls, body):
    layer, learns = make(cls), ["attend_forward"] if body == "c" else ["moments", "mix"]
    assert operators(layer) == operators(layer.train()) == learns
    with torch.no_grad():
        assert takes_it(layer.eval())
        # SA has no state, while ICA's norm takes the statistics of the batch.
        assert operators(layer.train()) == (["attend"] if cls is icasa.SA else learns)
        assert operators(make(cls, fused=False)) == []
        assert takes_it(make(cls, fused=None)) == (body == "c")
    with torch.inference_mode():
        assert takes_it(layer.eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("learns", [False, True], ids=["eval", "train"])
@every_class
def test_takes_float32_parameters_as_they_are_under_autocast(cls, learns, dtype, body):
    layer, x = make(cls).train(learns), X.to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    with torch.set_grad_enabled(learns), torch.autocast("cpu", torch.bfloat16):
        one = ["attend_forward"] if learns else ["attend"]
        assert operators(copy.deepcopy(layer), x) == (one if body == "c" or not learns else PARTS)
        y = layer(x)
    assert y.dtype == dtype
    slack = 1e-6 if dtype == torch.float32 and one == operators(layer, X) else 1e-2
    assert (y - exact).norm() <= slack * exact.norm()


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


def only_in_c():
    if native.LIBRARY is None:
        pytest.skip("the C kernels were not compiled at installation")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("parts", ["ica", "sa", "ica sa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_operators_that_learn_pass_opcheck(parts, dtype, training):
    only_in_c()
    shapes = [(12, 1, 3), (12,), (8, 12, 1), (8,), *[(12, 8, 1), (12,)] * 2, *[(8,)] * 4]
    coordinate, shuffle = ([draw(s, dtype) for s in sizes] for sizes in (shapes, [(2,)] * 6))
    x, beta = draw((2, 12, 3, 5), dtype), draw((1,), dtype) if parts == "ica sa" else None
    ica, sa = coordinate if "ica" in parts else [], shuffle if "sa" in parts else []
    options = (3 * ("sa" in parts), "sa" in parts, True, training)
    forward = (x, ica, sa, beta, 1e-5, 1e-5, *options)
    torch.library.opcheck(OPS.attend_forward.default, forward)
    _, kept, _ = OPS.attend_forward(*forward)
    backward = (x, x, kept, ica[:10], sa, beta, *options)
    torch.library.opcheck(OPS.attend_backward.default, backward)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("channels", "shape", "options"), CASES)
@every_class
def test_what_is_kept_fills_its_room_and_no_more(
    cls, channels, shape, options, training, monkeypatch
):
    only_in_c()
    x, rooms, right = torch.randn(shape[0], channels, *shape[1:]), [], native.empty_kept

    def poisoned(*layer):
        kept, statistics = right(*layer)
        rooms.append((kept.new_full((len(kept) + 99,), float("nan")), len(kept)))
        return rooms[0][0], statistics

    monkeypatch.setattr(native, "empty_kept", poisoned)
    make(cls, channels, **options).train(training)(x)
    ((room, size),) = rooms
    assert not room[:size].isnan().any()
    assert room[size:].isnan().all()


@every_class
def test_the_threads_and_the_other_samples_change_no_bit(cls):
    only_in_c()
    layer, x = make(cls, 16), torch.randn(16, 16, 40, 33, generator=seeded(5))
    outcomes, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            layer.zero_grad()
            layer(leaf).square().sum().backward()
            with torch.no_grad():
                y = layer(x)
                few = torch.cat([layer(part) for part in x.split(3)])
            outcomes.append([leaf.grad, y, *(p.grad.clone() for p in layer.parameters())])
            assert torch.equal(y, few)
    finally:
        torch.set_num_threads(threads)
    for other in outcomes[1:]:
        for value, same in zip(outcomes[0], other, strict=True):
            assert torch.equal(value, same)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_read_and_rounded_as_torch_does(dtype):
    only_in_c()
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    finite = every[every.isfinite()]
    x = torch.stack((finite, finite.flip(0)))[None, :, None].contiguous()
    layer = icasa.SA(2, groups=1, shuffle=False, fused=True, dtype=dtype)
    for bias, share in ((100.0, 1.0), (0.0, 0.5), (-1.0, torch.tensor(-1.0).sigmoid())):
        layer.channel_bias.data.fill_(bias)
        with torch.no_grad():
            y = layer(x)
        assert torch.equal(y[:, 0], (x[:, 0].float() * share).to(dtype))
    flushed = torch.set_flush_denormal(True)
    try:
        y = layer(x)
        torch.testing.assert_close(y[:, 0], (x[:, 0].float() * share).to(dtype), rtol=0, atol=1e-7)
    finally:
        torch.set_flush_denormal(not flushed)
    x[..., 0] = float("nan")
    assert layer(x)[0, 0].isnan().all()
    x[..., 0] = float("inf")
    assert layer(x)[0, 0, 0, 0].isnan()
