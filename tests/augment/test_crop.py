"""RandomCrop: a stretch of the sample at its start, zeros behind it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icasa.augment import RandomCrop
from tests.strategies import LAYOUTS, SEEDS, lay_out, seeded


def ramp(n, *shape):
    """Every sample holds 1, 2, ..., W along its last axis, in all rows."""
    return torch.arange(1.0, shape[-1] + 1).expand(n, *shape).clone()


@given(
    st.integers(0, 6),
    st.sampled_from([(1,), (7,), (3, 8), (1, 3, 20)]),
    st.floats(0.01, 1),
    st.booleans(),
    SEEDS,
)
def test_a_crop_is_a_stretch_of_the_valid_part_and_then_zeros(n, shape, p, padded, seed):
    width = shape[-1]
    lengths = torch.randint(1, width + 1, (n,), generator=seeded(seed)) if padded else None
    x = ramp(n, *shape)
    out, kept = RandomCrop(min_fraction=p)(x, lengths, generator=seeded(seed), return_lengths=True)
    assert out.shape == x.shape
    for i in range(n):
        size = width if lengths is None else lengths[i].item()
        length = kept[i].item()
        row = out[i].reshape(-1, width)
        assert math.ceil(p * size - 1e-4) <= length <= size
        start = row[0, 0].item()
        assert 1 <= start <= size - length + 1
        want = torch.arange(start, start + length)
        assert torch.equal(row[:, :length], want.expand(len(row), -1))
        assert not row[:, length:].any()


def test_length_and_start_are_uniform():
    out, kept = RandomCrop(min_fraction=0.5)(
        ramp(7000, 8), generator=seeded(0), return_lengths=True
    )
    counts = kept.bincount(minlength=9)[4:].float()
    assert ((counts - 1400) ** 2 / 1400).sum() < 18.5  # p = 0.001 at 4 degrees of freedom
    starts = (out[kept == 4, 0] - 1).long().bincount(minlength=5).float()
    assert ((starts - starts.mean()) ** 2 / starts.mean()).sum() < 18.5


def test_identity_in_eval_and_when_all_is_kept():
    x, g = torch.randn(4, 2, 9), seeded(0)
    out, kept = RandomCrop().eval()(x, generator=g, return_lengths=True)
    assert out is x
    assert kept.tolist() == [9] * 4
    assert torch.equal(g.get_state(), seeded(0).get_state())
    assert torch.equal(RandomCrop(min_fraction=1)(x), x)


def test_the_generator_alone_governs_the_draw():
    a, b, c = (RandomCrop()(ramp(9, 50), generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtype_and_layout_stay(dtype, layout):
    x = torch.randn(4, 3, 5, 8, generator=seeded(1)).to(dtype)
    crop = RandomCrop(min_fraction=0.5)
    laid_out = lay_out(x, layout)
    got = crop(laid_out, generator=seeded(2))
    assert got.dtype == dtype
    assert torch.equal(got, crop(x, generator=seeded(2)))
    if layout in ("contiguous", "channels_last"):
        assert got.stride() == laid_out.stride()


def test_what_is_kept_gets_a_gradient_of_one():
    x = ramp(4, 3, 20).requires_grad_()
    out = RandomCrop(min_fraction=0.5)(x, generator=seeded(1))
    out.sum().backward()
    for row, grad in zip(out.detach(), x.grad, strict=True):
        assert torch.equal(grad[0].nonzero()[:, 0] + 1, row[0][row[0] != 0].long())
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("lengths", [None, torch.tensor([20, 3, 5, 1])])
def test_it_compiles_without_a_graph_break(lengths):
    crop, outs = RandomCrop(min_fraction=0.3), []
    x = torch.randn(4, 1, 3, 20)
    for f in (torch.compile(crop, fullgraph=True, backend="eager"), crop):
        torch.manual_seed(0)
        outs.append(f(x, lengths))
    assert torch.equal(*outs)
    torch._dynamo.reset()


@pytest.mark.parametrize("fraction", [0, 1.1, float("nan")])
def test_the_fraction_is_checked_at_construction(fraction):
    with pytest.raises(ValueError, match=r"min_fraction to be a number in \[0.001, 1\], got"):
        RandomCrop(min_fraction=fraction)


@pytest.mark.parametrize(
    ("x", "lengths", "message"),
    [
        (torch.zeros(4), None, r"RandomCrop expected .* \(N, \*, W\), got torch.float32 \(4,\); "),
        (torch.zeros(4, 9).int(), None, r"got torch.int32 \(4, 9\); call x.float\(\)"),
        (torch.zeros(2, 9), torch.tensor([0, 9]), r"expected lengths in 1..9"),
        (torch.zeros(2, 9), torch.tensor([9]), r"expected lengths of shape \(2,\)"),
    ],
)
def test_errors_say_what_was_expected_and_got(x, lengths, message):
    with pytest.raises(ValueError, match=message):
        RandomCrop()(x, lengths)


def test_a_generator_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"expected generator on x's device meta, got cpu"):
        RandomCrop()(torch.zeros(4, 9, device="meta"), generator=seeded(0))


def test_the_shortest_crop_is_the_fraction_without_its_rounding():
    crop, x = RandomCrop(min_fraction=0.15), torch.ones(4000, 1, 200)
    kept = crop(x, generator=seeded(0), return_lengths=True)[1]
    assert (kept.min(), kept.max()) == (30, 200)
    lengths = torch.full((4000,), 200)
    small = crop(x, lengths.to(torch.uint8), generator=seeded(0), return_lengths=True)[1]
    assert torch.equal(small, kept)


def test_the_option_is_shown():
    assert repr(RandomCrop(min_fraction=0.4)) == "RandomCrop(min_fraction=0.4)"
