"""DifficultyBank and AAMCollate: in one process, and in workers by fork and spawn."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from icasa.augment import AAM, AAMCollate, DifficultyBank

torch.set_num_threads(1)
N, K = 16, 2


class Clips(torch.utils.data.Dataset):
    """Every clip sounds alike; the even ones are of class 0 and hold 1, the odd ones 2."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return torch.full((3,), 1.0 + i % 2), i % 2, i, f"clip{i}"


class NamedClips(Clips):
    def __getitem__(self, i):
        x, y, index, name = super().__getitem__(i)
        return {"mfcc": x, "label": y, "row": index, "name": name, "utterance": i // 8}


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_persistent_workers_see_the_bank_and_the_switch(start):
    torch.manual_seed(0)
    bank = DifficultyBank(N, K)
    collate = AAMCollate(AAM(K, alpha=2), bank)
    loader = DataLoader(
        Clips(), 8, collate_fn=collate, num_workers=2, persistent_workers=True,
        multiprocessing_context=start,
    )  # fmt: skip
    lam = 1 / (1 + math.exp(2 * (0.3 - math.log(2))))
    for difficulty, share in ((0.3, lam), (50.0, 0.0)):  # of the even clips; the odd ones': log 2
        bank.update(torch.arange(0, N, 2), torch.full((N // 2,), difficulty))
        batches = list(loader)
        assert [[len(field) for field in b] for b in batches] == [[16, 16, 8, 8]] * 2
        even = torch.cat([y[8::2, 0] for _, y, *_ in batches])  # mixed with odd ones or even ones
        assert even.round(decimals=4).unique().tolist() == pytest.approx([share, 1.0], abs=1e-4)
    collate.eval()
    for x, y, index, _ in loader:
        assert torch.equal(x, 1.0 + (index % 2).float().unsqueeze(1).expand(-1, 3))
        assert torch.equal(y.argmax(1), index % 2)
    collate.train()
    assert all(len(x) == 16 for x, *_ in loader)
    del loader  # ends the workers


@pytest.mark.parametrize("fixed", [False, True])
def test_mappings_keep_their_keys_and_extra_fields(fixed):
    aam = AAM(K, pairing="random", fixed_size=fixed)
    keys = ("mfcc", "label", "row")
    collate = AAMCollate(aam, DifficultyBank(N, K), keys=keys, utterance="utterance")
    out = collate([NamedClips()[i] for i in (0, 1, 8, 9)])
    assert list(out) == [*NamedClips()[0], "weight"][: 6 if fixed else 5]
    assert out["mfcc"].shape == (8, 3)
    assert out["label"].shape == (8, K)
    assert out["row"].tolist() == [0, 1, 8, 9]
    assert out["name"] == ["clip0", "clip1", "clip8", "clip9"]
    assert not fixed or out["weight"].tolist() == [1.0] * 8


def test_tuples_end_with_the_weight_if_the_size_is_fixed():
    collate = AAMCollate(AAM(K, fixed_size=True), DifficultyBank(N, K))
    x, y, index, name, weight = collate([Clips()[i] for i in range(4)])
    assert (x.shape, y.shape, len(index), len(name)) == ((8, 3), (8, K), 4, 4)
    assert weight.tolist() == [1.0] * 8


def test_pairs_of_one_utterance_are_left_out():
    collate = AAMCollate(AAM(K, pairing="random", alpha=0), utterance=2)
    same = [(torch.ones(3), i % 2, 7) for i in range(4)]
    assert len(collate(same)[0]) == 4
    assert len(collate([*same, (torch.ones(3), 0, 8)])[0]) == 10


def test_without_difficulty_a_sample_needs_no_index():
    x, y = AAMCollate(AAM(K, alpha=0))([Clips()[i][:2] for i in range(4)])
    assert x.shape == (8, 3)
    assert y.shape == (8, K)


def test_torch_manual_seed_governs_the_draw():
    loader = DataLoader(Clips(), 8, collate_fn=AAMCollate(AAM(K), DifficultyBank(N, K)))
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(torch.cat([x for x, *_ in loader]))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_the_switch_leaves_the_callers_module_alone():
    aam = AAM(K, alpha=0)
    collate = AAMCollate(aam).eval()
    samples = [Clips()[i] for i in range(4)]
    assert len(collate(samples)[0]) == 4
    assert aam.training
    assert len(AAMCollate(aam.eval())(samples)[0]) == 4
    assert len(AAMCollate(aam).train()(samples)[0]) == 8


@pytest.mark.parametrize("again", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_shared_but_separate(again):
    collate = AAMCollate(AAM(K), DifficultyBank(N, K))
    twin = again(collate)
    collate.bank.update(torch.tensor([0]), torch.tensor([9.0]))
    collate.eval()
    assert twin.bank.lookup(torch.tensor([0])).item() == pytest.approx(math.log(K))
    assert len(twin([Clips()[i] for i in range(4)])[0]) == 8
    assert twin.bank._loss.is_shared()
    assert twin._training.is_shared()


def test_bank_starts_untrained_and_keeps_the_last_finite_loss():
    bank = DifficultyBank(4, num_classes=8)
    assert len(bank) == 4
    torch.testing.assert_close(bank.lookup(torch.arange(4)), torch.full((4,), math.log(8)))
    loss = torch.tensor([1.0, torch.nan, torch.inf], dtype=torch.float16, requires_grad=True)
    bank.update(torch.tensor([3, 1, 0], dtype=torch.int32), loss)
    start = math.log(8)
    want = torch.tensor([start, start, start, 1.0])
    torch.testing.assert_close(bank.lookup(torch.arange(4)), want)


def test_bank_state_round_trip_is_in_place_and_a_copy():
    bank, other = DifficultyBank(4, 2), DifficultyBank(4, 2)
    bank.update(torch.tensor([2]), torch.tensor([5.0]))
    state, memory = bank.state_dict(), other._loss
    bank.update(torch.tensor([2]), torch.tensor([7.0]))
    other.load_state_dict(state)
    assert other.lookup(torch.tensor([2])).item() == 5.0
    assert other._loss is memory
    assert memory.is_shared()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: DifficultyBank(0, 2), r"expected num_samples to be an integer >= 1, got 0"),
        (lambda b: b.lookup(torch.tensor([1, 4])), r"0\.\.3, got 4; .*num_samples=len\(dataset\)"),
        (lambda b: b.lookup(torch.tensor([-1])), r"0\.\.3, got -1"),
        (
            lambda b: b.lookup(torch.tensor([0.0])),
            r"integer index of shape \(B,\), got torch.float32 \(1,\); return",
        ),
        (
            lambda b: b.update(torch.arange(2), torch.tensor(1.0)),
            r"shape \(2,\), one per index, got torch.float32 \(\); .*reduction='none'",
        ),
        (lambda b: b.load_state_dict({"loss": torch.ones(3)}), r"shape \(4,\), got \(3,\); build"),
        (lambda b: b.load_state_dict({"d": torch.ones(4)}), r"'loss' .*got keys \['d'\]"),
        (
            lambda b: AAMCollate(AAM(K), b)([(torch.ones(3, n), 0, n) for n in (2, 5)]),
            r"field 0 of one shape in all samples, got \(3, 2\) and \(3, 5\); pad or crop it in",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)(
                [{"x": np.ones(n), "y": 0, "index": 0} for n in (2, 5)]
            ),
            r"field 'x' of one shape in all samples, got \(2,\) and \(5,\); pad or crop it in",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)([(torch.ones(3), 0, 0, "a"), (torch.ones(3), 0, 1)]),
            r"expected \[0, 1, 2, 3\] in every sample, got \[0, 1, 2\]; return the same fields",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)([(torch.ones(3), name, 0) for name in ("sad", "glad")]),
            r"AAM expected y to be a tensor, got \w+; number the classes 0..1",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)([(torch.ones(3), 0, f"{i}.wav") for i in range(2)]),
            r"index to be a tensor .*, got .*'0.wav', '1.wav'.*; return each sample's number",
        ),
        (
            lambda b: AAMCollate(AAM(K), b, utterance=3)([(torch.ones(3), 0, 0, "a")] * 2),
            r"expected utterance to be a tensor .*; number the ids",
        ),
        (lambda b: b.lookup(["a.wav"]), r"tensor of integers, got list \['a.wav'\]; return each"),
        (lambda b: b.update(torch.arange(1), [0.5]), r"loss of shape \(1,\), .* got list; compute"),
        (lambda b: AAMCollate(AAM(K)), r"alpha=2.0 expected a DifficultyBank, got None; pass Diff"),
        (lambda b: AAMCollate(AAM(K), b, keys=("x", "y")), r"keys to be the three names of x,"),
        (
            lambda b: AAMCollate(AAM(K), b)([torch.ones(2)]),
            r"samples \(x, y, index, ...\) or mappings with .*, got Tensor; return one",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)([(torch.ones(2), 0)]),
            r"expected \[0, 1, 2\] in a sample, got \[0, 1\]; return them",
        ),
        (
            lambda b: AAMCollate(AAM(K, fixed_size=True), b)(
                [{"x": torch.ones(2), "y": 0, "index": 0, "weight": 3.0}]
            ),
            r"without the key 'weight', got \['x', .*; rename that field",
        ),
        (
            lambda b: AAMCollate(AAM(K), b)([{"x": torch.ones(2), "label": 0, "index": 0}]),
            r"expected \['x', 'y', 'index'\] in a sample, got \['x', 'label', 'index'\].*keys=",
        ),
    ],
)
def test_errors_say_what_was_expected_and_got(call, message):
    with pytest.raises(ValueError, match=message):
        call(DifficultyBank(4, 2))
