"""aam_loss: the gradient of the step that recomputes the difficulties, with a pass less."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from icasa.augment import AAM, aam_loss, soft_cross_entropy

torch.set_num_threads(1)
K = 3


class Net(nn.Module):
    """A small model that notes how many rows it is given."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, K))
        self.double()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return self.layers(x)


def batch(n=8):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, 5, generator=g, dtype=torch.float64)
    return x, torch.randint(K, (n,), generator=g)


def bce(logits, target, *, reduction):
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
    return loss if reduction == "none" else loss.mean()


@pytest.mark.parametrize("criterion", [soft_cross_entropy, bce])
@pytest.mark.parametrize("fixed", [False, True])
def test_gradient_equals_that_of_the_recomputing_step(criterion, fixed):
    (x, y), net, g = batch(), Net(), torch.Generator()
    options = {"threshold": 0.3, "representation": "flat"}
    aam = AAM(K, fixed_size=fixed, **options)
    step = aam_loss(net, aam, x, y, criterion=criterion, generator=g.manual_seed(3))
    step.loss.backward()
    mixed = int(step.pairs.weight().sum())
    assert 0 < mixed < len(x)
    assert net.rows == [len(x), len(x) if fixed else mixed]
    got = [p.grad.clone() for p in net.parameters()]

    net.zero_grad()
    with torch.no_grad():  # Algorithm 1, lines 12 and 13
        d = criterion(net(x), F.one_hot(y, K).double(), reduction="none")
    x_aug, y_aug = AAM(K, **options)(x, y, d, generator=g.manual_seed(3))
    loss = criterion(net(x_aug), y_aug, reduction="none").mean()
    loss.backward()
    torch.testing.assert_close(step.loss, loss)
    torch.testing.assert_close(step.difficulty, d)
    torch.testing.assert_close(step.logits, net(x))
    for a, p in zip(got, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)


@pytest.mark.parametrize("aam", [AAM(K, threshold=1), AAM(K, threshold=-1).eval()])
def test_without_pairs_it_is_the_loss_of_the_originals(aam):
    (x, y), net = batch(), Net()
    step = aam_loss(net, aam, x, y)
    assert net.rows == [len(x)]
    torch.testing.assert_close(step.loss, F.cross_entropy(net(x), y))
    assert len(step.pairs.index) == 0
    assert not step.difficulty.requires_grad


W = [1.0, 5.0, 2.0]
ENTROPIES = [  # each with the class weights W, right or not over float targets
    partial(soft_cross_entropy, weight=W),
    partial(soft_cross_entropy, weight=torch.tensor(W), label_smoothing=0.2),
    lambda z, y, reduction: soft_cross_entropy(z, y, weight=W, reduction=reduction),
    nn.CrossEntropyLoss(torch.tensor(W).double()),
    partial(F.cross_entropy, weight=torch.tensor(W).double()),
]


def smoothing(criterion):
    return getattr(criterion, "keywords", {}).get("label_smoothing", 0.0)


@pytest.mark.parametrize("criterion", ENTROPIES)
@pytest.mark.parametrize("aam", [AAM(K, threshold=1), AAM(K, threshold=1, fixed_size=True)])
def test_class_weights_do_not_change_the_size_without_pairs(aam, criterion):
    (x, y), net = batch(), Net()
    got = aam_loss(net, aam, x, y, criterion=criterion).loss
    weight = torch.tensor(W).double()
    expected = F.cross_entropy(net(x), y, weight, label_smoothing=smoothing(criterion))
    torch.testing.assert_close(got, expected)


def test_autocast_does_not_round_the_divisor():
    logits, y = torch.randn(8, K), torch.randn(8, K).softmax(1)
    criterion = partial(soft_cross_entropy, weight=W)
    with torch.autocast("cpu", torch.bfloat16):
        got = aam_loss(nn.Flatten(), AAM(K, threshold=1), logits, y, criterion=criterion).loss
    torch.testing.assert_close(got, criterion(logits, y))


@pytest.mark.parametrize("criterion", ENTROPIES)
@pytest.mark.parametrize("fixed", [False, True])
def test_the_loss_is_the_weighted_mean_over_originals_and_mixed(criterion, fixed):
    (x, y), net = batch(), Net()
    options = {"threshold": 0.3, "representation": "flat", "alpha": 0}
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    aam = AAM(K, fixed_size=fixed, **options)
    step = aam_loss(net, aam, x, y, criterion=criterion, generator=generators[0])
    assert 0 < step.pairs.weight().sum() < len(x)
    x_aug, y_aug = AAM(K, **options)(x, y, generator=generators[1])
    expected = soft_cross_entropy(net(x_aug), y_aug, weight=W, label_smoothing=smoothing(criterion))
    torch.testing.assert_close(step.loss, expected)


def brier(logits, target, *, reduction):
    loss = (logits.softmax(1) - target).square().sum(1)
    return loss if reduction == "none" else loss.mean()


@pytest.mark.parametrize("criterion", [brier, bce, F.cross_entropy])
def test_a_criterion_without_class_weights_is_a_plain_mean(criterion):
    (x, y), net = batch(), Net()
    y = F.one_hot(y, K).double()
    step = aam_loss(net, AAM(K, threshold=1), x, y, criterion=criterion)
    torch.testing.assert_close(step.loss, criterion(net(x), y, reduction="mean"))
    step = aam_loss(nn.Linear(3, 1), AAM(1, threshold=1), torch.randn(4, 3), torch.zeros(4).long())
    assert step.loss == 0  # one class leaves nothing to lose


@pytest.mark.parametrize(
    "criterion", [nn.BCEWithLogitsLoss(), nn.CrossEntropyLoss(reduction="sum")]
)
def test_a_loss_module_that_cannot_be_called_so_is_refused(criterion):
    text = (
        r"criterion\(logits, target, reduction='none'\), got \w+Loss\(\); pass a function, such as"
    )
    with pytest.raises(ValueError, match=text):
        aam_loss(Net(), AAM(K), *batch(), criterion=criterion)


def test_fixed_size_compiles_without_a_graph_break():
    (x, y), net, aam = batch(), nn.Linear(10, K).double(), AAM(K, threshold=0.3, fixed_size=True)

    def step(x, y):
        return aam_loss(lambda v: net(v.flatten(1)), aam, x, y).loss

    losses = []
    for f in (torch.compile(step, fullgraph=True, backend="eager"), step):
        torch.manual_seed(0)
        losses.append(f(x, y))
    torch.testing.assert_close(*losses)
    torch._dynamo.reset()


def test_a_criterion_that_keeps_the_class_axis_is_refused():
    def flat(logits, target, *, reduction):
        return F.binary_cross_entropy_with_logits(logits, target, reduction=reduction)

    with pytest.raises(ValueError, match=r"one loss per sample, shape \(8,\), got \(8, 3\); retu"):
        aam_loss(Net(), AAM(K), *batch(), criterion=flat)
