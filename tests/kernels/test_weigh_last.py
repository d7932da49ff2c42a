"""SE, ECA and CBAM of maps in channels_last, which the C reads as they lie: the laws of `ops`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import icasa
from icasa.kernels import native
from icasa.kernels.ops import OPS
from tests.kernels import law
from tests.kernels.test_exact import LOUDEST, put_in
from tests.kernels.test_layers import OPTIONS, insist, outcome
from tests.kernels.test_range import PLACES
from tests.kernels.test_weigh import backward, ties
from tests.strategies import SEEDS, lay_out, randomise, seeded

CLASSES = (icasa.SE, icasa.ECA, icasa.CBAM)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_mode = pytest.mark.parametrize("mode", ["eval", "train", "frozen"])
each_dtype = pytest.mark.parametrize("dtype", LOUDEST, ids=str)
LAST = torch.channels_last

pytestmark = pytest.mark.usefixtures("c_library")


def lay_out_last(*tensors):
    return [lay_out(t, "channels_last") for t in tensors]


def last(inputs):
    """The same inputs in channels_last."""
    x, g = lay_out_last(inputs.x, inputs.g)
    return inputs._replace(x=x, g=g)


@st.composite
def layers_and_maps(draw, cls, mode, dtype):
    options = {name: draw(st.sampled_from(o)) for name, o in OPTIONS[cls.__name__].items()}
    sizes = [draw(st.sampled_from(s)) for s in ((1, 2, 5), (2, 3, 17, 40, 130), (1, 2, 7, 20, 33))]
    shape = (*sizes, draw(st.sampled_from((1, 5, 33, 70))))
    layer = randomise(cls(shape[1], dtype=dtype, **options), draw(SEEDS))
    kind, power = (
        draw(st.sampled_from(sorted(law.DISTURBANCES))),
        draw(st.floats(0, LOUDEST[dtype])),
    )
    if mode == "train" and shape[0] * shape[2] * shape[3] == 1:
        mode = "frozen"  # a BatchNorm has no statistics of one value
    return put_in(layer, mode), law.draw(kind, 10**power, shape, dtype, draw(SEEDS))


@each_dtype
@each_mode
@every_class
@given(data=st.data())
def test_every_output_and_gradient_holds_the_law(cls, mode, dtype, data):
    layer, inputs = data.draw(layers_and_maps(cls, mode, dtype))
    assert law.breaches(layer, last(inputs)) == {}


@pytest.mark.parametrize("kind", sorted(law.DISTURBANCES))
@each_mode
@every_class
def test_each_disturbance_holds_the_law(cls, mode, kind):
    for seed, strength in enumerate((1e2, 1e5, 1e9)):
        layer = put_in(randomise(cls(32), seed), mode)
        inputs = law.draw(kind, strength, (2, 32, 20, 50), torch.float32, seed)
        assert law.breaches(layer, last(inputs)) == {}, strength


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (1, 17, 1, 40), (3, 600, 5, 1), (9, 24, 40, 33)])
@each_dtype
@each_mode
@every_class
def test_agrees_with_what_planes_give(cls, mode, dtype, shape):
    layer = put_in(randomise(cls(shape[1], dtype=dtype)), "frozen" if shape[3] == 1 else mode)
    inputs = law.draw("noise", 1.0, shape, dtype, 0)
    planes = outcome(insist(layer, True), inputs.x, inputs.g)
    slack = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for name, got in outcome(insist(layer, True), *last(inputs)[:2]).items():
        unit = planes[name].abs().max().item() if name not in ("y", "dx") else 1.0
        torch.testing.assert_close(got, planes[name], rtol=slack, atol=slack * unit, msg=name)


@pytest.mark.parametrize("shape", [(1, 16, 60, 40), (3, 70, 21, 33), (17, 24, 13, 20)])
@each_dtype
@each_mode
@every_class
def test_threads_and_gradients_change_no_bit(cls, mode, dtype, shape):
    layer = put_in(randomise(cls(shape[1], dtype=dtype), 3), mode)
    inputs = last(law.draw("loud row", 100.0, shape, dtype, 3))
    assert inputs.x.numel() >= native.PARALLEL
    outcomes, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outcomes.append(outcome(insist(layer, True), inputs.x, inputs.g))
            with torch.no_grad():
                assert torch.equal(insist(layer, True)(inputs.x), outcomes[0]["y"])
    finally:
        torch.set_num_threads(threads)
    for other in outcomes[1:]:
        for name, value in other.items():
            assert torch.equal(value, outcomes[0][name]), name


def cases(cls, mode, place, value):
    """A fresh and a randomised layer with a map that has `value` in one place."""
    for seed in range(2):
        x, g = (torch.randn(2, 16, 5, 7, generator=seeded(seed + k)) for k in (0, 9))
        x[place] = value * (1 + x[place] / 8)
        torch.manual_seed(seed)
        layer = cls(16)
        yield put_in(randomise(layer, seed) if seed else layer, mode), *lay_out_last(x, g)


@pytest.mark.parametrize("value", [1e19, 1e36, -1e36])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@each_mode
@every_class
def test_up_to_1e36_all_is_finite_that_float32_can_hold(cls, mode, place, value):
    for layer, x, g in cases(cls, mode, place, value):
        exact = outcome(insist(layer, False).double(), x.double(), g.double())
        for name, got in outcome(insist(layer, True), x, g).items():
            if "running" not in name:
                assert (got.isfinite() | ~exact[name].float().isfinite()).all(), name


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@each_mode
@every_class
def test_what_is_not_finite_reaches_what_it_does_in_plain_torch(cls, mode, place, value):
    for layer, x, g in cases(cls, mode, place, value):
        plain = outcome(insist(layer, False), x, g)
        for name, got in outcome(insist(layer, True), x, g).items():
            assert torch.equal(got.isfinite(), plain[name].isfinite()), name


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@every_class
def test_a_sample_that_is_not_finite_changes_no_bit_of_the_others_in_evaluation(cls, value):
    for layer, x, g in cases(cls, "eval", PLACES["sample"], value):
        clean = x.clone()
        clean[0] = 0
        spoilt, right = (outcome(insist(layer, True), start, g) for start in (x, clean))
        for name in ("y", "dx"):
            assert torch.equal(spoilt[name][1], right[name][1]), name


class WithoutCopies:
    """The library, whose copies between memory formats are refused."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        assert name != "icasa_transpose", "a map was copied"
        return getattr(self.library, name)


