"""soft_cross_entropy: torch's integer loss over the grid, and linear in the label."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from icasa.augment import soft_cross_entropy

torch.set_num_threads(1)
N, K = 6, 4
GRID = list(itertools.product((False, True), (0.0, 0.1, 1.0), (-100, 2), ("none", "sum", "mean")))


def batch(seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(N, K, generator=g, dtype=dtype)
    target = torch.randint(K, (N,), generator=g)
    target[0], target[1] = 2, 1  # one sample on the class that GRID ignores, one not
    return logits, target, torch.rand(K, generator=g, dtype=dtype) + 0.1


@pytest.mark.parametrize(("weighted", "smoothing", "ignore", "reduction"), GRID)
@pytest.mark.parametrize("one_hot", [False, True])
def test_equals_cross_entropy_of_integer_targets(weighted, smoothing, ignore, reduction, one_hot):
    logits, target, weight = batch(0)
    logits.requires_grad_()
    options = {
        "weight": weight if weighted else None,
        "label_smoothing": smoothing,
        "ignore_index": ignore,
        "reduction": reduction,
    }
    if ignore == -100 and not one_hot:
        target[3] = -100
    want = F.cross_entropy(logits, target, **options)
    soft = F.one_hot(target, K) if one_hot else target
    got = soft_cross_entropy(logits, soft, **options)
    torch.testing.assert_close(got, want)
    grads = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (got, want)]
    torch.testing.assert_close(*grads)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([0.0, 0.1]), st.booleans())
def test_mixed_labels_give_the_mix_of_cross_entropies(seed, lam, smoothing, weighted):
    logits, a, weight = batch(seed)
    b = a[torch.randperm(N, generator=torch.Generator().manual_seed(seed))]
    options = {"weight": weight if weighted else None, "label_smoothing": smoothing}
    mixed = lam * F.one_hot(a, K) + (1 - lam) * F.one_hot(b, K)
    want = lam * F.cross_entropy(logits, a, **options)
    want += (1 - lam) * F.cross_entropy(logits, b, **options)
    torch.testing.assert_close(soft_cross_entropy(logits, mixed, **options), want)


def test_torch_itself_fails_the_mix_with_class_weights():
    logits, a, _ = batch(0)
    weight, b = torch.tensor([1.0, 2.0, 5.0, 3.0], dtype=torch.float64), a.roll(1)
    mixed = 0.5 * F.one_hot(a, K) + 0.5 * F.one_hot(b, K)
    want = 0.5 * F.cross_entropy(logits, a, weight) + 0.5 * F.cross_entropy(logits, b, weight)
    assert F.cross_entropy(logits, mixed, weight) > 1.5 * want  # why this function exists
    torch.testing.assert_close(soft_cross_entropy(logits, mixed, weight=weight), want)


def test_ignored_mass_counts_neither_in_the_sum_nor_in_the_normaliser():
    logits, *_ = batch(1)
    p = torch.softmax(batch(2)[0], 1)
    kept = p.clone()
    kept[:, 2] = 0
    want = -(kept * logits.log_softmax(1)).sum() / kept.sum()
    torch.testing.assert_close(soft_cross_entropy(logits, p, ignore_index=2), want)


@pytest.mark.parametrize("form", [list, tuple, torch.Tensor.numpy], ids=["list", "tuple", "numpy"])
def test_weights_are_tensors_lists_or_arrays(form):
    logits, target, weight = batch(3)
    s = torch.rand(N, dtype=torch.float64)
    expected = soft_cross_entropy(logits, target, weight=weight, sample_weight=s)
    got = soft_cross_entropy(logits, target, weight=form(weight), sample_weight=form(s))
    torch.testing.assert_close(got, expected)


def test_sample_weight_of_zero_and_two_drops_and_doubles_a_sample():
    logits, target, weight = batch(3)
    s = torch.tensor([0.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    rows = torch.tensor([1, 1, 2, 3, 4, 5])
    for reduction in ("sum", "mean"):
        options = {"weight": weight, "reduction": reduction}
        got = soft_cross_entropy(logits, target, sample_weight=s, **options)
        torch.testing.assert_close(got, soft_cross_entropy(logits[rows], target[rows], **options))
    none = soft_cross_entropy(logits, target, sample_weight=s, reduction="none")
    torch.testing.assert_close(none, s * soft_cross_entropy(logits, target, reduction="none"))


def test_a_masked_class_without_mass_adds_nothing():
    logits, target, _ = batch(4)
    target[:] = 0
    logits[:, 3] = -torch.inf
    got = soft_cross_entropy(logits, F.one_hot(target, K))
    torch.testing.assert_close(got, F.cross_entropy(logits, target))


def test_gradcheck():
    logits, _, weight = batch(5)
    p = torch.softmax(batch(6)[0], 1)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: soft_cross_entropy(z, p, weight=weight, label_smoothing=0.1), logits
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_loss(dtype):
    logits, target, _ = batch(7, torch.float32)
    got = soft_cross_entropy(logits.to(dtype), target)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, F.cross_entropy(logits.to(dtype).float(), target))


def test_inputs_are_not_mutated():
    tensors = (*batch(8), torch.rand(N))
    before = [t.clone() for t in tensors]
    logits, target, weight, s = tensors
    soft_cross_entropy(logits, target, weight=weight, sample_weight=s, label_smoothing=0.1)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(N, K, 2)}, r"logits of shape \(N, K\).*\(6, 4, 2\); flatten"),
        ({"logits": torch.zeros(N, K).long()}, r"floating logits.*torch.int64"),
        ({"target": torch.zeros(5).long()}, r"shape \(6,\).*\(6, 4\).*got \(5,\)"),
        (
            {"target": torch.zeros(N)},
            r"integer class indices, got torch.float32; call target.long\(\)",
        ),
        ({"target": torch.tensor([0, 1, 9, 0, 0, 0])}, r"0\.\.3, got 9; .*ignore_index=-100"),
        ({"target": torch.tensor([0, 1, -1, 0, 0, 0])}, r"0\.\.3, got -1"),
        ({"target": [0] * N}, r"expected target to be a tensor, got list; number the classes 0..3"),
        ({"target": torch.zeros(N, device="meta")}, r"target on logits's device cpu, got meta"),
        ({"weight": torch.ones(K, device="meta")}, r"weight on logits's device cpu, got meta"),
        ({"weight": [1.0] * 3}, r"expected weight of shape \(4,\), got \(3,\); give one for each"),
        ({"weight": torch.ones(3)}, r"expected weight of shape \(4,\), got \(3,\)"),
        ({"sample_weight": torch.ones(4)}, r"expected sample_weight of shape \(6,\), got \(4,\)"),
        ({"label_smoothing": 1.5}, r"expected label_smoothing in \[0, 1\], got 1.5"),
        ({"reduction": "avg"}, r"one of \['none', 'sum', 'mean'\], got 'avg'"),
    ],
)
def test_errors_say_what_was_expected_and_got(change, message):
    arguments = {"logits": torch.zeros(N, K), "target": torch.zeros(N).long()} | change
    with pytest.raises(ValueError, match=message):
        soft_cross_entropy(**arguments)


def test_small_integers_name_every_class():
    logits, target = torch.randn(2, 300), torch.tensor([200, 10])
    loss = soft_cross_entropy(logits, target.to(torch.uint8))
    torch.testing.assert_close(loss, soft_cross_entropy(logits, target))
