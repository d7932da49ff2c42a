"""Fused layers against the eager ones: values, gradients, statistics, precision, memory."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import icasa
from tests.strategies import LAYOUTS, SEEDS, lay_out, randomise, seeded

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA, icasa.SE, icasa.ECA, icasa.CBAM)
OPTIONS = {
    "CA": {"reduction": (32, 1)},
    "ICA": {"norm": (True, False), "kernel_size": (1, 3)},
    "SA": {"groups": (1, 2, 3, 6), "shuffle": (True, False)},
    "ICASA": {
        "groups": (1, 4, 3),
        "norm": (True, False),
        "shuffle": (True, False),
        "bounded": (True, False),
        "residual": (True, False),
    },
    "SE": {"reduction": (16, 4, 1)},
    "ECA": {"kernel_size": (None, 1, 5)},
    "CBAM": {"reduction": (16, 4), "kernel_size": (1, 3, 7)},
}
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def combinations(cls):
    options = OPTIONS[cls.__name__]
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


def insist(layer, fused):
    """A copy of a layer and its branches on one path."""
    twin = copy.deepcopy(layer)
    for module in twin.modules():
        if hasattr(module, "fused"):
            module.fused = fused
    return twin


def outcome(layer, x, g):
    """Output, every gradient and every buffer after a step of `layer` on a copy of x."""
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    y.backward(g)
    gradients = {f"d{name}": p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients, **dict(layer.named_buffers())}


def numbers(shape, seed, dtype=torch.float32, offset=0.0):
    """A map and an incoming gradient."""
    x, g = (torch.randn(shape, generator=seeded(seed + k), dtype=torch.float64) for k in (0, 1))
    return (x + offset).to(dtype), g.to(dtype)


def distances(values, exact):
    """Distance in L2 by name, relative to the exact tensor unless that is small."""
    return {
        name: ((value.double() - exact[name]).norm() / (exact[name].norm() + 1.0)).item()
        for name, value in values.items()
        if value.is_floating_point()
    }


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_class
@given(data=st.data(), seed=SEEDS)
def test_equals_eager_in_value_gradients_and_statistics(cls, training, data, seed):
    layer = cls(24, dtype=torch.float64, **data.draw(st.sampled_from(combinations(cls))))
    randomise(layer, seed).train(training)
    sizes = [data.draw(st.sampled_from(s)) for s in ((2, 3), (1, 2, 7, 17), (1, 5, 33))]
    x, g = numbers((sizes[0], 24, *sizes[1:]), seed, torch.float64)
    expected = outcome(insist(layer, False), x, g)
    for name, value in outcome(insist(layer, True), x, g).items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: name + text)


def learned(cls, seed, training, offset, **options):
    """A layer for maps at an offset, and such a map with an incoming gradient."""
    layer = randomise(cls(24, **options), seed)
    x, g = numbers((3, 24, 17, 33), seed, offset=offset)
    for name, p in layer.named_parameters():
        if name.endswith("channel_weight"):
            p.data /= 1 + offset  # else a gate is 0 or 1, with no gradient
    teacher = insist(layer, False).double()
    for norm in teacher.modules():
        norm.momentum = 1.0
    teacher(x.double())  # its running statistics are now those of x
    layer.load_state_dict(teacher.state_dict())
    return layer.train(training), x, g


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_class
def test_learning_in_c_is_within_2e_6_behind_a_norm_that_knows_the_maps(
    cls, training, offset, c_library
):
    for seed, options in enumerate(o for o in combinations(cls) if o.get("norm", True)):
        layer, x, g = learned(cls, seed, training, offset, **options)
        exact = outcome(insist(layer, False).double(), x.double(), g.double())
        for name, distance in distances(outcome(insist(layer, True), x, g), exact).items():
            # The derivative g (1 - g) of a gate near 1 is known by few digits; the gradient of beta
            # is one sum over all elements, whose terms cancel.
            allowed = {"y": 1e-6, "dx": 1e-6, "draw_beta": 5e-6}.get(name, 2e-6)
            assert distance <= allowed, f"{name}, {options}"


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_class
def test_learning_is_as_exact_as_eager(cls, training, offset, backend):
    # Without a norm gates are 0 or 1 at an offset of 1000.
    for seed, options in enumerate(combinations(cls)):
        layer, x, g = learned(cls, seed, training, offset, **options)
        exact = outcome(insist(layer, False).double(), x.double(), g.double())
        eager = distances(outcome(insist(layer, False), x, g), exact)
        fused = distances(outcome(insist(layer, True), x, g), exact)
        for name, distance in fused.items():
            behind = cls is not icasa.SA and (offset or name not in ("y", "dx"))
            allowed = 1e-5 + 3 * eager[name] if behind else 2e-6
            assert distance <= allowed, f"{name}, {options}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@every_class
def test_evaluation_in_c_is_within_1e_6_behind_a_norm_that_knows_the_maps(
    cls, offset, layout, c_library
):
    for seed, options in enumerate(combinations(cls)):
        layer = randomise(cls(24, **options), seed)
        x, _ = numbers((3, 24, 17, 33), seed, offset=offset)
        teacher = insist(layer, False).double()
        for norm in teacher.modules():
            norm.momentum = 1.0
        teacher(x.double())  # its running statistics are now those of x
        layer.load_state_dict(teacher.state_dict())
        with torch.no_grad():
            got = insist(layer.eval(), True)(lay_out(x, layout))
            exact = insist(layer, False).double()(x.double())
        assert (got - exact).norm() <= 1e-6 * exact.norm(), options


@pytest.mark.parametrize(
    ("dtype", "offset"),
    [(torch.bfloat16, 0.0), (torch.bfloat16, 1000.0), (torch.float16, 0.0)],
    ids=str,
)
@every_class
def test_half_types_are_within_4e_3_in_c_and_round_no_more_than_eager(cls, dtype, offset, backend):
    layer = randomise(cls(24), 1).to(dtype)
    x, g = numbers((3, 24, 17, 33), 2, dtype, offset)
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    eager = distances(outcome(insist(layer, False), x, g), exact)
    fused = distances(outcome(insist(layer, True), x, g), exact)
    for name in fused if backend == "c" else ("y", "dx"):
        assert fused[name] < max(4e-3, 0.0 if backend == "c" else eager[name]), name


@pytest.mark.parametrize("layout", LAYOUTS)
@every_class
def test_another_layout_gives_the_same_in_its_memory_format(cls, layout, backend):
    x, g = (lay_out(t, layout) for t in numbers((2, 24, 5, 7), 0))
    layer = randomise(cls(24, fused=True))
    expected = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    results = []
    for start in (x, x.contiguous()):
        leaf = start.detach().requires_grad_()
        y = layer(leaf)
        results.append((y, *torch.autograd.grad(y, leaf, g)))
    for mine, plain in zip(*results, strict=True):
        assert torch.equal(mine, plain) or layout == "channels_last"  # summed in another order
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-5)
        assert mine.is_contiguous(memory_format=expected)


@every_class
def test_saves_little_more_than_the_input(cls, backend):
    layer, x = randomise(cls(32, fused=True)), torch.randn(2, 32, 19, 100, requires_grad=True)
    storages = {}
    parameters = {p.untyped_storage().data_ptr() for p in layer.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    saved = sum(size for pointer, size in storages.items() if pointer not in parameters)
    assert x.nbytes <= saved <= 1.3 * x.nbytes


@pytest.mark.parametrize("power", [1, 2])
@every_class
def test_a_second_derivative_is_refused(cls, power, backend):
    layer, x = cls(24, fused=True), torch.randn(2, 24, 3, 4, requires_grad=True)
    y = layer(x.sin()).pow(power).sum()
    with pytest.raises(RuntimeError, match=r"second derivative, .*; build .* fused=False"):
        torch.autograd.grad(y, x, create_graph=True)
    torch.autograd.grad(y, x, retain_graph=True)
    torch.autograd.grad(y, x)


def test_running_statistics_in_half_precision_stay_as_finite_as_eager(backend):
    seen = []
    for fused in (True, False):
        layer = randomise(icasa.ICA(16, fused=fused)).half()
        torch.nn.init.constant_(layer.reduce.pointwise.weight, 10.0)
        torch.nn.init.constant_(layer.reduce.depthwise.weight, 2.0)
        layer.norm.reset_running_stats()
        layer((8 * torch.randn(2, 16, 6, 7, generator=seeded(0))).half())
        seen.append(layer.norm.running_var)
    assert (seen[0] > 6000).all()  # so the batch's own variance is past what float16 holds
    torch.testing.assert_close(*seen, rtol=0.02, atol=0.0)


@every_class
def test_repeats_itself_bit_for_bit(cls, backend):
    layer = randomise(cls(24, fused=True))
    x, g = numbers((5, 24, 33, 65), 0)
    first = outcome(insist(layer, True), x, g)
    for name, value in outcome(insist(layer, True), x, g).items():
        assert torch.equal(value, first[name]), name


@every_class
def test_gradients_equal_differences_in_float64(cls):
    layer = randomise(cls(8, fused=True, dtype=torch.float64))
    x = torch.randn(2, 8, 2, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *parameters):
        parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, parameters, (x,))

    assert torch.autograd.gradcheck(call, (x, *layer.parameters()))