@pytest.mark.parametrize("channels", [2, 16])
@every_class
def test_is_read_and_returned_as_it_lies(cls, channels, monkeypatch):
    layer = randomise(cls(channels, fused=True))
    planes = torch.randn(2, 2, channels, 5, 7)
    monkeypatch.setattr(native, "LIBRARY", WithoutCopies(native.LIBRARY))
    result = outcome(layer, *lay_out_last(*planes))
    assert result["y"].is_contiguous(memory_format=LAST)
    assert result["dx"].is_contiguous(memory_format=LAST)
    with pytest.raises(AssertionError, match="a map was copied"):
        outcome(layer, *lay_out_last(planes[0]), planes[1])  # a gradient in another format


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["relu", "pairs", "ones", "zeros"])
@pytest.mark.parametrize("training", [True, False])
def test_equal_maxima_share_their_gradient_as_in_plain_torch(kind, training, dtype):
    layer = randomise(icasa.CBAM(16, kernel_size=3, dtype=dtype), 3).train(training)
    with torch.no_grad():  # channels that are equal have equal gates
        layer.excite.weight[1::2] = layer.excite.weight[::2]
        layer.excite.bias[1::2] = layer.excite.bias[::2]
    x, g = (torch.randn(3, 16, 5, 6, generator=seeded(k)) for k in range(2))
    x, g = lay_out_last(ties(x)[kind].to(dtype), g.to(dtype))
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    slack = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, got in outcome(insist(layer, True), x, g).items():
        want = exact[name].to(got.dtype)
        torch.testing.assert_close(got, want, rtol=slack, atol=slack, msg=name)


CASES = [("SE", False), ("ECA", False), ("CBAM", False), ("CBAM", True)]


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "training"), CASES)
def test_the_operators_pass_opcheck_and_return_channels_last(name, training, dtype, channels):
    layer = randomise(getattr(icasa, name)(channels, dtype=dtype))
    parts = [layer.conv] if name == "ECA" else [layer.squeeze, layer.excite]
    net, spatial = [p.detach() for part in parts for p in part.parameters()], []
    if name == "CBAM":
        norm = layer.norm
        spatial = [layer.conv.weight.detach(), *(p.detach() for p in norm.parameters())]
        spatial += [norm.running_mean, norm.running_var]
    x = torch.randn(2, channels, 3, 5, generator=seeded(9), dtype=dtype)
    forward = lay_out(x, "channels_last"), net, spatial, 1e-5, training
    torch.library.opcheck(OPS.weigh.default, forward[:-1])
    torch.library.opcheck(OPS.weigh_forward.default, forward)
    g, *rest = backward(*forward)
    for gradient in (*lay_out_last(g), g):
        torch.library.opcheck(OPS.weigh_backward.default, (gradient, *rest))
        assert OPS.weigh_backward(gradient, *rest)[0].is_contiguous(memory_format=LAST)
    assert OPS.weigh(*forward[:-1]).is_contiguous(memory_format=LAST)
