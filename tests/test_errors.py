"""Error messages of every public layer: "expected ..., got ...; hint"."""

import re

import numpy as np
import pytest
import torch

import icasa
import icasa.attention
from tests.strategies import FusedICA, FusedICASA, FusedSA, build, ndims, options

LAYERS = [getattr(icasa, name) for name in icasa.attention.__all__]
LAYERS.append(icasa.DepthwiseSeparableConv)
every_layer = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
every_layer_and_fused = pytest.mark.parametrize(
    "cls", [*LAYERS, FusedICA, FusedSA, FusedICASA], ids=lambda cls: cls.__name__
)
AXES = {1: "L", 2: "H, W", 3: "D, H, W"}
INTEGERS = [
    (cls, name)
    for cls in LAYERS
    for name, option in options(cls).items()
    if option.annotation in (int, int | None)
]


def message(layer, x):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        layer(x)
    return str(caught.value)


@every_layer
def test_wrong_channels_name_expected_got_and_hint(cls):
    for ndim in ndims(cls):
        x = torch.randn(2, 7, *(3, 4, 5)[:ndim])
        text = message(build(cls, ndim=ndim), x)
        assert text.startswith(cls.__name__)
        assert f"(N, 8, {AXES[ndim]})" in text
        assert f"got {tuple(x.shape)}" in text
        assert "build the layer with channels=7" in text


@every_layer
def test_wrong_rank_names_expected_got_and_a_hint_that_works(cls):
    for ndim in ndims(cls):
        for rank in {1, 2, 3, 4, 5, 6} - {ndim + 2}:
            x = torch.randn([8, 8, 3, 2, 2, 2][:rank])
            text = message(build(cls, ndim=ndim), x)
            assert f"(N, 8, {AXES[ndim]})" in text
            assert f"got {tuple(x.shape)}" in text
            hint = text.split("; ", 1)[1]
            assert re.match("(add|build|reshape|call) ", hint), hint
            if rank == ndim + 1:
                assert "x.unsqueeze(0)" in hint
                build(cls, ndim=ndim).eval()(x.unsqueeze(0))
            if found := re.search(r"ndim=(\d)", hint):
                assert "ndim" in options(cls), f"{cls.__name__} takes no ndim: {hint}"
                build(cls, ndim=int(found[1])).eval()(x)


@every_layer
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool], ids=str)
def test_integer_input_names_expected_got_and_hint(cls, dtype):
    text = message(build(cls), torch.ones(2, 8, 3, 4, dtype=dtype))
    assert "expected a floating point x" in text
    assert f"got {dtype}" in text
    assert "x.float()" in text


@every_layer_and_fused
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_an_empty_axis_is_named(cls, training):
    for ndim in ndims(cls):
        names = AXES[ndim].split(", ")
        for empty in range(1, 2**ndim):  # every set of empty axes
            sizes = [0 if empty >> axis & 1 else 3 for axis in range(ndim)]
            text = message(build(cls, ndim=ndim).train(training), torch.ones(2, 8, *sizes))
            listed = " and ".join(name for name, n in zip(names, sizes, strict=True) if not n)
            assert f"(N, 8, {AXES[ndim]}), got {(2, 8, *sizes)} with an empty {listed};" in text


@every_layer_and_fused
def test_an_empty_batch_is_taken(cls):
    for ndim in ndims(cls):
        x = torch.ones(0, 8, *[3] * ndim, requires_grad=True)
        layer = build(cls, ndim=ndim).eval()
        y = layer(x)
        assert y.shape == x.shape
        y.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("call", ["forward", "gates"])
@pytest.mark.parametrize("cls", LAYERS[:-1], ids=lambda cls: cls.__name__)
def test_gates_and_forward_refuse_alike(cls, call):
    with pytest.raises(ValueError, match=r"got \(2, 8, 0, 4\) with an empty H; check the pool"):
        getattr(build(cls), call)(torch.randn(2, 8, 0, 4))
    with pytest.raises(ValueError, match=r"expected x of shape \(N, 8, H, W\), got \(2, 9, 3, 4\)"):
        getattr(build(cls), call)(torch.randn(2, 9, 3, 4))


@pytest.mark.parametrize(
    ("cls", "name"), INTEGERS, ids=[f"{cls.__name__}-{name}" for cls, name in INTEGERS]
)
@pytest.mark.parametrize("value", [-1, 0, 2.0, True, "8"], ids=repr)
def test_bad_integer_arguments_name_the_argument_and_the_value(cls, name, value):
    if name == "padding" and value == 0:
        return
    arguments = {"channels": 8, name: value}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is what is tested)
        cls(**arguments)
    assert name in str(caught.value)
    assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize("cls", [icasa.ICA, icasa.ICASA, icasa.ECA, icasa.CBAM])
@pytest.mark.parametrize("size", [2, 4, 6])
def test_even_kernels_are_refused_with_their_odd_neighbours(cls, size):
    text = rf"expected kernel_size to be odd.*got {size}; use {size - 1} or {size + 1}"
    with pytest.raises(ValueError, match=text):
        cls(8, kernel_size=size)


@every_layer
def test_unknown_options_are_refused(cls):
    with pytest.raises(TypeError, match="reductoin"):
        cls(8, reductoin=4)


@every_layer
def test_options_after_channels_are_keyword_only(cls):
    late = [o for name, o in options(cls).items() if name not in ("channels", "out_channels")]
    assert all(o.kind is o.KEYWORD_ONLY for o in late)
    assert [o.name for o in late][-2:] == ["device", "dtype"]


@every_layer
def test_numpy_s_integers_are_integers(cls):
    plain, numpy = build(cls), build(cls, channels=np.int64(8))
    assert repr(numpy) == repr(plain)
    assert type(numpy.channels) is int
