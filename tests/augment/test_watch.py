"""AAM says once when its threshold admits no pair, or every pair, batch after batch."""

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from icasa import AAM, AAMCollate, aam_loss

README = Path(__file__).parent.parent.parent / "README.md"
NONE, EVERY = torch.eye(4), torch.ones(4, 4)  # no two rows alike, all alike
SOME = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
Y = torch.arange(4) % 2


def messages(aam, *batches, **kwargs):
    """What AAM warns of in training batches."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in batches:
            aam(x, Y, torch.zeros(4), **kwargs)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(("x", "got"), [(NONE, "none"), (EVERY, "every pair")])
@pytest.mark.parametrize("pairing", ["similar", "balanced"])
@pytest.mark.parametrize("fixed", [False, True])
def test_it_warns_once_after_fifty_batches_in_a_row(x, got, pairing, fixed):
    aam = AAM(2, pairing=pairing, fixed_size=fixed)
    assert messages(aam, *[x] * 49) == []
    (text,) = messages(aam, x)
    assert text.startswith(
        f"expected threshold=0.7 to admit some of the pairs, got {got} in 50 training batches"
    )
    hint = "lower" if got == "none" else "raise"
    assert f"{hint} it, standardise the features, or let quantile choose it" in text
    assert messages(aam, *[x] * 120) == []
    assert len(messages(AAM(2), *[x] * 50)) == 1  # each instance for itself


def test_a_batch_with_some_pairs_starts_the_count_anew():
    assert messages(AAM(2), *[NONE] * 49, SOME, *[NONE] * 49, *[EVERY] * 49, SOME) == []
    for x in (NONE, EVERY):
        assert len(messages(AAM(2), NONE, SOME, *[x] * 50)) == 1


def test_pairs_of_one_utterance_do_not_count():
    assert len(messages(AAM(2), *[EVERY] * 50, utterance=torch.tensor([0, 0, 1, 1]))) == 1
    (text,) = messages(AAM(2), *[EVERY] * 50, utterance=torch.zeros(4))
    assert "got none" in text


def test_a_quantile_may_admit_none_too():
    (text,) = messages(AAM(2, quantile=1.0), *[NONE] * 50)
    assert "expected quantile=1.0 to admit some of the pairs, got none" in text


@pytest.mark.parametrize("x", [NONE, EVERY])
@pytest.mark.parametrize(
    "options", [{"pairing": "random"}, {"threshold": 0.0}, {"threshold": -0.5}], ids=str
)
def test_what_is_no_filter_does_not_warn(x, options):
    assert messages(AAM(2, **options), *[x] * 60) == []


def test_neither_eval_nor_a_report_nor_compile_counts():
    aam = AAM(2, fixed_size=True)
    assert messages(aam, *[NONE] * 49) == []
    assert messages(aam.eval(), *[NONE] * 60) == []
    aam.train()
    for _ in range(60):
        aam.report(NONE, Y)
    torch._dynamo.reset()
    assert messages(torch.compile(aam, fullgraph=True, backend="eager"), *[NONE] * 60) == []
    torch._dynamo.reset()
    assert len(messages(aam, NONE)) == 1


def test_the_training_step_warns_too():
    aam, net = AAM(2), nn.Linear(4, 2)
    for _ in range(49):
        aam_loss(net, aam, NONE, Y)
    with pytest.warns(UserWarning, match="expected threshold=0.7 .* got none in 50"):
        aam_loss(net, aam, NONE, Y)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return NONE[i], int(Y[i])


class Shown(AAMCollate):
    """Gives how often a batch warned in the place of the labels: a worker has no other way."""

    def __call__(self, samples):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            x, _ = super().__call__(samples)
        return x, len(caught)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_go_on_counting_where_the_last_ones_stopped(start):
    collate = Shown(AAM(2, alpha=0))
    for _ in range(45):
        collate([Rows()[0], Rows()[1]])
    loader = DataLoader(Rows(), 1, collate_fn=collate, num_workers=1, multiprocessing_context=start)
    assert [warned for _, warned in loader] == [0] * 4  # 49 batches
    twin = copy.deepcopy(collate)
    assert [warned for _, warned in loader] == [1, 0, 0, 0]
    assert [warned for _, warned in loader] == [0] * 4
    assert twin([Rows()[0], Rows()[1]])[1] == 1  # a copy counts for itself


def test_the_example_of_the_readme_mixes():
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    (example,) = (block for block in blocks if "aam_loss(" in block)
    for seed in range(5):
        torch.manual_seed(seed)
        names = {"torch": torch, "nn": nn}
        exec(example, names)
        assert 0 < len(names["step"].pairs.index) <= len(names["x"])
        assert 0 < names["aam"].report(names["x"], names["y"]).pair_share < 1
