"""Large numbers, infinity and NaN do what ``ops`` promises; so does a bias that changes."""

import copy
import inspect

import pytest
import torch

import icasa
from tests.kernels.test_exact import CLASSES, each_layout, each_mode, every_class, put_in
from tests.kernels.test_layers import insist, outcome
from tests.strategies import lay_out, randomise, seeded

INF, NAN = float("inf"), float("nan")
PLACES = {
    "pixel": (0, 3, 2, 3),
    "sample": (0,),
    "row": (slice(None), slice(None), 2),
    "channel": (slice(None), 5),
    "all": ...,
}
each_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)

pytestmark = pytest.mark.usefixtures("c_library", "reads_last")


def make(cls):
    """A layer for 16 channels, in two groups if it has any."""
    grouped = "groups" in inspect.signature(cls).parameters
    return cls(16, **({"groups": 2} if grouped else {}))


def cases(cls, mode, layout, place, value):
    """A fresh and a randomised layer with a map that has `value` in one place."""
    for seed in range(2):
        x, g = (torch.randn(2, 16, 5, 7, generator=seeded(seed + k)) for k in (0, 9))
        x[place] = value * (1 + x[place] / 8)
        torch.manual_seed(seed)
        layer = put_in(randomise(make(cls), seed) if seed else make(cls), mode)
        yield layer, lay_out(x, layout), lay_out(g, layout)


@pytest.mark.parametrize("value", [1e19, -1e19, 1e28, 1e36, -1e36])
@each_place
@each_layout
@each_mode
@every_class
def test_up_to_1e36_all_is_finite_that_float32_can_hold(cls, mode, layout, place, value):
    for layer, x, g in cases(cls, mode, layout, place, value):
        exact = outcome(insist(layer, False).double(), x.double(), g.double())
        for name, got in outcome(insist(layer, True), x, g).items():
            if "running" not in name:
                assert (got.isfinite() | ~exact[name].float().isfinite()).all(), name


@pytest.mark.parametrize("value", [INF, -INF, NAN])
@each_place
@each_layout
@each_mode
@every_class
def test_what_is_not_finite_reaches_what_it_does_in_plain_torch(cls, mode, layout, place, value):
    for layer, x, g in cases(cls, mode, layout, place, value):
        plain = outcome(insist(layer, False), x, g)
        for name, tensor in outcome(insist(layer, True), x, g).items():
            got, expected = tensor.isfinite(), plain[name].isfinite()
            if name == "dconv.weight" and cls is icasa.CBAM:
                # On some processors PyTorch multiplies the padding too, and NaN * 0 is NaN. The
                # middle of the kernel meets no padding.
                assert (got | ~expected).all()
                middle = tensor.shape[-1] // 2
                got, expected = got[..., middle, middle], expected[..., middle, middle]
            assert torch.equal(got, expected), name


@pytest.mark.parametrize("value", [INF, NAN])
@each_layout
@every_class
def test_a_sample_that_is_not_finite_changes_no_bit_of_the_others_in_evaluation(cls, layout, value):
    for layer, x, g in cases(cls, "eval", layout, PLACES["sample"], value):
        clean = x.clone()
        clean[0] = 0
        spoilt, right = (outcome(insist(layer, True), start, g) for start in (x, clean))
        for name in ("y", "dx"):
            assert torch.equal(spoilt[name][1], right[name][1]), name


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("training", [True, False])
def test_a_bias_may_change_between_forward_and_backward_as_in_plain_torch(cls, training):
    layer = randomise(make(cls)).train(training)
    x = torch.randn(2, 16, 5, 7, generator=seeded(0))
    gradients = []
    for fused, changed in ((True, False), (True, True), (False, True)):
        twin = insist(copy.deepcopy(layer), fused)
        leaf = x.clone().requires_grad_()
        y = twin(leaf)
        if changed:
            with torch.no_grad():
                for name, p in twin.named_parameters():
                    if name.endswith("bias"):
                        p.add_(1.0)
        y.square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in twin.parameters())])
    for untouched, got, plain in zip(*gradients, strict=True):
        assert torch.equal(untouched, got)
        torch.testing.assert_close(got, plain, rtol=1e-4, atol=1e-4)


@every_class
def test_a_weight_that_changes_between_forward_and_backward_is_refused(cls):
    layer = make(cls)
    y = layer(torch.randn(2, 16, 5, 7, requires_grad=True))
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize(("seed", "value"), [(71, -1e36), (179, -1e36), (503, -1e36), (564, 1e36)])
def test_a_gradient_whose_terms_are_past_float32_is_finite(seed, value):
    torch.manual_seed(seed)
    x, g = (torch.randn(2, 8, 5, 7, generator=seeded(k)) for k in (0, 9))
    x[PLACES["channel"]] = value * (1 + x[PLACES["channel"]] / 8)
    got = outcome(insist(icasa.ICA(8).train(), True), x, g)
    assert got["dreduce.pointwise.weight"].isfinite().all()
