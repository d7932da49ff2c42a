"""The operators `weigh`: torch's own checks of a registration, their laws, and their sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import icasa
from icasa.attention import _fused
from icasa.kernels import native, reference
from icasa.kernels.ops import ON_CPU, OPS
from tests.kernels.test_attend import operators
from tests.kernels.test_layers import insist, outcome
from tests.kernels.test_ops import draw, each_dtype, flat, strided
from tests.strategies import lay_out, randomise, seeded

SE = [(3, 12), (3,), (12, 3), (12,)]
PARAMETERS = {  # of the net, and of CBAM's convolution and norm
    "SE": (SE, []),
    "ECA": ([(1, 1, 5)], []),
    "CBAM": (SE, [(1, 2, 3, 3), (1,), (1,), (1,), (1,)]),
}
each_layer = pytest.mark.parametrize("layer", PARAMETERS)
each_case = pytest.mark.parametrize(
    ("layer", "training"), [*((name, False) for name in PARAMETERS), ("CBAM", True)]
)


def arguments(layer, dtype=torch.float32, *mode):
    """x and the parameters of a layer."""
    net, spatial = ([draw(shape, dtype) - 0.5 for shape in part] for part in PARAMETERS[layer])
    if spatial:
        spatial[-1] += 1.0  # a variance
    return draw((2, 12, 3, 5), dtype), net, spatial, 1e-5, *mode


def backward(x, net, spatial, *options):
    """What `weigh_backward` takes."""
    saved = OPS.weigh_forward(x, net, spatial, *options)[1]
    return draw(x.shape, x.dtype).flip(3), x, saved, net[::2], spatial[:2], *options


def tensors(values):
    return [t for t in flat(values) if isinstance(t, torch.Tensor)]


@each_case
@each_dtype
def test_each_passes_opcheck(layer, training, dtype, backend):
    given = arguments(layer, dtype, training)
    torch.library.opcheck(OPS.weigh.default, given[:-1])
    torch.library.opcheck(OPS.weigh_forward.default, given)
    torch.library.opcheck(OPS.weigh_backward.default, backward(*given))


@each_case
def test_any_strides_give_the_same_and_no_argument_is_changed(layer, training, backend):
    given = arguments(layer, torch.float32, training)
    calls = {"weigh": given[:-1], "weigh_forward": given, "weigh_backward": backward(*given)}
    for name, args in calls.items():
        before = [t.clone() for t in tensors(args)]
        saved = args[2] if name == "weigh_backward" else None  # is the backend's own
        other = [t if t is saved else strided(t) for t in args]
        outputs = [getattr(OPS, name)(*a) for a in (args, other)]
        pairs = zip(*(flat([o] if name == "weigh" else o) for o in outputs), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(args), strict=True)), name


@each_case
def test_the_c_computes_what_the_specification_does(layer, training, c_library):
    x, net, spatial, *options = given = arguments(layer, torch.float32, training)
    assert native.serves(x)
    y, saved, statistics = native.weigh_forward(*given)
    exact, exact_saved, exact_statistics = reference.weigh_forward(*given)
    torch.testing.assert_close(y, exact)
    torch.testing.assert_close(statistics, exact_statistics)
    g, weights = draw(x.shape, x.dtype).flip(3), (net[::2], spatial[:2])
    got = native.weigh_backward(g, x, saved, *weights, *options)
    exact = reference.weigh_backward(g, x, exact_saved, *weights, *options)
    for a, b in zip(flat(got), flat(exact), strict=True):
        torch.testing.assert_close(a, b)


@each_layer
def test_the_same_bits_with_the_dispatcher_and_without(layer):
    given = arguments(layer)
    assert torch.equal(ON_CPU.weigh(*given), OPS.weigh(*given))


def test_an_empty_batch_leaves_the_running_statistics():
    x, *rest = arguments("CBAM", torch.float32, True)
    y, _, statistics = OPS.weigh_forward(x[:0], *rest)
    assert y.shape == (0, *x.shape[1:])
    torch.testing.assert_close(statistics, torch.stack(rest[1][3:]))


def ties(x):
    """Maps with equal maxima: of planes, of positions, everywhere, and of zeros alone."""
    clipped = x.relu()
    clipped[:, :, 1] = 0
    doubled = x.clone()
    doubled[:, 1::2] = doubled[:, ::2]
    doubled[..., 1::2] = doubled[..., : doubled.shape[3] // 2]
    return {"relu": clipped, "pairs": doubled, "ones": torch.ones_like(x), "zeros": 0 * x}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["relu", "pairs", "ones", "zeros"])
@pytest.mark.parametrize("training", [True, False])
def test_equal_maxima_share_their_gradient_as_in_plain_torch(kind, training, dtype, backend):
    layer = randomise(icasa.CBAM(8, kernel_size=3, dtype=dtype), 3).train(training)
    with torch.no_grad():  # channels that are equal have equal gates
        layer.excite.weight[1::2] = layer.excite.weight[::2]
        layer.excite.bias[1::2] = layer.excite.bias[::2]
    x, g = (torch.randn(3, 8, 5, 6, generator=seeded(k)) for k in range(2))
    x, g = ties(x)[kind].to(dtype), g.to(dtype)
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    slack = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, got in outcome(insist(layer, True), x, g).items():
        want = exact[name].to(got.dtype)
        torch.testing.assert_close(got, want, rtol=slack, atol=slack, msg=name)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_what_is_not_finite_in_one_channel_is_seen_by_the_maps(value, kernel_size, c_library):
    layer = randomise(icasa.CBAM(8, kernel_size=kernel_size)).eval()
    x = torch.randn(2, 8, 5, 6, generator=seeded(0))
    x[0, 3, 2, 2], x[0, 4, 2, 2] = value, -value
    for name, got in outcome(insist(layer, True), x, torch.ones_like(x)).items():
        plain = outcome(insist(layer, False), x, torch.ones_like(x))[name]
        assert torch.equal(got.isfinite(), plain.isfinite()), name


@pytest.mark.parametrize(
    ("shape", "layout", "needs_grad", "served"),
    [
        ((1, 64, 3, 3), "contiguous", False, True),  # small
        ((64, 64, 3, 3), "contiguous", True, False),
        ((64, 64, 3, 3), "channels_last", True, False),
        ((64, 64, 3, 3), "channels_last", False, False),
        ((9, 64, 7, 9), "contiguous", True, True),
        ((9, 64, 7, 9), "contiguous", False, False),
        ((9, 64, 7, 9), "channels_last", False, True),
        ((9, 64, 8, 8), "contiguous", False, True),
    ],
)
def test_many_hidden_units_are_left_to_pytorch_where_planes_are_small(
    shape, layout, needs_grad, served, c_library
):
    layer, x = icasa.SE(64, reduction=4), lay_out(torch.randn(shape), layout)
    with torch.set_grad_enabled(needs_grad):
        assert bool(operators(layer, x)) == served


def test_a_map_left_to_pytorch_is_refused_before_the_layer_is_looked_at(monkeypatch, c_library):
    def gather(layer):
        raise AssertionError("the layer was looked at")

    monkeypatch.setattr(_fused, "gather", gather)
    layer = icasa.SE(64, reduction=4)
    layer(torch.randn(64, 64, 3, 3))
    with pytest.raises(AssertionError, match="looked at"):
        layer(torch.randn(1, 64, 3, 3))


# Run in a process of its own, which a write beyond its memory may end.
SCRIPT = """
import torch
from icasa.kernels.ops import OPS

