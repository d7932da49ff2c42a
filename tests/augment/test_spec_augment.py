"""SpecAugment: how many masks, how wide and where, and what stays as it was."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icasa.augment import SpecAugment
from tests.strategies import LAYOUTS, SEEDS, lay_out, seeded

N, H, W = 200, 11, 17


def bands(masked):
    """Lengths of the runs of True in a row."""
    return [len(run) for run in "".join("x" if m else " " for m in masked).split()]


def masks(seed=0, **options):
    """Which rows (N, H) and columns (N, W) are wholly masked in a batch of ones."""
    off = {"freq_masks": 0, "time_masks": 0}
    out = SpecAugment(**off | options)(torch.ones(N, 1, H, W), generator=seeded(seed))
    rows, columns = (out == 0).all(3)[:, 0], (out == 0).all(2)[:, 0]
    assert torch.equal(out[:, 0] == 0, rows.unsqueeze(2) | columns.unsqueeze(1))
    return rows, columns


@pytest.mark.parametrize(("axis", "kind"), [(0, "freq"), (1, "time")])
def test_one_mask_is_one_band_of_every_width_up_to_the_widest(axis, kind):
    found = masks(**{f"{kind}_masks": 1, f"{kind}_width": 4})
    assert not found[1 - axis].any()
    runs = [bands(row) for row in found[axis]]
    assert {tuple(run) for run in runs} == {(), (1,), (2,), (3,), (4,)}
    assert found[axis].any(0).all()  # the first and the last position too


@pytest.mark.parametrize(("axis", "kind"), [(0, "freq"), (1, "time")])
def test_width_and_place_are_uniform(axis, kind):
    width, size = 3, (H, W)[axis]
    counts = torch.zeros(width + 1)
    first = torch.zeros(size - width + 1)
    for seed in range(10):
        found = masks(seed, **{f"{kind}_masks": 1, f"{kind}_width": width})[axis]
        counts += found.sum(1).bincount(minlength=width + 1)
        start = found[found.sum(1) == width].int().argmax(1)
        first += start.bincount(minlength=size - width + 1)
    assert ((counts - 500) ** 2 / 500).sum() < 16.3  # p = 0.001 at 3 degrees of freedom
    want = first.mean()
    assert ((first - want) ** 2 / want).sum() < 36.1  # p = 0.001 at 14, the more of the two


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3), st.integers(0, 9), SEEDS)
def test_no_more_and_no_wider_masks_than_asked_for(f_masks, f_width, t_masks, t_width, seed):
    rows, columns = masks(
        seed, freq_masks=f_masks, freq_width=f_width, time_masks=t_masks, time_width=t_width
    )
    for found, count, width in ((rows, f_masks, f_width), (columns, t_masks, t_width)):
        assert found.sum(1).max() <= count * width
        assert max(len(bands(row)) for row in found) <= count


def test_samples_have_their_own_masks_and_channels_share_them():
    x = torch.randn(8, 3, H, W, generator=seeded(0))
    out = SpecAugment(1, 5, 1, 5, value=9.0)(x, generator=seeded(1))
    masked = out == 9
    assert torch.equal(masked, masked[:, :1].expand_as(masked))
    assert len({m.numpy().tobytes() for m in masked}) == 8
    assert torch.equal(out[~masked], x[~masked])
    assert masked.any()


def test_time_masks_fall_within_the_lengths():
    lengths = torch.tensor([1, 2, 5, W] * 50)
    x = torch.ones(N, H, W)
    augment = SpecAugment(0, 0, 1, 4, value=7.0)
    out = augment(x, lengths, generator=seeded(0))
    valid = torch.arange(W) < lengths.unsqueeze(1)
    masked = (out == 7).all(1)
    assert not (masked & ~valid).any()
    assert torch.equal(out.ne(0).all(1), valid)
    widest = [masked[lengths == n].sum(1).max().item() for n in (1, 2, 5, W)]
    assert widest == [1, 2, 4, 4]
    assert (masked | ~valid).any(0).all()
    whole = torch.full((N,), W)
    torch.testing.assert_close(
        augment(x, whole, generator=seeded(3)), augment(x, generator=seeded(3))
    )


def test_a_clip_too_short_to_mask_passes_in_eval():
    x = torch.ones(2, 1, 5, 5)
    assert torch.equal(SpecAugment(2, 7, 2, 9).eval()(x), x)
    with pytest.raises(ValueError, match=r"expected freq_width <= 5, axis -2 .*, got 7; build"):
        SpecAugment(2, 7, 2, 9)(x)


def test_identity_in_eval_and_without_masks():
    x, g = torch.randn(4, 1, H, W), seeded(0)
    augment = SpecAugment(2, 7, 2, 9).eval()
    assert augment(x, generator=g) is x
    assert torch.equal(g.get_state(), seeded(0).get_state())
    assert torch.equal(SpecAugment(0, 7, 0, 9)(x), x)
    assert torch.equal(SpecAugment(2, 0, 2, 0)(x), x)


def test_the_generator_alone_governs_the_draw():
    x = torch.randn(4, 1, H, W)
    a, b, c = (SpecAugment(2, 7, 2, 9)(x, generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dtype_and_layout_stay(dtype, layout):
    x = torch.randn(4, 3, H, W, generator=seeded(1)).to(dtype)
    augment = SpecAugment(1, 5, 1, 5, value=0.5)
    laid_out = lay_out(x, layout)
    got = augment(laid_out, generator=seeded(2))
    assert got.dtype == dtype
    assert torch.equal(got, augment(x, generator=seeded(2)))
    if layout in ("contiguous", "channels_last"):
        assert got.stride() == laid_out.stride()


@pytest.mark.parametrize("shape", [(0, 1, H, W), (1, H, W), (2, 1, 1, H, W)])
def test_other_batches_and_ranks(shape):
    assert SpecAugment(1, 5, 1, 5)(torch.ones(shape)).shape == shape


def test_a_masked_position_gets_no_gradient_and_the_others_all():
    x = torch.randn(4, 1, H, W, requires_grad=True)
    out = SpecAugment(1, 5, 1, 5, value=99.0)(x, generator=seeded(1))
    out.sum().backward()
    assert torch.equal(x.grad, (out != 99).float())
    assert (x.grad == 0).any()


@pytest.mark.parametrize("lengths", [None, torch.tensor([W, 3, 5, 1])])
def test_it_compiles_without_a_graph_break(lengths):
    augment, outs = SpecAugment(2, 7, 2, 9), []
    x = torch.randn(4, 1, H, W)
    for f in (torch.compile(augment, fullgraph=True, backend="eager"), augment):
        torch.manual_seed(0)
        outs.append(f(x, lengths))
    assert torch.equal(*outs)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["freq_masks", "freq_width", "time_masks", "time_width"])
@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_counts_are_checked_at_construction(name, value):
    with pytest.raises(ValueError, match=rf"expected {name} to be an integer >= 0, got {value}"):
        SpecAugment(**{name: value})


def test_the_value_is_checked_at_construction():
    with pytest.raises(ValueError, match=r"expected value to be a number in .*, got nan"):
        SpecAugment(value=float("nan"))


@pytest.mark.parametrize(
    ("x", "lengths", "message"),
    [
        (torch.zeros(4, W), None, r"SpecAugment expected .* \(N, \*, H, W\), got .* \(4, 17\); "),
        (torch.zeros(4, H, W).int(), None, r"got torch.int32 \(4, 11, 17\); call x.float\(\)"),
        (torch.zeros(4, 6, W), None, r"expected freq_width <= 6, axis -2 of x .*, got 7; build"),
        (torch.zeros(4, H, 8), None, r"expected time_width <= 8, axis -1 of x .*, got 9; build"),
        (torch.zeros(4, H, W), torch.tensor([1, 2, 3, 18]), r"expected lengths in 1..17"),
    ],
)
def test_errors_say_what_was_expected_and_got(x, lengths, message):
    with pytest.raises(ValueError, match=message):
        SpecAugment(2, 7, 2, 9)(x, lengths)


def test_a_generator_of_another_device_is_refused():
    with pytest.raises(ValueError, match=r"expected generator on x's device meta, got cpu"):
        SpecAugment(2, 7, 2, 9)(torch.zeros(4, H, W, device="meta"), generator=seeded(0))


def test_the_options_are_shown():
    shown = "freq_masks=1, freq_width=2, time_masks=3, time_width=4, value=5.0"
    assert repr(SpecAugment(1, 2, 3, 4, value=5)) == f"SpecAugment({shown})"
    assert repr(SpecAugment()) == repr(SpecAugment(2, 7, 2, 40, value=0))
