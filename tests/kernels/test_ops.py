"""The operators themselves: torch's own checks of a registration, and their laws."""

import pytest
import torch

from icasa.kernels import OPS
from tests.strategies import seeded

N, C, H, W = 2, 12, 3, 5


def draw(*shape, dtype, seed):
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def gates(parts, groups, dtype):
    """The gates of `mix` for the parts "ica", "sa" or both, and its options."""
    small = torch.float64 if dtype == torch.float64 else torch.float32
    shapes = [(N, C, H), (N, C, W), (1,), *[(N, C // 2)] * 4]
    given = ["ica" in parts] * 2 + [parts == "ica sa"] + ["sa" in parts] * 4
    drawn = [
        draw(*shape, dtype=small, seed=k) if use else None
        for k, (shape, use) in enumerate(zip(shapes, given, strict=True))
    ]
    return (*drawn, groups, True, True)


def given(moments):
    """What `moments_backward` takes after x, with the moments as their own gradients."""
    z_h, z_w, s, mean, lost, var = moments
    return z_h, z_w, s, mean, var, mean, lost


@pytest.mark.parametrize("parts", ["ica", "sa", "ica sa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_pass_opcheck(parts, dtype, body):
    groups = 3 if "sa" in parts else 0
    x, g = (draw(N, C, H, W, dtype=dtype, seed=k) for k in (8, 9))
    options = ("ica" in parts, groups)
    moments = OPS.moments(x, *options)
    mixing = gates(parts, groups, dtype)
    for name, arguments in {
        "moments": (x, *options),
        "mix": (x, *mixing),
        "mix_backward": (g, x, *mixing),
        "moments_backward": (g, x, *given(moments), *options),
    }.items():
        torch.library.opcheck(getattr(OPS, name), arguments)


@pytest.mark.parametrize("shape", [(0, 12, 3, 5), (2, 12, 1, 1), (1, 12, 17, 64), (3, 12, 1, 129)])
def test_moments_are_means_and_a_centred_variance(shape, body):
    x = torch.randn(shape, generator=seeded(0)) + 1000
    z_h, z_w, s, mean, lost, var = OPS.moments(x, True, 3)
    exact = x.double()
    torch.testing.assert_close(z_h.double(), exact.mean(3), rtol=3e-7, atol=0)
    torch.testing.assert_close(z_w.double(), exact.mean(2), rtol=3e-7, atol=0)
    split = exact.unflatten(1, (3, 2, 2))
    first, second = (split[:, :, half].flatten(1, 2) for half in (0, 1))
    torch.testing.assert_close(s.double(), first.mean((2, 3)), rtol=3e-7, atol=0)
    torch.testing.assert_close(mean.double(), second.mean((2, 3)), rtol=3e-7, atol=0)
    exactly = mean.double() + lost  # float32 is 3e-5 apart at 1000
    torch.testing.assert_close(exactly, second.mean((2, 3)), rtol=0, atol=1e-6)
    variance = (second - second.mean((2, 3), keepdim=True)).square().mean((2, 3))
    torch.testing.assert_close(var.double(), variance, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", ["ica", "sa", "ica sa"])
def test_backward_reads_what_it_is_given_and_writes_anew(parts, body):
    groups = 3 if "sa" in parts else 0
    x, g = (draw(N, C, H, W, dtype=torch.float32, seed=k) for k in (8, 9))
    mixing = gates(parts, groups, torch.float32)
    moments = OPS.moments(x, "ica" in parts, groups)
    before = x.clone(), g.clone()
    OPS.mix_backward(g, x, *mixing)
    OPS.moments_backward(g, x, *given(moments), "ica" in parts, groups)
    assert torch.equal(x, before[0])
    assert torch.equal(g, before[1])


@pytest.mark.parametrize("parts", ["ica", "sa", "ica sa"])
def test_any_strides_give_the_same(parts, body):
    groups = 3 if "sa" in parts else 0
    x, g = (draw(N, C, H, W, dtype=torch.float32, seed=k) for k in (8, 9))
    *given, groups, shuffle, residual = gates(parts, groups, torch.float32)
    strided = [t if t is None else torch.stack((t, -t), -1)[..., 0] for t in (g, x, *given)]
    wanted = OPS.mix_backward(g, x, *given, groups, shuffle, residual)
    for got, value in zip(
        OPS.mix_backward(*strided, groups, shuffle, residual), wanted, strict=True
    ):
        assert torch.equal(got, value)


def test_the_gradient_of_the_variance_is_of_values_about_the_exact_mean(body):
    x, dx = (draw(N, C, H, W, dtype=torch.float32, seed=k) for k in (8, 9))
    ds, dmean, dvar, mean, lost = (
        draw(N, C // 2, dtype=torch.float32, seed=k) for k in range(5)
    )  # lost is as large as mean
    got = OPS.moments_backward(dx, x, *[torch.empty(0)] * 2, ds, dmean, dvar, mean, lost, False, 3)
    halves = torch.stack((ds, dmean), 1).unflatten(2, (3, 2)).movedim(1, 2).flatten(1, 3)
    wanted = dx + halves[..., None, None] / (H * W)
    spatial = wanted.unflatten(1, (3, 2, 2))[:, :, 1].flatten(1, 2)  # a copy
    centred = x.unflatten(1, (3, 2, 2))[:, :, 1].flatten(1, 2) - (mean + lost)[..., None, None]
    spatial += 2 / (H * W) * dvar[..., None, None] * centred
    wanted.unflatten(1, (3, 2, 2))[:, :, 1] = spatial.unflatten(1, (3, 2))
    torch.testing.assert_close(got, wanted)
