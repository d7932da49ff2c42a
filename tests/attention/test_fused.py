"""The adapter: what fused=True refuses, what None chooses, compile and export."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import icasa
from icasa.kernels import native
from tests.kernels.test_layers import insist
from tests.strategies import lay_out, ndims, randomise

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA, icasa.SE, icasa.ECA, icasa.CBAM)
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
    refuse(layer, X, "expected no lengths, got lengths; leave them out", lengths)
    assert not runs_fused(free, X, lengths)
    refuse(layer.to("meta"), X.to("meta"), "expected x on one of .*'cpu'.*, got meta")
    layer = layer.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"no torch\.func transform or forward-mode AD"):
        torch.vmap(layer)(X[None])
    torch.vmap(free)(X[None])
    with forward_ad.dual_level():
        refuse(layer, X, "forward-mode AD")
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        assert forward_ad.unpack_dual(free(dual)).tangent is not None
    with pytest.raises(ValueError, match=r"expected no trace by torch\.jit"):
        torch.jit.trace(layer, X)


@every_class
def test_true_refuses_tensors_of_another_type_or_device(cls):
    layer = cls(8, fused=True)
    refuse(layer, X.to(torch.float8_e5m2), r"x of one of .*, got torch.float8_e5m2; call x.float")
    refuse(layer.double(), X, r"parameters of torch.float32, got torch.float64; convert")
    refuse(layer.to("meta"), X, "parameters on cpu, got meta; move the layer or x")

    class Tagged(torch.Tensor):
        pass

    layer = cls(8, fused=True)
    name, p = next(iter(layer.named_parameters()))
    owner = layer.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(p.detach().as_subclass(Tagged)))
    refuse(layer, X, "plain parameters, got ")


@every_class
def test_takes_two_axes_and_one_of_three_values_when_it_is_built(cls):
    with pytest.raises(ValueError, match=r"expected fused to be one of .*, got 'yes'"):
        cls(8, fused="yes")
    if ndims(cls) == (2,):
        return
    with pytest.raises(ValueError, match="expected ndim=2 with fused=True, got ndim=3; use"):
        cls(8, ndim=3, fused=True)
    for fused in (None, False):
        assert cls(8, ndim=1, fused=fused)(torch.randn(2, 8, 5)).shape == (2, 8, 5)


@every_class
def test_none_takes_the_fast_path_for_a_plain_map_alone(cls, backend):
    layer, large = cls(8).eval(), torch.randn(2, 8, 128, 128)
    for x in (large, X):
        assert runs_fused(layer, x) == (backend == "c")
        with torch.no_grad():
            assert runs_fused(layer, x) == (backend == "c")
    assert not runs_fused(cls(8, dtype=torch.float64).eval(), X.double())
    assert not runs_fused(cls(8, fused=False), large)
    assert runs_fused(layer, lay_out(large, "sliced")) == (backend == "c")
    assert runs_fused(layer, lay_out(large, "channels_last")) == (backend == "c")
    assert not runs_fused(layer, X[:0])
    assert runs_fused(cls(8, fused=True), X[:0])
    for ndim in set(ndims(cls)) - {2}:
        for size in (5, 64**2):  # 4096 x 16 elements: past where a kernel looks at the size
            x = torch.randn(2, 8, size, *[1] * (ndim - 1))
            assert not runs_fused(cls(8, ndim=ndim), x)


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


@every_class
def test_none_shows_whatever_watches_operators_those_of_pytorch(cls, c_library):
    seen = set()

    class Watches(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.namespace)
            return func(*args, **(kwargs or {}))

    layer = cls(8).eval()
    assert runs_fused(layer, X)
    with torch.no_grad(), Watches():
        layer(X)
    assert seen == {"aten"}
    layer.fused = True
    with torch.no_grad(), Watches():
        layer(X)
    assert "icasa" in seen


def test_hooks_on_a_branch_are_run():
    layer, seen = icasa.ICASA(8), []
    handle = layer.ica.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    layer(X)
    assert seen == [X.shape]
    layer.fused = True
    refuse(layer, X, "expected ica without hooks, got hooks or another forward; remove them")
    handle.remove()
    layer(X)
    assert len(seen) == 1


@every_class
def test_shows_the_option_where_it_is_set_and_saves_nothing(cls):
    assert "fused" not in cls(8).extra_repr()
    for fused in (True, False):
        assert f"fused={fused}" in cls(8, fused=fused).extra_repr()
    assert cls(8, fused=True).state_dict().keys() == cls(8).state_dict().keys()


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
    assert ("torch.ops.icasa." in str(program)) == (fused is True)
    torch.testing.assert_close(program.module()(X), layer(X))


@pytest.mark.parametrize("strict", [False, True])
@every_class
def test_a_default_layer_exports_pytorchs_operators_for_large_maps_too(cls, strict):
    example = torch.randn(2, 8, 128, 129)  # more than 2^18 elements
    program = torch.export.export(cls(8).eval(), (example,), strict=strict)
    assert "icasa." not in str(program.graph)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@every_class
def test_refuses_a_batch_of_gradients_and_names_the_way_out(cls, layout):
    layer, x = randomise(cls(8, fused=True)), lay_out(X, layout).clone().requires_grad_()
    message = (
        r"expected one gradient at a time .*, got a batch .*; build the layer with fused=False"
    )
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.functional.jacobian(layer, x, vectorize=True)
    y = layer(x)
    batch = torch.randn(3, *y.shape)
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(y, x, batch, is_grads_batched=True)
    plain = insist(layer, False)
    (got,) = torch.autograd.grad(plain(x), x, batch, is_grads_batched=True)
    for g, each in zip(batch, got, strict=True):
        torch.testing.assert_close(torch.autograd.grad(layer(x), x, g)[0], each)


def test_names_the_backend_that_runs():
    assert icasa.backend() == icasa.backend("cpu") in ("c", "torch")
    assert (icasa.backend() == "c") == (native.LIBRARY is not None)
    with pytest.raises(ValueError, match=r"expected a device among .*'cpu'.*, got 'meta'"):
        icasa.backend("meta")


@pytest.mark.parametrize(
    "register",
    [
        f"register_{hook}_hook"
        for hook in ("forward_pre", "forward", "full_backward_pre", "full_backward")
    ],
)
@every_class
def test_a_hook_on_any_part_is_run(cls, register):
    for name, part in cls(8).named_modules():
        if name == "" or isinstance(part, torch.nn.ModuleList):
            continue  # the layer itself, and a list, which is never called
        layer, seen = cls(8), []
        getattr(layer.get_submodule(name), register)(lambda *args, seen=seen: seen.append(args))
        layer(X.clone().requires_grad_()).sum().backward()
        assert seen, name


@every_class
def test_many_channels_are_served(cls):
    layer = cls(2064, fused=True)  # 258 in a half of a group
    x = torch.randn(1, 2064, 2, 3)
    torch.testing.assert_close(layer(x), insist(layer, False)(x), rtol=1e-4, atol=1e-5)
