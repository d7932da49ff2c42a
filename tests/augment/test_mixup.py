"""MixUp: Zhang et al.'s formula, λ's distribution, soft labels, and AAM before or after it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icasa.augment import AAM, MixUp, aam_loss, soft_cross_entropy
from tests.strategies import LAYOUTS, SEEDS, lay_out, seeded

K = 3
SHAPES = st.sampled_from([(4,), (2, 5), (1, 3, 4), (0,)])


def batch(n, shape=(2, 5), seed=0, dtype=torch.float32, soft=False):
    g = seeded(seed)
    x = torch.randn(n, *shape, generator=g).to(dtype)
    y = torch.rand(n, K, generator=g).softmax(1).to(dtype) if soft else None
    return x, torch.randint(K, (n,), generator=g) if y is None else y


@given(
    st.integers(0, 7),
    SHAPES,
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    SEEDS,
)
def test_equals_the_formula_sample_by_sample(n, shape, per_sample, soft, dtype, seed):
    x, y = batch(n, shape, seed, dtype, soft)
    mixup = MixUp(K, per_sample=per_sample)
    x_mix, y_mix, partner, lam = mixup(x, y, generator=seeded(seed), return_mix=True)
    assert sorted(partner.tolist()) == list(range(n))
    labels = y if soft else F.one_hot(y, K)
    for i, (j, share) in enumerate(zip(partner.tolist(), lam.tolist(), strict=True)):
        want = share * x[i].double() + (1 - share) * x[j].double()
        loose = {"atol": 0.05, "rtol": 0.05} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(x_mix[i], want.to(dtype), **loose)
        want = share * labels[i].double() + (1 - share) * labels[j].double()
        torch.testing.assert_close(y_mix[i].double(), want, atol=1e-2 if loose else 1e-6, rtol=0)
    assert x_mix.dtype == dtype
    assert y_mix.dtype == (dtype if soft else torch.promote_types(dtype, torch.float32))
    assert per_sample or len(set(lam.tolist())) <= 1


@pytest.mark.parametrize("y", [torch.arange(12) % K, torch.rand(12, K).softmax(1)])
def test_the_label_mass_stays_one(y):
    y_mix = MixUp(K, alpha=1, per_sample=True)(torch.randn(12, 4), y, generator=seeded(0))[1]
    torch.testing.assert_close(y_mix.sum(1), torch.ones(12))
    assert ((y_mix > 0) & (y_mix < 1)).any()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lambda_follows_beta(alpha):
    n = 20_000
    mixup = MixUp(2, alpha=alpha, per_sample=True)
    lam = mixup(torch.zeros(n, 1), torch.zeros(n).long(), generator=seeded(0), return_mix=True)[3]
    at = torch.linspace(0.001, 0.999, 50)
    below = (lam < at.unsqueeze(1)).double().mean(1)
    want = stats.beta(alpha, alpha).cdf(at.numpy())
    assert (below - torch.from_numpy(want)).abs().max() < 0.0138  # Kolmogorov's 0.1 % of n


def test_one_lambda_for_the_batch_by_default_and_many_per_sample():
    x, y = batch(64)
    assert len(MixUp(K)(x, y, return_mix=True)[3].unique()) == 1
    assert len(MixUp(K, per_sample=True)(x, y, return_mix=True)[3].unique()) > 32


def test_eval_returns_the_input_and_draws_nothing():
    (x, y), g = batch(6), seeded(0)
    out = MixUp(K).eval()(x, y, generator=g, return_mix=True)
    assert out[0] is x
    assert torch.equal(out[1], F.one_hot(y, K).float())
    assert out[2].tolist() == list(range(6))
    assert out[3].tolist() == [1.0] * 6
    assert torch.equal(g.get_state(), seeded(0).get_state())


def test_the_generator_alone_governs_the_draw():
    a, b, c = (MixUp(K)(*batch(12), generator=seeded(s)) for s in (5, 5, 6))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[0], c[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_stays_and_does_not_change_the_values(layout):
    x = torch.randn(4, 3, 5, 7, generator=seeded(1))
    y = torch.tensor([0, 1, 2, 0])
    want = MixUp(K)(x, y, generator=seeded(2))[0]
    laid_out = lay_out(x, layout)
    got = MixUp(K)(laid_out, y, generator=seeded(2))[0]
    assert torch.equal(got, want)
    if layout in ("contiguous", "channels_last"):
        assert got.stride() == laid_out.stride()


def test_the_gradient_of_a_sample_is_the_weight_it_got():
    x, y = batch(6)
    x.requires_grad_()
    x_mix, _, partner, lam = MixUp(K, per_sample=True)(x, y, return_mix=True)
    x_mix.sum().backward()
    want = lam + torch.zeros(6).index_add(0, partner, 1 - lam)
    torch.testing.assert_close(x.grad[:, 0, 0], want)


@pytest.mark.parametrize("per_sample", [False, True])
def test_it_compiles_without_a_graph_break(per_sample):
    mixup, outs = MixUp(K, per_sample=per_sample), []
    for f in (torch.compile(mixup, fullgraph=True, backend="eager"), mixup):
        torch.manual_seed(0)
        outs.append(f(*batch(8)))
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
    torch._dynamo.reset()


def test_it_mixes_what_aam_mixed_and_aam_mixes_what_it_mixed():
    x, y = batch(8)
    aam, net = AAM(K, threshold=-1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(10, K))
    x_aug, y_aug = MixUp(K)(*aam(x, y, torch.rand(8)))
    assert x_aug.shape == (16, 2, 5)
    torch.testing.assert_close(y_aug.sum(1), torch.ones(16))
    assert soft_cross_entropy(net(x_aug), y_aug).isfinite()
    step = aam_loss(net, aam, *MixUp(K)(x, y))
    assert len(step.pairs.index) == 8
    assert step.loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, r"expected num_classes to be an integer >= 1, got 0"),
        ({"alpha": 0}, r"expected alpha to be a number in \[0.001, 1000\], got 0"),
    ],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        MixUp(**{"num_classes": K} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4)}, r"MixUp expected .* at least 2 axes, got torch.float32 \(4,\)"),
        ({"x": torch.zeros(4, 2).long()}, r"floating point x.*torch.int64.*x.float\(\)"),
        ({"y": torch.zeros(4, 5)}, r"y of shape \(4,\) or \(4, 3\), got \(4, 5\); .*build MixUp"),
        ({"y": torch.zeros(4)}, r"integer class indices, got torch.float32; call y.long\(\)"),
        ({"y": torch.tensor([0, 1, 7, 0])}, r"0\.\.2, got 7; remap .* build MixUp"),
        ({"y": torch.zeros(4, device="meta").long()}, r"expected y on x's device cpu, got meta"),
    ],
)
def test_errors_say_what_was_expected_and_got(change, message):
    good = {"x": torch.ones(4, 2), "y": torch.zeros(4).long()}
    with pytest.raises(ValueError, match=message):
        MixUp(K)(**good | change)


def test_a_generator_of_another_device_is_refused():
    x = torch.zeros(4, 2, device="meta")
    y = torch.zeros(4, K, device="meta")
    with pytest.raises(ValueError, match=r"expected generator on x's device meta, got cpu; make"):
        MixUp(K)(x, y, generator=seeded(0))


def test_the_options_are_shown():
    assert repr(MixUp(K)) == repr(MixUp(K, alpha=0.2))
    assert repr(MixUp(K, alpha=0.4)) == f"MixUp({K}, alpha=0.4, per_sample=False)"
