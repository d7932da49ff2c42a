"""CA, ICA, SA and ICASA on maps in channels_last: what `ops` promises holds there as on planes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import icasa
from icasa.kernels import native
from icasa.kernels.ops import OPS
from tests.kernels import law, test_ops, test_range
from tests.kernels.test_exact import LOUDEST, layers_and_maps, put_in
from tests.kernels.test_layers import insist, outcome
from tests.strategies import lay_out, randomise, seeded

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
READS_LAST = native.reads_last
each_mode = pytest.mark.parametrize("mode", ["eval", "train", "frozen"])
each_place = pytest.mark.parametrize(
    "place", test_range.PLACES.values(), ids=list(test_range.PLACES)
)

if native.LIBRARY is None:
    pytest.skip("the C kernels were not compiled at installation", allow_module_level=True)


def last(x):
    return lay_out(x, "channels_last")


@pytest.fixture(autouse=True)
def any_number_of_channels(monkeypatch):
    monkeypatch.setattr(native, "reads_last", lambda *_: True)


@pytest.fixture
def no_copies(monkeypatch):
    def refuse(*_):
        raise AssertionError("expected no copy to another memory format, got one")

    monkeypatch.setattr(native.LIBRARY, "icasa_transpose", refuse)


def test_maps_of_few_channels_are_copied():
    read = {(c, groups): READS_LAST(c, groups) for c in (8, 16, 32, 64) for groups in (0, 1, 4, 8)}
    assert {sizes for sizes, yes in read.items() if not yes} == {
        (8, 0),
        (8, 1),
        (8, 4),
        (8, 8),
        (16, 1),
        (16, 4),
        (16, 8),
        (32, 8),
    }


@every_class
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", native.TYPES, ids=str)
def test_is_read_and_written_as_it_lies(cls, training, dtype, no_copies):
    layer = randomise(cls(24, fused=True, dtype=dtype)).train(training)
    x, g = (last(torch.randn(3, 24, 5, 7, generator=seeded(k)).to(dtype)) for k in (0, 1))
    with torch.no_grad():
        ys = [insist(layer, True)(x)]
    x.requires_grad_()
    ys.append(layer(x))
    for t in (*ys, *torch.autograd.grad(ys[1], x, g)):
        assert t.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*ys)


@pytest.mark.parametrize("dtype", LOUDEST, ids=str)
@each_mode
@every_class
@given(data=st.data())
def test_every_output_and_gradient_holds_the_law(cls, mode, dtype, data):
    layer, inputs = data.draw(layers_and_maps(cls, mode, dtype))
    inputs = inputs._replace(x=last(inputs.x), g=last(inputs.g))
    assert law.breaches(layer, inputs) == {}


@pytest.mark.parametrize(
    ("channels", "shape", "options"),
    [
        (7, (3, 5, 6), {}),
        (8, (2, 60, 70), {"groups": 2}),
        (40, (1, 33, 300), {"groups": 5}),
        (64, (2, 35, 3), {"groups": 1}),
        (128, (1, 1, 66), {"groups": 4}),
        (32, (3, 66, 1), {"groups": 4, "shuffle": False}),
    ],
)
@each_mode
@every_class
def test_any_size_holds_the_law(cls, mode, channels, shape, options):
    if not hasattr(cls(8), "groups") and cls is not icasa.ICASA:
        options = {}
    elif channels % 2:
        return
    layer = put_in(randomise(cls(channels, **options), 1), mode)
    for kind in ("noise", "loud row", "loud pixel of every plane"):
        inputs = law.draw(kind, 1e4, (shape[0], channels, *shape[1:]), torch.float32, 0)
        inputs = inputs._replace(x=last(inputs.x), g=last(inputs.g))
        assert law.breaches(layer, inputs) == {}, kind


@pytest.mark.parametrize("value", [1e28, 1e36, -1e36])
@each_place
@each_mode
@every_class
def test_up_to_1e36_all_is_finite_that_float32_can_hold(cls, mode, place, value):
    for layer, x, g in test_range.cases(cls, mode, place, value):
        exact = outcome(insist(layer, False).double(), x.double(), g.double())
        for name, got in outcome(insist(layer, True), last(x), last(g)).items():
            if "running" not in name:
                assert (got.isfinite() | ~exact[name].float().isfinite()).all(), name


@pytest.mark.parametrize("value", [test_range.INF, -test_range.INF, test_range.NAN])
@each_place
@each_mode
@every_class
def test_what_is_not_finite_reaches_what_it_does_in_plain_torch(cls, mode, place, value):
    for layer, x, g in test_range.cases(cls, mode, place, value):
        plain = outcome(insist(layer, False), x, g)
        for name, got in outcome(insist(layer, True), last(x), last(g)).items():
            assert torch.equal(got.isfinite(), plain[name].isfinite()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{"groups": 1}, {"groups": 3}, {"groups": 4}], ids=str)
@every_class
def test_threads_and_other_samples_change_no_bit(cls, options, dtype):
    layer = randomise(cls(24, dtype=dtype, **(options if cls in CLASSES[2:] else {})))
    x, g = (last(torch.randn(5, 24, 30, 33, generator=seeded(k)).to(dtype)) for k in (0, 1))
    assert x[:3].numel() >= native.PARALLEL
    outcomes, threads = {}, torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for training in (True, False):
                found = outcome(insist(layer, True).train(training), x, g)
                for name, value in found.items():
                    assert torch.equal(outcomes.setdefault((training, name), value), value), name
            alone = [
                outcome(insist(layer, True).eval(), *parts)
                for parts in zip(x.split(3), g.split(3), strict=True)
            ]
            for name in ("y", "dx"):
                assert torch.equal(torch.cat([one[name] for one in alone]), outcomes[False, name])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@test_ops.each_part
@test_ops.each_dtype
def test_the_operators_pass_opcheck(parts, dtype, training, backend):
    x, *layer = test_ops.arguments(parts, dtype, training)
    x = last(x)
    torch.library.opcheck(OPS.attend.default, (x, *layer[:-1]))
    torch.library.opcheck(OPS.attend_forward.default, (x, *layer))
    g, *rest = test_ops.backward((x, *layer))
    for gradient in (g, last(g)):
        torch.library.opcheck(OPS.attend_backward.default, (gradient, *rest))
