"""Which pairs are admitted: representation, similarity, quantile, and the report on them."""

import pickle

import pytest
import torch

from icasa.augment import AAM
from tests.augment.test_aam import K, batch, seeded


@pytest.mark.parametrize("q", [0.0, 0.25, 0.9])
def test_quantile_admits_its_share(q):
    report = AAM(K, quantile=q).report(*batch(40)[:2])
    assert abs(report.pair_share - (1 - q)) < 0.01


def test_quantile_is_that_of_the_pairs_that_may_be():
    x = torch.randn(8, 1, 4, 1, generator=seeded(0)).repeat_interleave(4, 0)  # alike in utterances
    x = x + 0.1 * torch.randn(32, 1, 4, 9, generator=seeded(1))
    y, utterance = torch.zeros(32).long(), torch.arange(32) // 4
    report = AAM(K, quantile=0.9).report(x, y, utterance=utterance)
    assert abs(report.pair_share - 0.1) < 0.005
    assert AAM(K, quantile=0.9).report(x, y, utterance=0 * utterance).pair_share == 0


def test_similarity_is_float32_under_autocast_and_in_half_precision():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0316]])  # cosine 0.9995; it and T are 1 in bfloat16
    aam = AAM(2, threshold=0.9985, alpha=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(aam.mix(x, torch.tensor([0, 1]))[0]) == 2
    assert len(aam.mix(x.bfloat16(), torch.tensor([0, 1]))[0]) == 2
    aam.representation = torch.Tensor.bfloat16
    assert len(aam.mix(x, torch.tensor([0, 1]))[0]) == 2


def test_report_follows_the_pairs():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.0], [-1.0, 1.0]])
    y, speaker = torch.tensor([0, 0, 1, 1]), torch.tensor([7, 8, 7, 8])
    report = AAM(2).report(x, y, speaker=speaker)  # the first three pair among themselves
    assert report == (0.5, 0.75, 1 / 3, 1 / 3, 1 / 3, 1 / 3)
    apart = AAM(2).report(x, y, speaker=speaker, utterance=speaker)
    assert apart == (0.5, 0.75, 0.5, 0.5, 0.0, 0.0)
    assert AAM(2, threshold=1).report(x, y) == (0.0, 0.0, None, 1 / 3, None, None)
    assert AAM(2).report(x[:1], y[:1]) == (0.0, 0.0, None, None, None, None)


def average(x):
    return x.mean(-1).flatten(1)


def test_a_callable_representation_pickles_and_equals_the_word_for_it():
    aam = pickle.loads(pickle.dumps(AAM(K, threshold=0.2, representation=average)))
    outs = [a(*batch(8), generator=seeded(0)) for a in (aam, AAM(K, threshold=0.2))]
    assert all(torch.equal(a, b) for a, b in zip(*outs, strict=True))


def test_a_network_as_representation_stays_its_owner_s():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(10, 4)).bfloat16()
    aam = AAM(K, alpha=0, threshold=-1, representation=net)
    x, y, _ = batch(6, dtype=torch.bfloat16)  # in the dtype of its weights
    assert len(aam.mix(x, y)[0]) == 6
    assert not list(aam.parameters())
    assert not aam.state_dict()
    aam.eval()
    assert net.training
    net.eval()
    aam.train()
    assert not net.training


@pytest.mark.parametrize(
    ("represent", "got"),
    [
        (lambda x: x, r"torch.float32 \(4, 2, 5\)"),
        (lambda x: x[:3, 0], r"torch.float32 \(3, 5\)"),
        (lambda x: x[:, 0].long(), r"torch.int64 \(4, 5\)"),
    ],
)
def test_a_representation_of_another_shape_or_type_is_refused(represent, got):
    with pytest.raises(ValueError, match=rf"floats of shape \(4, D\), got {got}; end it"):
        AAM(2, representation=represent, alpha=0)(torch.ones(4, 2, 5), torch.arange(4) % 2)
