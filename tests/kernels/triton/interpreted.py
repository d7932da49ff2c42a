"""Run by test_interpreter.py under TRITON_INTERPRET=1: launches on CPU tensors against float64.

What they are compared with is `reference` in float64, and its gradients by autograd. Every tensor
that a launch allocates begins as NaN, so an element that no program wrote shows.
"""

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from icasa.kernels import reference
from icasa.kernels.triton import gates as triton_gates
from icasa.kernels.triton import mix as triton_mix
from icasa.kernels.triton import moments as triton_moments
from icasa.kernels.triton import ops as triton_ops

SHAPES = [(2, 8, 5, 12), (3, 8, 1, 7), (1, 8, 3, 5), (1, 4, 40, 33), (1, 4, 13, 100)]
GROUPS = [2, 4, 1, 2, 1]
CASES = list(zip(SHAPES, GROUPS, strict=True))
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MIXING = ("g_h", "g_w", "beta", "gate", "a", "b")

sizes = pytest.mark.parametrize(("shape", "groups"), CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def nan_filled_memory():
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def numbers(*shape, seed=0, offset=0.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64) + offset
    return x.to(dtype)


def agree(name, got, want, tolerance=3e-6):
    """Equal to one unit in the last place, and to the rounding of the float32 sums."""
    assert got.shape == want.shape, name
    got, ulp = got.double(), torch.finfo(got.dtype).eps
    allowed = ulp * want.abs() + tolerance * want.abs().max()
    assert ((got - want).abs() <= allowed).all(), (name, (got - want).abs().max(), want.abs().max())


def make_gates(shape, parts):
    N, C, H, W = shape
    gates = [torch.sigmoid(numbers(N, C, L, seed=L)) for L in (H, W)] + [torch.tensor([0.3])]
    gates += [torch.sigmoid(numbers(N, C // 2)), *(numbers(N, C // 2, seed=s) for s in (5, 6))]
    for i, part in enumerate(("ica", "ica", "both", "sa", "sa", "sa")):
        if parts not in ("both", part):
            gates[i] = None
    return gates


def exact(tensors):
    return [None if t is None else t.double().requires_grad_() for t in tensors]


@sizes
@each_dtype
@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("axes", [True, False])
def test_moments_and_their_backward(shape, groups, dtype, offset, axes):
    area = shape[2] * shape[3]
    x = numbers(*shape, offset=offset, dtype=dtype)
    got = triton_moments.moments(x, axes, groups)
    x64 = x.double().requires_grad_()
    want = reference.moments(x64, True, groups)
    want = [*want[:4], want[5]]
    *_, mean, mean_lo, var = got
    pairs = list(zip(("z_h", "z_w", "s", "mean", "var"), (*got[:4], var), want, strict=True))
    for name, g, w in pairs if axes else pairs[2:]:
        agree(name, g, w.detach())
    assert (mean.double() + mean_lo - want[3]).abs().max() < 1e-6  # float32 is 6e-5 apart at 1000
    assert axes or got[0].numel() == got[1].numel() == 0
    dx = numbers(*shape, seed=1, dtype=dtype)
    grads = [numbers(*w.shape, seed=i) * area**0.5 for i, w in enumerate(want)]
    given = grads if axes else [torch.empty(0), torch.empty(0), *grads[2:]]
    got_dx = triton_moments.moments_backward(dx, x, *given, mean, mean_lo, axes, groups)
    start = 0 if axes else 2
    (dx64,) = torch.autograd.grad(want[start:], x64, [g.double() for g in grads[start:]])
    agree("dx", got_dx, dx.double() + dx64, 1e-6)


def test_moments_of_ica_alone():
    x = numbers(2, 3, 5, 12)  # an odd number of channels
    z_h, z_w, *rest = triton_moments.moments(x, True, 0)
    agree("z_h", z_h, x.double().mean(3))
    agree("z_w", z_w, x.double().mean(2))
    assert [t.numel() for t in rest] == [0, 0, 0, 0]
    dx, empty = numbers(2, 3, 5, 12, seed=1), torch.empty(0)
    dz_h, dz_w = numbers(2, 3, 5), numbers(2, 3, 12)
    got = triton_moments.moments_backward(dx, x, dz_h, dz_w, *[empty] * 5, True, 0)
    agree("dx", got, (dx + dz_h[..., None] / 12 + dz_w[:, :, None] / 5).double())


@sizes
@each_dtype
@pytest.mark.parametrize(
    ("parts", "shuffle", "residual", "offset"),
    [
        ("both", True, False, 0.0),
        ("both", False, True, 1000.0),
        ("both", True, True, 1000.0),
        ("ica", False, False, 0.0),
        ("sa", True, False, 1000.0),
        ("sa", False, False, 0.0),
        ("sa", True, True, 0.0),
    ],
)
def test_mix_and_its_backward(shape, groups, dtype, parts, shuffle, residual, offset):
    x = numbers(*shape, offset=offset, dtype=dtype)
    g = numbers(*shape, seed=1, dtype=dtype)
    gates = make_gates(shape, parts)
    groups = 0 if parts == "ica" else groups
    mean = reference.moments(x.double(), False, groups)[3].float() if groups else None
    options = (groups, shuffle, residual)
    x64, *gates64 = exact([x, *gates])
    want = reference.mix(x64, *gates64, None if mean is None else mean.double(), *options)
    agree("y", triton_mix.mix(x, *gates, mean, *options), want.detach())
    got = triton_mix.mix_backward(g, x, *gates, mean, *options)
    given = [t for t in gates64 if t is not None]
    grads = iter(torch.autograd.grad(want, [x64, *given], g.double()))
    agree("dx", got[0], next(grads), 1e-5)
    for name, gate, grad in zip(MIXING, gates, got[1:], strict=True):
        if gate is None:
            assert grad.numel() == 0, name
        else:
            agree(f"d{name}", grad, next(grads), 3e-5)


def coordinate_parameters(channels, width, taps, norm):
    C, M, K = channels, width, taps
    shapes = [(C, 1, K), (C,), (M, C, 1), (M,), (C, M, 1), (C,), (C, M, 1), (C,)]
    parameters = [0.5 * numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    if norm:
        parameters += [numbers(M, seed=i) for i in (10, 11, 12)] + [numbers(M, seed=13).exp()]
    return parameters


@pytest.mark.parametrize(("width", "taps", "norm"), [(8, 3, True), (20, 5, False), (8, 1, True)])
@pytest.mark.parametrize("parts", ["both", "ica", "sa"])
def test_gates(width, taps, norm, parts):
    N, C, H, W, groups = 2, 12, 5, 19, 3
    s, mean, mean_lo, var = (numbers(N, C // 2, seed=seed) for seed in (0, 3, 2, 1))
    p = coordinate_parameters(C, width, taps, norm) if parts != "sa" else []
    q = [numbers(C // (2 * groups), seed=i) for i in range(6)] if parts != "ica" else []
    empty = torch.empty(0)
    axes = (numbers(N, C, H), numbers(N, C, W)) if p else (empty, empty)
    planes = (s, mean, mean_lo, var.exp()) if q else [empty] * 4
    means, beta = [*axes, *planes], torch.tensor([0.3])
    got = triton_gates.gates(means, p, q, beta, 1e-3, 1e-2, groups if q else 0)
    means64 = [t.double() for t in means]
    want, _ = reference.gates(means64, p, q, beta, 1e-3, 1e-2, False)
    for name, g, w in zip((*MIXING, "mean"), got, want, strict=True):
        assert (g is None) == (w is None), name
        if g is not None:
            agree(name, g, w.double(), 1e-5)


def layer(shape, groups, parts, training):
    """A map, the lists of its parameters, and the other arguments of `attend_forward`."""
    x = numbers(*shape, offset=30.0)
    p = coordinate_parameters(shape[1], 8, 3, True) if parts != "sa" else []
    q = [numbers(shape[1] // (2 * groups), seed=i) for i in range(6)] if parts != "ica" else []
    beta = torch.tensor([0.3]) if parts == "both" else None
    return x, p, q, beta, 1e-3, 1e-2, groups if q else 0, bool(q), True, training


@sizes
@pytest.mark.parametrize("parts", ["both", "ica", "sa"])
def test_attend(shape, groups, parts):
    *given, _ = layer(shape, groups, parts, False)
    x, *others = given
    want = reference.attend(x.double(), *others)
    agree("y", triton_ops.attend(x, *others), want, 1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", ["both", "ica", "sa"])
def test_attend_forward_and_backward(parts, training):
    x, p, q, *others = layer((2, 8, 5, 12), 2, parts, training)
    y, saved, statistics = triton_ops.attend_forward(x, p, q, *others)
    exact = reference.attend_forward(x.double(), p, q, *others)
    agree("y", y, exact[0], 1e-5)
    if statistics.numel():
        agree("statistics", statistics, exact[2], 1e-5)
    g = numbers(*x.shape, seed=1)
    got = triton_ops.attend_backward(g, x, saved, p[:10:2], q[::2], *others)
    want = reference.attend_backward(g.double(), x.double(), exact[1], p[:10:2], q[::2], *others)
    agree("dx", got[0], want[0], 1e-5)
    for name, mine, theirs in zip(("dica", "dsa"), got[1:3], want[1:3], strict=True):
        unit = max([t.abs().max() for t in theirs], default=0)
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            assert (a - b).abs().max() <= 1e-4 * unit, (name, i)
    if parts == "both":
        agree("dbeta", got[3], want[3], 1e-4)


@pytest.mark.parametrize("parts", ["both", "ica", "sa"])
def test_a_map_and_a_gradient_in_channels_last_give_the_same_bits(parts):
    x, p, q, *others = layer((2, 8, 5, 12), 2, parts, False)
    results = []
    for format_ in (torch.contiguous_format, torch.channels_last):
        x, g = (t.contiguous(memory_format=format_) for t in (x, numbers(*x.shape, seed=1)))
        y, saved, _ = triton_ops.attend_forward(x, p, q, *others)
        results.append((y, triton_ops.attend_backward(g, x, saved, p[:10:2], q[::2], *others)[0]))
    for last, first in zip(*results, strict=True):
        assert torch.equal(last, first)


@sizes
@pytest.mark.parametrize("v", [1e4, 1e9])
@pytest.mark.parametrize("loud", ["row", "column", "pixel", "sample"])
def test_a_loud_part_leaves_the_moments_of_the_rest_as_they_are(shape, groups, loud, v):
    x = numbers(*shape)
    place = {"row": (..., 0, slice(None)), "column": (..., 0), "pixel": (..., 0, 0), "sample": 0}
    x[place[loud]] = v * (1 + x[place[loud]] / 8)
    got = triton_moments.moments(x, True, groups)
    want = reference.moments(x.double(), True, groups)
    for name, g, w in zip(("z_h", "z_w"), got, want, strict=False):
        if loud == "sample":
            g, w = g[1:], w[1:]
        elif (loud, name) not in (("row", "z_w"), ("column", "z_h")):
            g, w = g[..., 1:], w[..., 1:]
        if g.numel():
            agree(name, g, w, 1e-6)
    *_, mean, mean_lo, var = got
    agree("mean", mean.double() + mean_lo, want[3], 1e-6)
    agree("var", var, want[5], 1e-6)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinity_and_nan_reach_their_own_row_column_and_plane_alone(value):
    x = numbers(2, 8, 5, 12)
    x[0, 0, 0, 0] = value
    z_h, z_w, *planes = triton_moments.moments(x, True, 2)
    for lines in (z_h, z_w):
        expected = torch.full_like(lines, False, dtype=torch.bool)
        expected[0, 0, 0] = True
        assert torch.equal(~lines.isfinite(), expected)
    assert [int((~t.isfinite()).sum()) for t in planes] == [1, 0, 0, 0]  # of the channel half
    assert planes[0][0, 0].isnan() == (value != value)


def test_saved_moments_of_another_size_are_refused():
    x, p, q, *rest = layer((2, 8, 5, 12), 2, "both", False)
    _, saved, _ = triton_ops.attend_forward(x, p, q, *rest)
    weights = p[:10:2], q[::2]
    triton_ops.attend_backward(x, x, saved, *weights, *rest)
    for i in range(6):
        changed = [*saved[:i], torch.ones(3), *saved[i + 1 :]]
        with pytest.raises(ValueError, match=rf"expected saved\[{i}\] of shape .*, got .*; pass"):
            triton_ops.attend_backward(x, x, changed, *weights, *rest)
