"""ICASA: Eq. 5 over its two branches, the weight beta, and the count of section 2.2."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from icasa import ICA, ICASA, SA
from tests.strategies import SEEDS, feature_maps, randomise


def with_beta(value, **kwargs):
    layer = randomise(ICASA(8, **kwargs)).eval()
    with torch.no_grad():
        layer.raw_beta.fill_(value)
    return layer


@given(x=feature_maps())
def test_beta_at_1_is_ica_and_at_0_sa_bit_for_bit(x):
    options = {"ndim": x.ndim - 2, "fused": False}  # the fast path sums planes in another order
    layer = with_beta(1.0, **options)
    assert torch.equal(layer(x), layer.ica(x))
    layer = with_beta(0.0, **options)
    assert torch.equal(layer(x), layer.sa(x))


@given(x=feature_maps(dtype=torch.float64), beta=st.floats(-2, 2), residual=st.booleans())
def test_mixes_the_branches_by_eq_5(x, beta, residual):
    layer = with_beta(beta, ndim=x.ndim - 2, residual=residual, dtype=torch.float64)
    expected = beta * layer.ica(x) + (1 - beta) * layer.sa(x) + (x if residual else 0)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("bounded", [False, True])
def test_beta_starts_at_a_half_and_learns(bounded):
    layer = ICASA(8, bounded=bounded)
    assert layer.beta.item() == 0.5
    layer(torch.randn(2, 8, 3, 5)).square().sum().backward()
    assert layer.raw_beta.grad.abs() > 0
    with torch.no_grad():
        layer.raw_beta.fill_(3.0)
    layer.reset_parameters()
    assert layer.beta.item() == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [1e-2, 10.0, 1e6])
def test_bounded_beta_stays_inside_0_1_where_a_free_one_leaves(step, dtype):
    for sign in (-1, 1):
        free, bounded = (ICASA(8, bounded=b, dtype=dtype) for b in (False, True))
        for layer in (free, bounded):
            optimiser = torch.optim.SGD([layer.raw_beta], lr=step)
            (sign * layer.raw_beta).sum().backward()
            optimiser.step()
        assert 0 < bounded.beta < 1
        assert abs(free.beta.item() - 0.5) == pytest.approx(step, rel=1e-3)


def test_bounded_beta_is_the_sigmoid_of_its_parameter():
    layer = with_beta(0.7, bounded=True, dtype=torch.float64)
    raw = torch.tensor([0.7], dtype=torch.float64)
    torch.testing.assert_close(layer.beta.detach(), torch.sigmoid(raw))


@given(
    x=feature_maps(channels=24, ndims=(2,), min_batch=2),
    groups=st.sampled_from([1, 2, 3, 4, 6, 12]),
    reduction=st.sampled_from([2, 32]),
    kernel_size=st.sampled_from([1, 3]),
    norm=st.booleans(),
    shuffle=st.booleans(),
    seed=SEEDS,
)
def test_every_option_reaches_its_branch(x, groups, reduction, kernel_size, norm, shuffle, seed):
    ica = {"reduction": reduction, "kernel_size": kernel_size, "norm": norm}
    sa = {"groups": groups, "shuffle": shuffle}
    layer = randomise(ICASA(24, **ica, **sa), seed)
    for branch, alone in ((layer.ica, ICA(24, **ica)), (layer.sa, SA(24, **sa))):
        alone.load_state_dict(branch.state_dict(), strict=True)
        torch.testing.assert_close(branch(x), alone(x))


def test_only_the_aligned_form_keeps_channels_in_place():
    x = torch.zeros(1, 8, 3, 4)
    x[:, 1] = 1.0
    for shuffle, reached in ((False, [1]), (True, [1, 2])):
        y = ICASA(8, shuffle=shuffle).eval()(x)
        assert y.abs().sum((0, 2, 3)).nonzero().flatten().tolist() == reached


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_has_one_parameter_more_than_its_branches(ndim):
    layer = ICASA(32, ndim=ndim)
    branches = [*ICA(32, ndim=ndim).parameters(), *SA(32, ndim=ndim).parameters()]
    total = sum(p.numel() for p in branches) + 1
    assert sum(p.numel() for p in layer.parameters()) == total


def test_costs_72352_multiply_accumulates_on_a_speech_map():
    with FlopCounterMode(display=False) as counter:
        ICASA(32)(torch.randn(1, 32, 19, 100))
    assert counter.get_total_flops() / 2 == 72_352


def test_gates_are_those_of_ica_then_that_of_sa():
    layer, x = randomise(ICASA(8)).eval(), torch.randn(2, 8, 3, 5)
    expected = (*layer.ica.gates(x), *layer.sa.gates(x))
    for got, gate in zip(layer.gates(x), expected, strict=True):
        assert torch.equal(got, gate)


def test_beta_is_spared_from_weight_decay_under_its_parameter_s_name():
    assert "raw_beta" in ICASA(8).no_weight_decay()


def test_indivisible_channels_are_refused_as_by_sa():
    with pytest.raises(ValueError, match="groups that fit 24 channels: 1, 2, 3, 4, 6, 12"):
        ICASA(24, groups=8)
