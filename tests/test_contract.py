"""What every public layer promises, and a layer yet to be written too: see `LAYERS`."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.func import functional_call

import icasa
import icasa.attention
from icasa.attention.sa import channel_shuffle
from icasa.padding import BATCH_NORMS
from tests.strategies import (
    FORMATS,
    SEEDS,
    FusedCA,
    FusedCBAM,
    FusedECA,
    FusedICA,
    FusedICASA,
    FusedSA,
    FusedSE,
    build,
    feature_maps,
    ndims,
    randomise,
)

ATTENTION = [getattr(icasa, name) for name in icasa.attention.__all__]
ATTENTION += [FusedCA, FusedICA, FusedSA, FusedICASA, FusedSE, FusedECA, FusedCBAM]
LAYERS = [*ATTENTION, icasa.HSwish, icasa.DepthwiseSeparableConv]
every_layer = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
every_attention = pytest.mark.parametrize("cls", ATTENTION, ids=lambda cls: cls.__name__)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def one_value(x):
    """Whether a BatchNorm may find one value per channel, which torch refuses in training."""
    return x.shape[0] == 1 and math.prod(x.shape[2:]) == 1


def explained(layer, x):
    """The output that the gates of `layer` promise."""
    if isinstance(layer, icasa.ICASA):
        n = layer.ica.ndim
        gates = layer.gates(x)
        ica, sa = x * math.prod(gates[:n]), x * math.prod(gates[n:])
        return layer.beta * ica + (1 - layer.beta) * channel_shuffle(sa)
    y = x * math.prod(layer.gates(x))
    return channel_shuffle(y) if isinstance(layer, icasa.SA) else y


@every_mode
@every_layer
@given(data=st.data())
def test_keeps_shape_dtype_layout_and_input(cls, training, data):
    x = data.draw(feature_maps(ndims=ndims(cls)))
    assume(not (training and one_value(x)))
    layer = randomise(build(cls, ndim=x.ndim - 2)).train(training)
    before, strides = x.clone(), x.stride()
    y = layer(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    layouts = {torch.contiguous_format, FORMATS.get(x.ndim, torch.contiguous_format)}
    if cls is icasa.DepthwiseSeparableConv:
        layouts -= {torch.channels_last_3d}  # torch's conv3d itself drops it on the CPU
    for layout in layouts:
        if x.numel() and x.is_contiguous(memory_format=layout):  # no elements, no layout
            assert y.is_contiguous(memory_format=layout), layout
    assert torch.equal(x, before)
    assert x.stride() == strides


@every_mode
@every_layer
def test_empty_batch_has_gradients_and_leaves_statistics_finite(cls, training):
    layer = build(cls).train(training)
    x = torch.randn(0, 8, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
        assert not p.grad.any(), name
    for name, tensor in layer.state_dict().items():
        assert tensor.isfinite().all(), name


@every_layer
def test_a_single_value_is_refused_only_by_a_batch_norm_in_training(cls):
    for ndim in ndims(cls):
        layer = build(cls, ndim=ndim)
        x = torch.randn(1, 8, *[1] * ndim)
        assert layer.eval()(x).shape == x.shape
        try:
            assert layer.train()(x).shape == x.shape
        except ValueError as error:
            assert "more than 1 value per channel" in str(error)  # noqa: PT017 (may not raise)
            assert any(isinstance(m, BATCH_NORMS) for m in layer.modules())


@every_mode
@every_layer
@given(data=st.data())
def test_layout_does_not_change_the_values(cls, training, data):
    x = data.draw(feature_maps(ndims=ndims(cls), min_batch=1, dtype=torch.float64))
    assume(not (training and one_value(x)))
    layer = randomise(build(cls, ndim=x.ndim - 2, **double(cls))).train(training)
    torch.testing.assert_close(layer(x), layer(x.contiguous().clone()))


def double(cls):
    return {} if cls is icasa.HSwish else {"dtype": torch.float64}


@every_layer
@given(data=st.data())
def test_samples_do_not_meet_in_eval(cls, data):
    x = data.draw(feature_maps(ndims=ndims(cls), min_batch=2, dtype=torch.float64))
    layer = randomise(build(cls, ndim=x.ndim - 2, **double(cls))).eval()
    torch.testing.assert_close(layer(x), torch.cat([layer(row) for row in x.split(1)]))


@every_mode
@every_layer
def test_gradients_equal_differences(cls, training):
    for ndim in ndims(cls):
        layer = randomise(build(cls, ndim=ndim, **double(cls))).train(training)
        names = [name for name, _ in layer.named_parameters()]
        x = torch.randn(2, 8, *(2, 3, 2)[:ndim], dtype=torch.float64, requires_grad=True)

        def call(x, *parameters, layer=layer, names=names):
            return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

        assert torch.autograd.gradcheck(call, (x, *layer.parameters()), fast_mode=ndim != 2)


@every_mode
@every_attention
@given(data=st.data())
def test_gates_are_in_0_1_and_explain_the_output(cls, training, data):
    x = data.draw(feature_maps(ndims=ndims(cls), min_batch=1, dtype=torch.float64))
    assume(not (training and one_value(x)))
    layer = randomise(build(cls, ndim=x.ndim - 2, dtype=torch.float64)).train(training)
    for gate in layer.gates(x):
        assert ((gate > 0) & (gate < 1)).all()
        assert gate.ndim == x.ndim
        assert torch.broadcast_shapes(gate.shape, x.shape) == x.shape
    torch.testing.assert_close(layer(x), explained(layer, x))


@every_layer
@given(seed=SEEDS)
def test_state_dict_deepcopy_and_pickle_carry_everything(cls, seed):
    layer, x = randomise(build(cls), seed).eval(), torch.randn(2, 8, 3, 5)
    y = layer(x)
    loaded = build(cls).eval()
    loaded.load_state_dict(layer.state_dict(), strict=True)
    copies = {
        "state_dict": loaded,
        "deepcopy": copy.deepcopy(layer),
        "pickle": pickle.loads(pickle.dumps(layer)),
    }
    for way, twin in copies.items():
        assert torch.equal(twin(x), y), way
        randomise(twin, seed + 1)
        assert torch.equal(layer(x), y), f"{way} shares memory with its original"


@every_layer
def test_reset_parameters_draws_anew_as_the_constructor_does(cls):
    if not hasattr(cls, "reset_parameters"):
        assert not list(build(cls).parameters())
        return
    layer = randomise(build(cls))
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    assert_same_state(layer, build(cls))
    constant = same_tensors(build(cls), build(cls))
    first = copy.deepcopy(layer)
    layer.reset_parameters()
    assert same_tensors(first, layer) == constant


def same_tensors(a, b):
    a, b = a.state_dict(), b.state_dict()
    return {name for name in a if torch.equal(a[name], b[name])}


def assert_same_state(a, b):
    assert same_tensors(a, b) == set(b.state_dict()) == set(a.state_dict())


@every_layer
def test_built_on_meta_then_emptied_and_reset_equals_built_on_cpu(cls):
    if not hasattr(cls, "reset_parameters"):
        return
    layer = build(cls, device="meta")
    assert all(t.is_meta for t in (*layer.parameters(), *layer.buffers()))
    layer.to_empty(device="cpu")
    for tensor in layer.state_dict().values():
        tensor.fill_(-7)
    torch.manual_seed(5)
    layer.reset_parameters()
    torch.manual_seed(5)
    assert_same_state(layer, build(cls))


@every_layer
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtype_reaches_parameters_gates_and_output(cls, dtype):
    if cls is icasa.HSwish:
        assert cls()(torch.ones(2, dtype=dtype)).dtype == dtype
        return
    layer = randomise(build(cls, dtype=dtype)).eval()
    assert {p.dtype for p in (*layer.parameters(), *layer.buffers()) if p.is_floating_point()} == {
        dtype
    }
    x = torch.randn(2, 8, 5, 7).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert {g.dtype for g in getattr(layer, "gates", lambda x: ())(x)} <= {dtype}
    exact = layer.double()(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=0.03, atol=0.03)


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_leaks_no_dtype(cls, dtype):
    layer = randomise(build(cls))
    x = torch.randn(2, 8, 5, 7).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
        gates = layer.gates(x) if hasattr(layer, "gates") else ()
    # A bare convolution is what autocast is for: it answers in bfloat16, as torch's own does.
    assert y.dtype == (torch.bfloat16 if cls is icasa.DepthwiseSeparableConv else dtype)
    assert {g.dtype for g in gates} <= {dtype}
    y.float().sum().backward()
    assert x.grad.dtype == dtype
    assert all(p.grad.dtype == p.dtype for p in layer.parameters())


@every_attention
def test_weight_decay_groups_spare_gates_norms_and_biases(cls):
    layer = randomise(build(cls, channels=16))
    spared = layer.no_weight_decay()
    parameters = dict(layer.named_parameters())
    assert spared <= set(parameters)
    assert spared >= {name for name, p in parameters.items() if p.ndim <= 1}
    groups = [
        {"params": [p for n, p in parameters.items() if n in spared], "weight_decay": 0.0},
        {"params": [p for n, p in parameters.items() if n not in spared], "weight_decay": 0.5},
    ]
    optimiser = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.1)
    before = copy.deepcopy(layer.state_dict())
    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    optimiser.step()
    for name, p in parameters.items():
        assert torch.equal(p, before[name]) == (name in spared), name


@every_attention
def test_extra_repr_shows_the_channels_here_or_in_a_branch(cls):
    layer = build(cls, channels=48)
    shown = [m.extra_repr() for m in (layer, *layer.children()) if type(m) in ATTENTION]
    assert any(text.startswith("48") for text in shown)
