"""CA, ICA, SA and ICASA on maps in channels_last: read and written as they lie."""

import pytest
import torch

import icasa
from icasa.kernels import native
from icasa.kernels.ops import OPS
from tests.kernels import test_ops
from tests.kernels.test_layers import insist
from tests.strategies import lay_out, randomise, seeded

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
READS_LAST = native.reads_last

pytestmark = pytest.mark.usefixtures("c_library", "reads_last")


def last(x):
    return lay_out(x, "channels_last")


@pytest.fixture
def no_copies(monkeypatch):
    def refuse(*_):
        raise AssertionError("expected no copy to another memory format, got one")

    monkeypatch.setattr(native.LIBRARY, "icasa_transpose", refuse)


def test_maps_of_few_channels_are_copied():
    read = {(c, groups): READS_LAST(c, groups) for c in (8, 16, 32, 64) for groups in (0, 1, 4, 8)}
    assert {sizes for sizes, yes in read.items() if not yes} == {
        (8, 0),
        (8, 1),
        (8, 4),
        (8, 8),
        (16, 1),
        (16, 4),
        (16, 8),
        (32, 8),
    }


@every_class
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", native.TYPES, ids=str)
def test_is_read_and_written_as_it_lies(cls, training, dtype, no_copies):
    layer = randomise(cls(24, fused=True, dtype=dtype)).train(training)
    x, g = (last(torch.randn(3, 24, 5, 7, generator=seeded(k)).to(dtype)) for k in (0, 1))
    with torch.no_grad():
        ys = [insist(layer, True)(x)]
    x.requires_grad_()
    ys.append(layer(x))
    for t in (*ys, *torch.autograd.grad(ys[1], x, g)):
        assert t.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(*ys)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@test_ops.each_part
@test_ops.each_dtype
def test_the_operators_pass_opcheck(parts, dtype, training, backend):
    x, *layer = test_ops.arguments(parts, dtype, training)
    x = last(x)
    torch.library.opcheck(OPS.attend.default, (x, *layer[:-1]))
    torch.library.opcheck(OPS.attend_forward.default, (x, *layer))
    g, *rest = test_ops.backward((x, *layer))
    for gradient in (g, last(g)):
        torch.library.opcheck(OPS.attend_backward.default, (gradient, *rest))
