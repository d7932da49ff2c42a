"""Who takes the fast path: what fused=True refuses, what None chooses, compile and export."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import icasa
from icasa import kernels
from icasa.kernels import native
from tests.strategies import lay_out, randomise

CLASSES = (icasa.ICA, icasa.SA, icasa.ICASA)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
X = torch.randn(2, 8, 3, 5)


def runs_fused(layer, x, lengths=None):
    """Whether a forward reaches the operators."""
    with torch.profiler.profile() as profile:
        layer(x, lengths)
    return any(event.key.startswith("icasa::") for event in profile.key_averages())


def refuse(layer, x, message, lengths=None):
    with pytest.raises(ValueError, match=message) as caught:
        layer(x, lengths)
    assert "fused=True" in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*is deprecated. Please switch:DeprecationWarning")
@every_class
def test_true_refuses_what_it_cannot_serve_and_none_serves_it(cls):
    layer, free = (randomise(cls(8, fused=fused)).eval() for fused in (True, None))
    lengths = torch.tensor([2, 5])
    refuse(layer, X, "wants no lengths, got lengths", lengths)
    assert not runs_fused(free, X, lengths)
    refuse(layer.to("meta"), X.to("meta"), "wants x on one of .*'cpu'.*, got meta")
    layer = layer.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"torch\.func transforms or forward-mode AD"):
        torch.vmap(layer)(X[None])
    torch.vmap(free)(X[None])
    with forward_ad.dual_level():
        refuse(layer, X, "forward-mode AD")
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        assert forward_ad.unpack_dual(free(dual)).tangent is not None
    with pytest.raises(ValueError, match=r"cannot be traced by torch\.jit"):
        torch.jit.trace(layer, X)


@every_class
def test_wants_two_axes_and_one_of_three_values_when_it_is_built(cls):
    with pytest.raises(ValueError, match="fused=True wants ndim=2, got ndim=3; build it with"):
        cls(8, ndim=3, fused=True)
    with pytest.raises(ValueError, match="fused must be None, False or True, got 'yes'"):
        cls(8, fused="yes")
    for fused in (None, False):
        assert cls(8, ndim=1, fused=fused)(torch.randn(2, 8, 5)).shape == (2, 8, 5)


@every_class
def test_none_takes_the_fast_path_for_a_plain_map_alone(cls, body):
    layer, large = cls(8).eval(), torch.randn(2, 8, 128, 128)
    assert runs_fused(layer, large)
    with torch.no_grad():
        assert runs_fused(layer, X) == (body == "c")
    assert not runs_fused(cls(8, dtype=torch.float64).eval(), X.double())
    assert not runs_fused(cls(8, fused=False), large)
    for layout in ("sliced", "channels_last"):
        assert runs_fused(layer, lay_out(large, layout)) == (body == "c")
    assert not runs_fused(layer, X[:0])
    assert runs_fused(cls(8, fused=True), X[:0])
    assert not runs_fused(cls(8, ndim=1), torch.randn(2, 8, 5))


@every_class
def test_none_shows_a_counter_of_flops_the_operators_that_it_knows(cls):
    counts = []
    for fused in (None, False):
        layer = cls(8, fused=fused).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(X)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
    assert (counts[0] > 0) == (cls is not icasa.SA)


def test_hooks_on_a_branch_are_run():
    layer, seen = icasa.ICASA(8), []
    handle = layer.ica.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    layer(X)
    assert seen == [X.shape]
    layer.fused = True
    refuse(layer, X, "does not call ICA, got hooks on it")
    handle.remove()
    layer(X)
    assert len(seen) == 1


@every_class
def test_shows_the_option_where_it_is_set_and_saves_nothing(cls):
    assert "fused" not in cls(8).extra_repr()
    for fused in (True, False):
        assert f"fused={fused}" in cls(8, fused=fused).extra_repr()
    assert cls(8, fused=True).state_dict().keys() == cls(8).state_dict().keys()


def test_one_pass_for_the_moments_and_one_for_the_mix_of_both_branches(monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", None)  # else both are one operator
    layer = icasa.ICASA(8, fused=True)
    with torch.profiler.profile() as profile:
        layer(X.clone().requires_grad_()).sum().backward()
    counts = {e.key: e.count for e in profile.key_averages() if e.key.startswith("icasa::")}
    assert counts == {
        "icasa::moments": 1,
        "icasa::mix": 1,
        "icasa::mix_backward": 1,
        "icasa::moments_backward": 1,
    }


@pytest.mark.parametrize("fused", [None, True])
@every_class
def test_compiles_into_one_graph_for_all_sizes(cls, fused):
    torch._dynamo.reset()
    layer = randomise(cls(8, fused=fused))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((3, 8, 7, 9), (2, 8, 5, 12)):
        x, other = (torch.ones(shape).cumsum(3).requires_grad_() for _ in range(2))
        for call, leaf in ((compiled, x), (layer, other)):
            call(leaf).square().sum().backward()
        torch.testing.assert_close(x.grad, other.grad)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("fused", [None, True])
@every_class
def test_exports_the_operators_only_when_told_to(cls, fused, strict):
    layer, example = randomise(cls(8, fused=fused)).eval(), torch.randn(3, 8, 7, 9)
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "n"), (2, "h"), (3, "w"))}
    program = torch.export.export(layer, (example,), dynamic_shapes=(sizes,), strict=strict)
    assert ("icasa.moments" in str(program)) == ("icasa.mix" in str(program)) == (fused is True)
    torch.testing.assert_close(program.module()(X), layer(X))


def test_names_the_body_that_runs():
    assert kernels.body("cpu") in ("c", "torch")
    with pytest.raises(ValueError, match="no body for 'meta'"):
        kernels.body("meta")


def test_a_library_of_another_version_is_left_for_torch(monkeypatch):
    if native.LIBRARY is None:
        pytest.skip("the C kernels were not compiled at installation")
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    with pytest.warns(RuntimeWarning, match="of another version; install icasa again"):
        assert native._load() is None
