"""AAM: Algorithm 1's loop is the oracle; then the laws of pairing, labels and modes."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from icasa.augment import AAM

torch.set_num_threads(1)
K = 3
LAWS = settings(max_examples=40, deadline=None, derandomize=True)
SHAPES = st.sampled_from([(4,), (2, 5), (1, 3, 4), (0,)])
SEEDS = st.integers(0, 10**6)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def batch(n, shape=(2, 5), seed=0, dtype=torch.float32, label="index"):
    """A batch in which about half of the pairs are alike, its labels and difficulties."""
    g = seeded(seed)
    x = torch.randn(n, *shape, generator=g).to(dtype)
    y = torch.randint(K, (n,), generator=g)
    if label == "soft":
        y = torch.rand(n, K, generator=g).softmax(1).to(dtype)
    elif label != "index":
        y = torch.stack([y == k for k in range(K)], 1)
        y = y if label == "one-hot" else y | (torch.rand(n, K, generator=g) < 0.3)
    return x, y, 3 * torch.rand(n, generator=g)


def algorithm_1(x, y, d, threshold, alpha, draw, mean):
    """Algorithm 1 line by line; "randomly sample from C" takes the candidate drawn highest."""
    pairs, x_aug, y_aug = [], list(x), list(y)
    r = [(v.mean(-1) if mean and v.ndim > 1 else v).flatten().tolist() for v in x.double()]
    for i in range(len(x)):
        candidates = []
        for j in range(len(x)):
            dot = math.fsum(a * b for a, b in zip(r[i], r[j], strict=True))
            if j != i and dot / (math.hypot(*r[i]) * math.hypot(*r[j])) > threshold:
                candidates.append(j)
        if candidates:
            j = max(candidates, key=lambda c: draw[i][c].item())
            lam = 1 / (1 + math.exp(alpha * (d[i] - d[j]).item()))
            pairs.append((i, j))
            x_aug.append(lam * x[i] + (1 - lam) * x[j])
            y_aug.append(lam * y[i] + (1 - lam) * y[j])
    return pairs, torch.stack(x_aug), torch.stack(y_aug)


@LAWS
@given(
    st.integers(1, 12),
    SHAPES.filter(lambda s: 0 not in s),
    st.floats(-1, 1),
    st.floats(-3, 3),
    st.sampled_from(["mean", "flat"]),
    st.sampled_from(["index", "one-hot", "multi-hot", "soft"]),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    SEEDS,
)
def test_equals_algorithm_1(n, shape, threshold, alpha, how, label, dtype, seed):
    x, y, d = batch(n, shape, seed, dtype, label)
    aam = AAM(K, threshold=threshold, alpha=alpha, representation=how)
    x_aug, y_aug, pairs = aam(x, y, d, generator=seeded(seed), return_pairs=True)
    exact = torch.promote_types(dtype, torch.float32)
    y = (F.one_hot(y, K) if y.ndim == 1 else y).to(exact)
    draw = torch.rand(n, n, generator=seeded(seed))
    want = algorithm_1(x.to(exact), y, d.to(exact), aam.threshold, alpha, draw, how == "mean")
    assert list(zip(pairs.index.tolist(), pairs.partner.tolist(), strict=True)) == want[0]
    loose = {"atol": 1e-2, "rtol": 1e-2} if exact != dtype else {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(x_aug, want[1].to(dtype), **loose)
    torch.testing.assert_close(y_aug, want[2].to(y_aug.dtype), **loose)
    assert x_aug.dtype == dtype
    assert y_aug.dtype == (dtype if label == "soft" else exact)


@LAWS
@given(
    st.integers(0, 12),
    SHAPES,
    st.floats(-1, 1),
    st.sampled_from(["similar", "balanced", "same-class", "random"]),
    st.booleans(),
    SEEDS,
)
def test_partners_are_admitted_others_of_another_utterance(n, shape, t, pairing, fixed, seed):
    x, y, d = batch(n, shape, seed)
    utterance = torch.arange(n) // 2
    before = [v.clone() for v in (x, y, d)]
    aam = AAM(K, threshold=t, pairing=pairing, fixed_size=fixed)
    *out, pairs = aam(x, y, d, utterance=utterance, generator=seeded(seed), return_pairs=True)
    r = x if x.ndim == 2 else x.mean(-1).flatten(1)
    sim = F.cosine_similarity(r.unsqueeze(1), r, dim=-1)
    admitted = (sim > t - 1e-6) | (pairing == "random")
    for i, j in zip(pairs.index.tolist(), pairs.partner.tolist(), strict=True):
        assert (i != j and admitted[i, j] and utterance[i] != utterance[j]) or (fixed and i == j)
    assert torch.equal(out[0][:n], x)
    assert torch.equal(out[1][:n], F.one_hot(y, K).float())
    assert all(torch.equal(a, b) for a, b in zip((x, y, d), before, strict=True))


@LAWS
@given(st.integers(0, 12), st.sampled_from(["similar", "balanced", "same-class", "random"]), SEEDS)
def test_fixed_size_equals_the_dynamic_one_where_the_weight_is_1(n, pairing, seed):
    x, y, d = batch(n, seed=seed)
    dynamic = AAM(K, threshold=0.5, pairing=pairing)(x, y, d, generator=seeded(seed))
    aam = AAM(K, threshold=0.5, pairing=pairing, fixed_size=True)
    x_aug, y_aug, weight = aam(x, y, d, generator=seeded(seed))
    assert len(x_aug) == len(y_aug) == len(weight) == 2 * n
    assert torch.equal(x_aug[weight == 1], dynamic[0])
    assert torch.equal(y_aug[weight == 1], dynamic[1])
    assert torch.equal(x_aug[n:][weight[n:] == 0], x[weight[n:] == 0])
    assert set(weight.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("pairing", ["similar", "balanced", "same-class", "random"])
@pytest.mark.parametrize("quantile", [None, 0.5])
def test_fixed_size_compiles_without_a_graph_break(pairing, quantile):
    if pairing == "random" and quantile:
        return
    aam = AAM(K, threshold=0.3, pairing=pairing, quantile=quantile, fixed_size=True)
    x, y, d = batch(8)
    compiled = torch.compile(aam, fullgraph=True, backend="eager")
    outs = []
    for f in (compiled, aam):
        torch.manual_seed(0)
        outs.append(f(x, y, d, utterance=torch.arange(8) // 2))
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))
    torch._dynamo.reset()


@pytest.mark.parametrize("fixed", [False, True])
def test_eval_returns_the_input_and_draws_nothing(fixed):
    aam, g = AAM(K, threshold=-1, fixed_size=fixed).eval(), seeded(0)
    x, y, _ = batch(6)
    out = aam(x, y, generator=g)
    assert out[0] is x
    assert torch.equal(out[1], F.one_hot(y, K).float())
    assert torch.equal(g.get_state(), seeded(0).get_state())
    assert not fixed or torch.equal(out[2], torch.ones(6))
    assert len(aam(x, y, return_pairs=True)[-1].index) == 0


def test_nothing_admitted_returns_the_originals():
    x, y, d = batch(6)
    for aam, n in ((AAM(K, threshold=1), 6), (AAM(K, threshold=-1), 1), (AAM(K, quantile=0), 0)):
        out = aam(x[:n], y[:n], d[:n])
        assert torch.equal(out[0], x[:n])
        assert out[1].shape == (n, K)


def test_generator_alone_governs_the_draw():
    aam = AAM(K, pairing="balanced", threshold=-1)
    a, b, c = (aam(*batch(12), generator=seeded(s), return_pairs=True)[2] for s in (5, 5, 6))
    assert torch.equal(a.partner, b.partner)
    assert not torch.equal(a.partner, c.partner)


def test_the_draw_is_uniform_over_the_candidates():
    x, y, _ = batch(8)
    aam, g, counts = AAM(K, threshold=-1, alpha=0), seeded(0), torch.zeros(8, 8)
    for _ in range(1400):
        pairs = aam.mix(x, y, generator=g)[2]
        counts[pairs.index, pairs.partner] += 1
    chi2 = ((counts - 200) ** 2 / 200).fill_diagonal_(0).sum(1)  # six degrees of freedom
    assert (chi2 < 22.5).all()  # p = 0.001 each


@pytest.mark.parametrize(("row", "mixed"), [([1.0, 0.0], 2), ([1.0, 0.9], 2), ([1.0, 1.1], 0)])
def test_a_batch_of_two_follows_the_threshold(row, mixed):
    x = torch.tensor([[1.0, 0.0], row])  # cosines 1, 0.74 and 0.67
    assert len(AAM(K, alpha=0).mix(x, torch.arange(2))[0]) == mixed
    assert AAM(K).report(x, torch.arange(2)).pair_share == mixed / 2


@pytest.mark.parametrize("rare", [True, False])
def test_balanced_pairs_are_half_same_class(rare):
    n = 400
    x, y = torch.randn(n, 4, generator=seeded(0)), torch.arange(n) % 10
    y = y if rare else (y > 0).long()
    share = {}
    for pairing in ("similar", "balanced"):
        aam = AAM(10, threshold=-1, alpha=0, pairing=pairing)
        pairs = aam.mix(x, y, generator=seeded(1))[2]
        share[pairing] = (y[pairs.index] == y[pairs.partner]).float().mean().item()
    assert abs(share["similar"] - (0.1 if rare else 0.82)) < 0.05
    assert abs(share["balanced"] - 0.5) < 0.08
    one_class = AAM(10, threshold=-1, alpha=0, pairing="balanced").mix(x, torch.zeros(n).long())
    assert len(one_class[0]) == n  # the other kind is empty, so every coin falls on this one


@pytest.mark.parametrize("threshold", [-1, 0.3])
def test_same_class_leaves_out_other_classes_and_no_other_pair(threshold):
    x, y, d = batch(40)
    every = AAM(K, threshold=threshold).report(x, y)
    aam = AAM(K, threshold=threshold, pairing="same-class")
    report = aam.report(x, y)
    assert (report.label_match, report.label_chance) == (1, 1)
    ours, theirs = report.pair_share * every.label_chance, every.pair_share * every.label_match
    assert ours == pytest.approx(theirs)  # the admitted pairs of one class, among all pairs
    pairs = aam.mix(x, y, d, generator=seeded(0))[2]
    assert len(pairs.index) == round(40 * report.partner_rate) > 20
    assert torch.equal(y[pairs.index], y[pairs.partner])
    soft = F.one_hot(y, K) * 0.6 + 0.4 / K  # its argmax is the class
    assert torch.equal(aam.mix(x, soft, d, generator=seeded(0))[2].partner, pairs.partner)


def test_harder_sample_gets_less_weight_and_more_for_negative_alpha():
    x, y, d = torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([2.0, 0.5])
    lam = {a: AAM(K, alpha=a).mix(x, y, d)[2].lam for a in (2.0, -2.0, 0.0)}
    torch.testing.assert_close(lam[2.0], torch.tensor([1 / (1 + math.e**3), 1 / (1 + math.e**-3)]))
    torch.testing.assert_close(lam[-2.0], lam[2.0].flip(0))
    assert lam[0.0].tolist() == [0.5, 0.5]


def test_an_overflowed_difficulty_stays_out_of_x():
    d = torch.tensor([torch.inf, torch.inf, torch.nan, 1.0])
    x_aug, y_aug = AAM(K, pairing="random")(*batch(4)[:2], d)
    assert x_aug.isfinite().all()
    assert y_aug.isfinite().all()


def test_difficulty_gets_no_gradient_and_x_does():
    x, y, d = batch(6)
    x.requires_grad_()
    d.requires_grad_()
    AAM(K, threshold=-1).mix(x, y, d)[0].sum().backward()
    assert d.grad is None
    assert x.grad is not None


def test_what_lies_in_the_padding_is_not_mixed_in():
    x = torch.ones(2, 1, 4, 10)
    x[0, ..., 5:] = 99
    lengths = torch.tensor([5, 10])
    x_mix = AAM(K, alpha=0, threshold=-1).mix(x, torch.arange(2), lengths=lengths)[0]
    assert x_mix[1, 0, 0].tolist() == [1.0] * 5 + [0.5] * 5


def test_draws_are_as_fine_whatever_the_default_dtype():
    x, y = torch.randn(256, 8, generator=seeded(0)), torch.zeros(256).long()
    outs = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            outs.append(AAM(K, pairing="random", alpha=0).mix(x, y, generator=seeded(1))[2].partner)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*outs)


def test_small_integers_name_every_class():
    y = torch.tensor([100, 10], dtype=torch.int8)
    assert AAM(200).float_labels(torch.randn(2, 3), y).argmax(1).tolist() == [100, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, r"expected num_classes to be an integer >= 1, got 0"),
        ({"threshold": 1.2}, r"expected threshold to be a number in \[-1, 1\], got 1.2"),
        ({"alpha": math.nan}, r"expected alpha to be a number in .*, got nan"),
        ({"quantile": 70}, r"expected quantile to be a number in \[0, 1\], got 70"),
        (
            {"pairing": "same"},
            r"expected pairing to be one of \['similar', 'balanced', 'same-class', 'random'\]",
        ),
        ({"representation": "max"}, r"'mean', 'flat' or a callable .* got 'max'"),
        ({"pairing": "random", "quantile": 0.5}, r"random' or quantile, got both; leave one out"),
    ],
)
def test_options_are_checked_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        AAM(**{"num_classes": K} | options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [[0.0] * 2] * 4}, r"AAM expected x to be a tensor, got list; call torch.as"),
        ({"y": [0, 1, 0, 1]}, r"AAM expected y to be a tensor, got list; number the classes 0..2"),
        ({"x": torch.zeros(4)}, r"at least 2 axes, got torch.float32 \(4,\)"),
        ({"x": torch.zeros(4, 2).long()}, r"floating point x.*torch.int64.*x.float\(\)"),
        ({"y": torch.zeros(4, 5)}, r"y of shape \(4,\) or \(4, 3\), got \(4, 5\); .*num_classes"),
        ({"y": torch.zeros(4)}, r"integer class indices, got torch.float32; call y.long\(\)"),
        ({"y": torch.tensor([0, 1, 7, 0])}, r"0\.\.2, got 7; remap"),
        ({"y": torch.tensor([0, -100, 1, 0])}, r"0\.\.2, got -100; remap"),
        ({"y": torch.zeros(4, device="meta").long()}, r"expected y on x's device cpu, got meta"),
        ({"difficulty": None}, r"alpha=2.0 expected difficulty of shape \(4,\), got None; pass"),
        ({"difficulty": torch.zeros(3)}, r"expected difficulty of shape \(4,\).*got \(3,\)"),
        (
            {"difficulty": torch.zeros(4).long()},
            r"expected floating difficulty, got torch.int64; call",
        ),
        ({"utterance": ["a", "b", "c", "d"]}, r"utterance to be a tensor .*got list; number"),
        ({"utterance": torch.zeros(2)}, r"expected utterance of shape \(4,\).*got \(2,\)"),
    ],
)
def test_errors_say_what_was_expected_and_got(change, message):
    good = {"x": torch.ones(4, 2), "y": torch.zeros(4).long(), "difficulty": torch.zeros(4)}
    with pytest.raises(ValueError, match=message):
        AAM(K)(**good | change)


def test_the_options_are_shown():
    shown = "alpha=2.0, pairing='balanced', representation='mean', fixed_size=False"
    assert repr(AAM(K, quantile=0.5, pairing="balanced")) == f"AAM(3, quantile=0.5, {shown})"
