"""SE, ECA and CBAM of maps in channels_last, which the C reads as they lie."""

import pytest
import torch

import icasa
from icasa.kernels import native
from icasa.kernels.ops import OPS
from tests.kernels import law
from tests.kernels.test_exact import each_dtype, each_mode, put_in
from tests.kernels.test_layers import insist, outcome
from tests.kernels.test_weigh import backward, ties
from tests.strategies import lay_out, randomise, seeded

CLASSES = (icasa.SE, icasa.ECA, icasa.CBAM)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
LAST = torch.channels_last

pytestmark = pytest.mark.usefixtures("c_library")


def lay_out_last(*tensors):
    return [lay_out(t, "channels_last") for t in tensors]


@pytest.mark.parametrize("shape", [(1, 16, 1, 1), (1, 17, 1, 40), (3, 600, 5, 1), (9, 24, 40, 33)])
@each_dtype
@each_mode
@every_class
def test_agrees_with_what_planes_give(cls, mode, dtype, shape):
    layer = put_in(randomise(cls(shape[1], dtype=dtype)), "frozen" if shape[3] == 1 else mode)
    x, g, _ = law.draw("noise", 1.0, shape, dtype, 0)
    planes = outcome(insist(layer, True), x, g)
    slack = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    for name, got in outcome(insist(layer, True), *lay_out_last(x, g)).items():
        unit = planes[name].abs().max().item() if name not in ("y", "dx") else 1.0
        torch.testing.assert_close(got, planes[name], rtol=slack, atol=slack * unit, msg=name)


class WithoutCopies:
    """The library, whose copies between memory formats are refused."""

    def __init__(self, library):
        self.library = library

    def __getattr__(self, name):
        assert name != "icasa_transpose", "a map was copied"
        return getattr(self.library, name)


@pytest.mark.parametrize("channels", [2, 16])
@every_class
def test_is_read_and_returned_as_it_lies(cls, channels, monkeypatch):
    layer = randomise(cls(channels, fused=True))
    planes = torch.randn(2, 2, channels, 5, 7)
    monkeypatch.setattr(native, "LIBRARY", WithoutCopies(native.LIBRARY))
    result = outcome(layer, *lay_out_last(*planes))
    assert result["y"].is_contiguous(memory_format=LAST)
    assert result["dx"].is_contiguous(memory_format=LAST)
    with pytest.raises(AssertionError, match="a map was copied"):
        outcome(layer, *lay_out_last(planes[0]), planes[1])  # a gradient in another format


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["relu", "pairs", "ones", "zeros"])
@pytest.mark.parametrize("training", [True, False])
def test_equal_maxima_share_their_gradient_as_in_plain_torch(kind, training, dtype):
    layer = randomise(icasa.CBAM(16, kernel_size=3, dtype=dtype), 3).train(training)
    with torch.no_grad():  # channels that are equal have equal gates
        layer.excite.weight[1::2] = layer.excite.weight[::2]
        layer.excite.bias[1::2] = layer.excite.bias[::2]
    x, g = (torch.randn(3, 16, 5, 6, generator=seeded(k)) for k in range(2))
    x, g = lay_out_last(ties(x)[kind].to(dtype), g.to(dtype))
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    slack = {torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for name, got in outcome(insist(layer, True), x, g).items():
        want = exact[name].to(got.dtype)
        torch.testing.assert_close(got, want, rtol=slack, atol=slack, msg=name)


CASES = [("SE", False), ("ECA", False), ("CBAM", False), ("CBAM", True)]


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "training"), CASES)
def test_the_operators_pass_opcheck_and_return_channels_last(name, training, dtype, channels):
    layer = randomise(getattr(icasa, name)(channels, dtype=dtype))
    parts = [layer.conv] if name == "ECA" else [layer.squeeze, layer.excite]
    net, spatial = [p.detach() for part in parts for p in part.parameters()], []
    if name == "CBAM":
        norm = layer.norm
        spatial = [layer.conv.weight.detach(), *(p.detach() for p in norm.parameters())]
        spatial += [norm.running_mean, norm.running_var]
    x = torch.randn(2, channels, 3, 5, generator=seeded(9), dtype=dtype)
    forward = lay_out(x, "channels_last"), net, spatial, 1e-5, training
    torch.library.opcheck(OPS.weigh.default, forward[:-1])
    torch.library.opcheck(OPS.weigh_forward.default, forward)
    g, *rest = backward(*forward)
    for gradient in (*lay_out_last(g), g):
        torch.library.opcheck(OPS.weigh_backward.default, (gradient, *rest))
        assert OPS.weigh_backward(gradient, *rest)[0].is_contiguous(memory_format=LAST)
    assert OPS.weigh(*forward[:-1]).is_contiguous(memory_format=LAST)
