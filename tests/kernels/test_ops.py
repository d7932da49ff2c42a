"""The operators themselves: torch's own checks of a registration, and their laws."""

import pytest
import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from icasa.kernels import native, reference
from icasa.kernels.ops import ON_CPU, OPS, operators
from tests.strategies import seeded

PARTS = ("ica", "sa", "ica sa")
each_part = pytest.mark.parametrize("parts", PARTS)
modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def draw(shape, dtype):
    return torch.rand(shape, generator=seeded(sum(shape)), dtype=torch.float64).to(dtype)


def arguments(parts, dtype, *mode):
    """x and a layer of the parts "ica", "sa" or both, as the operators take them."""
    shapes = [(12, 1, 3), (12,), (8, 12, 1), (8,), *[(12, 8, 1), (12,)] * 2, *[(8,)] * 4]
    ica, sa = ([draw(s, dtype) for s in sizes] for sizes in (shapes, [(2,)] * 6))
    for p in ica[:11]:
        p -= 0.5  # all positive they would close no gate; the last is a variance
    x, beta = draw((2, 12, 3, 5), dtype), draw((1,), dtype) if parts == "ica sa" else None
    ica, sa = ica if "ica" in parts else [], sa if "sa" in parts else []
    return x, ica, sa, beta, 1e-5, 1e-5, 3 * bool(sa), bool(sa), True, *mode


def backward(forward):
    """What `attend_backward` takes, for these arguments of `attend_forward`."""
    x, ica, sa, *rest = forward
    _, saved, _ = OPS.attend_forward(*forward)
    return draw(x.shape, x.dtype).flip(3), x, saved, ica[:10:2], sa[::2], *rest


def flat(outputs):
    return [t for o in outputs for t in (o if isinstance(o, list) else [o])]


@each_part
@each_dtype
def test_attend_passes_opcheck(parts, dtype, backend):
    torch.library.opcheck(OPS.attend.default, arguments(parts, dtype))


@modes
@each_part
@each_dtype
def test_forward_and_backward_pass_opcheck(parts, dtype, training, backend):
    forward = arguments(parts, dtype, training)
    torch.library.opcheck(OPS.attend_forward.default, forward)
    torch.library.opcheck(OPS.attend_backward.default, backward(forward))


def strided(value):
    if isinstance(value, list):
        return [strided(t) for t in value]
    return torch.stack((value, -value), -1)[..., 0] if isinstance(value, torch.Tensor) else value


@modes
@each_part
def test_any_strides_give_the_same(parts, training, backend):
    forward = arguments(parts, torch.float32, training)
    calls = {
        "attend": forward[:-1],
        "attend_forward": forward,
        "attend_backward": backward(forward),
    }
    for name, given in calls.items():
        operator = getattr(OPS, name)
        if name == "attend_backward":  # saved is the backend's own
            other = [*map(strided, given[:2]), given[2], *map(strided, given[3:])]
        else:
            other = [*map(strided, given)]
        outputs = [operator(*args) for args in (given, other)]
        pairs = zip(*(flat([o] if name == "attend" else o) for o in outputs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


@modes
@each_part
def test_the_arguments_are_not_changed(parts, training, backend):
    forward = arguments(parts, torch.float32, training)
    given = backward(forward)
    before = [t.clone() for t in flat(given) if isinstance(t, torch.Tensor)]
    OPS.attend_forward(*forward)
    OPS.attend_backward(*given)
    after = [t for t in flat(given) if isinstance(t, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@modes
@each_part
def test_the_c_computes_what_the_specification_does(parts, training, c_library):
    forward = arguments(parts, torch.float32, training)
    assert native.serves(*forward[:2])
    y, saved, statistics = native.attend_forward(*forward)
    exact, exact_saved, exact_statistics = reference.attend_forward(*forward)
    torch.testing.assert_close(y, exact)
    torch.testing.assert_close(statistics, exact_statistics)
    x, ica, sa, *rest = forward
    given, rest = (draw(x.shape, x.dtype).flip(3), x), (ica[:10:2], sa[::2], *rest)
    got = native.attend_backward(*given, saved, *rest)
    exact = reference.attend_backward(*given, exact_saved, *rest)
    unit = max(t.norm() for t in flat(exact)) / 10  # of a gradient whose terms cancel
    for a, b in zip(flat(got), flat(exact), strict=True):
        assert (a - b).norm() <= 1e-5 * (b.norm() + unit)


def test_an_empty_batch_leaves_the_running_statistics():
    x, ica, *rest = arguments("ica", torch.float32, True)
    y, _, statistics = OPS.attend_forward(x[:0], ica, *rest)
    assert y.shape == (0, *x.shape[1:])
    torch.testing.assert_close(statistics, torch.stack(ica[10:]))


def test_what_watches_operators_sees_them_called():
    x = torch.rand(2, 12, 5, 7)
    assert operators(x) is ON_CPU
    with torch.profiler.profile():
        assert operators(x) is OPS
    for mode in (FlopCounterMode(display=False), BaseTorchFunctionMode()):
        with mode:
            assert operators(x) is OPS
    assert operators(x.to("meta")) is OPS
    assert operators(x.as_subclass(type("Own", (torch.Tensor,), {}))) is OPS


@each_part
def test_the_same_bits_with_the_dispatcher_and_without(parts):
    given = arguments(parts, torch.float32)
    assert torch.equal(ON_CPU.attend(*given), OPS.attend(*given))