N, C, H, W, M, K = 2, 16, 3, 5, 4, 3

def ones(shapes):
    return [torch.ones(shape) for shape in shapes]

SE, ECA = ones([(M, C), (M,), (C, M), (C,)]), ones([(1, 1, K)])
CBAM = ones([(1, 2, K, K), *[(1,)] * 4])

def run(net=SE, spatial=CBAM, training=None, weights=lambda *w: w, **change):
    x = change.get("x", torch.ones(N, C, H, W))
    training = bool(spatial) if training is None else training
    OPS.weigh(x, net, spatial, 1e-5)
    y, (saved,), _ = OPS.weigh_forward(x, net, spatial, 1e-5, training)
    given = weights(net[::2], spatial[:2])
    g, saved = change.get("g", y), change.get("saved", lambda s: s)(saved)
    OPS.weigh_backward(g, x, [saved], *given, 1e-5, training)

def changed(tensors, index, shape):
    return [torch.ones(shape) if i == index else p for i, p in enumerate(tensors)]

CASES = {
    **{f"net[{i}] of {shape}": dict(net=changed(SE, i, shape))
       for i in range(4) for shape in ((), (0,), (1,), (M, M), (C + 1,), (C, C), (M + 1, C))},
    **{f"taps of {shape}": dict(net=ones([shape]), spatial=[])
       for shape in ((), (0,), (3,), (1, 1, 0), (1, 1, 4), (1, 2, 3), (2, 1, 3))},
    **{f"spatial[{i}] of {shape}": dict(spatial=changed(CBAM, i, shape))
       for i in range(5) for shape in ((), (0,), (2,), (1, 2, 4, 4), (1, 2, 0, 0), (1, 2, 3, 5))},
    "taps before a convolution": dict(net=ECA),
    "no hidden units": dict(net=ones([(0, C), (0,), (C, 0), (C,)])),
    "no parameters": dict(net=[]),
    "too few": dict(net=SE[:3]),
    "too few of the norm": dict(spatial=CBAM[:4]),
    "weights alone": dict(net=SE[::2]),
    "biases too": dict(weights=lambda net, spatial: (SE, spatial)),
    "the bias of the norm too": dict(weights=lambda net, spatial: (net, CBAM[:3])),
    "training without a norm": dict(spatial=[], training=True),
    "one value in training": dict(x=torch.ones(1, C, 1, 1)),
    "other channels": dict(x=torch.ones(N, C + 1, H, W)),
    "a map of three axes": dict(x=torch.ones(N, C, H)),
    "integer parameters": dict(net=[p.int() for p in SE]),
    "integer taps": dict(net=[p.int() for p in ECA], spatial=[]),
    "an integer convolution": dict(spatial=[p.int() for p in CBAM]),
    "another g": dict(g=torch.ones(N, C, H, W + 1)),
    "g in another type": dict(g=torch.ones(N, C, H, W, dtype=torch.bfloat16)),
    "a short vector": dict(saved=lambda saved: saved[:-1].clone()),
    "a vector in float64": dict(saved=lambda saved: saved.double()),
}
run(), run(SE, []), run(ECA, []), run(training=False)
for name, arguments in CASES.items():
    print(name, flush=True)
    try:
        run(**arguments)
    except ValueError as error:
        assert "expected" in str(error) and "got" in str(error) and "; " in str(error), error
    else:
        raise AssertionError(f"{name} was taken")
print("all refused")
"""


def test_what_does_not_fit_is_a_value_error_and_no_crash(c_library):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    assert done.stdout.endswith("all refused\n")


def test_gates_that_float64_rounds_to_1_are_equal_maxima(c_library):
    layer = icasa.CBAM(2).eval()
    with torch.no_grad():
        layer.excite.weight.zero_()
        layer.excite.bias.copy_(torch.tensor([18.4, 18.8]))  # gates of 1 - 1e-16 and 1 - 5e-17
    x, g = torch.ones(1, 2, 1, 1), torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    exact = outcome(insist(layer, False).double(), x.double(), g.double())["dx"]
    torch.testing.assert_close(outcome(insist(layer, True), x, g)["dx"], exact.float())
