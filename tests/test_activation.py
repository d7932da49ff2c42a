"""HSwish: its closed form, its pieces, its slope."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from icasa import HSwish


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=20))
def test_equals_x_relu6_and_torch(values):
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(HSwish()(x), x * F.relu6(x + 3) / 6)
    torch.testing.assert_close(HSwish()(x), F.hardswish(x))


def test_is_zero_below_minus_3_and_the_identity_above_3():
    low, high = torch.linspace(-9, -3, 7), torch.linspace(3, 9, 7)
    assert not HSwish()(low).any()
    assert torch.equal(HSwish()(high), high)
    assert HSwish()(torch.tensor(-1.5)).item() == -0.375  # the minimum, by hand


def test_slope_is_that_of_the_parabola_between():
    x = torch.linspace(-2.9, 2.9, 30, dtype=torch.float64, requires_grad=True)
    HSwish()(x).sum().backward()
    torch.testing.assert_close(x.grad, (2 * x.detach() + 3) / 6)


def test_has_no_state_and_works_on_any_rank():
    assert not HSwish().state_dict()
    for rank in range(6):
        assert HSwish()(torch.ones([2] * rank)).shape == (2,) * rank
