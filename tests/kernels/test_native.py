"""The C library: what it reads and writes, its threads, and a library that cannot be used."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import icasa
from icasa.kernels import library, native
from tests.kernels.test_attend import CASES, WEIGHED, every_class, make
from tests.strategies import seeded

pytestmark = pytest.mark.usefixtures("c_library")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("channels", "shape", "options"), CASES)
@every_class
def test_what_is_saved_fills_its_memory_and_no_more(
    cls, channels, shape, options, training, monkeypatch
):
    x, spaces = torch.randn(shape[0], channels, *shape[1:]), []
    name = "empty_gates" if cls in WEIGHED else "empty_saved"
    right = getattr(native, name)

    def poisoned(*layer):
        saved, statistics = right(*layer)
        spaces.append((saved.new_full((len(saved) + 99,), float("nan")), len(saved)))
        return spaces[0][0], statistics

    monkeypatch.setattr(native, name, poisoned)
    make(cls, channels, **options).train(training)(x)
    ((space, size),) = spaces
    assert not space[:size].isnan().any()
    assert space[size:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_read_and_rounded_as_torch_does(dtype):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    finite = every[every.isfinite()]
    x = torch.stack((finite, finite.flip(0)))[None, :, None].contiguous()
    layer = icasa.SA(2, groups=1, shuffle=False, fused=True, dtype=dtype)
    for bias, share in ((100.0, 1.0), (0.0, 0.5), (-1.0, torch.tensor(-1.0).sigmoid())):
        layer.channel_bias.data.fill_(bias)
        with torch.no_grad():
            y = layer(x)
        assert torch.equal(y[:, 0], (x[:, 0].float() * share).to(dtype))
    flushed = torch.set_flush_denormal(True)
    try:
        y = layer(x)
        torch.testing.assert_close(y[:, 0], (x[:, 0].float() * share).to(dtype), rtol=0, atol=1e-7)
    finally:
        torch.set_flush_denormal(not flushed)
    x[..., 0] = float("nan")
    assert layer(x)[0, 0].isnan().all()
    x[..., 0] = float("inf")
    assert layer(x)[0, 0, 0, 0].isnan()


def test_a_library_of_another_version_is_left_for_torch(monkeypatch):
    path = Path(native.__file__).with_name("libicasa.so")
    monkeypatch.setattr(library, "INTERFACE", library.INTERFACE + 1)
    loaded, failure = library.load(path)
    assert loaded is None
    assert "of version" in failure
    assert "install icasa again" in failure


def test_a_library_that_cannot_be_loaded_is_reported_once_and_when_it_is_used(
    monkeypatch, tmp_path
):
    (tmp_path / "broken.so").write_text("not a library")
    loaded, failure = library.load(tmp_path / "broken.so")
    monkeypatch.setattr(native, "LIBRARY", loaded)
    monkeypatch.setattr(native, "_reason", failure)
    layer, x = make(icasa.SA, fused=None), torch.randn(2, 8, 3, 5)
    with pytest.warns(RuntimeWarning, match="the CPU uses PyTorch's operators: .*broken.so"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
        assert icasa.backend() == "torch"


def test_a_missing_library_is_reported_once_when_it_would_be_used(tmp_path, monkeypatch):
    loaded, reason = library.load(tmp_path / "missing.so")
    monkeypatch.setattr(native, "LIBRARY", loaded)
    monkeypatch.setattr(native, "_reason", reason)
    layer, x = make(icasa.SA, fused=None), torch.randn(2, 8, 3, 5)
    with pytest.warns(RuntimeWarning, match="PyTorch's operators: no C library: none in the wheel"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)


def test_no_memory_for_the_gates_is_an_error(monkeypatch):
    layer, x = make(icasa.SA), torch.randn(2, 8, 3, 5, requires_grad=True)
    y = layer(x)
    failing = SimpleNamespace(icasa_attend=lambda *_: 0, icasa_attend_backward=lambda *_: 0)
    monkeypatch.setattr(native, "LIBRARY", failing)
    for call in (lambda: layer(x), y.sum().backward):
        with pytest.raises(MemoryError, match="expected memory for the gates, got none; give few"):
            call()


def test_a_library_of_one_thread_is_used_where_that_is_faster(monkeypatch):
    small, large = torch.empty(1, 8, 3, 5), torch.empty(1, 8, 64, 64)
    assert large.numel() >= native.PARALLEL
    monkeypatch.setattr(native, "THREADED", False)
    for threads, faster in ((1, True), (2, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert native.is_faster(small)
        assert native.is_faster(large) == faster
        assert native.serves(large)
    assert not native.is_faster(small.double())


@pytest.mark.parametrize("dtype", native.TYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 2), (2, 3, 5, 7), (3, 8, 4, 2), (2, 17, 9, 9), (1, 40, 11, 30)]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_copies_from_one_memory_format_to_the_other(shape, dtype, threads, monkeypatch):
    monkeypatch.setattr(native, "PARALLEL", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    formats = torch.contiguous_format, torch.channels_last
    planes = torch.randn(shape, generator=seeded(0)).to(dtype)
    for given, wanted in (formats, formats[::-1]):
        x = planes.contiguous(memory_format=given)
        y = native.copy(x, wanted)
        assert y.is_contiguous(memory_format=wanted)
        assert torch.equal(y, planes)
    sliced = torch.stack((planes, planes), dim=-1)[..., 0]
    assert torch.equal(native.copy(sliced, torch.channels_last), planes)


def test_planes_are_weighed_by_the_c_where_that_is_faster():
    """PyTorch is for many units beside a plane, and in a contiguous evaluation for a quarter."""
    small, large = torch.empty(7, 64, 4, 16), torch.empty(8, 64, 4, 16)
    for x, units, needs_grad, faster in (
        (small, 65, True, True),
        (small, 65, False, True),
        (large, 64, True, True),
        (large, 65, True, False),
        (large, 16, False, True),
        (large, 17, False, False),
        (large.contiguous(memory_format=torch.channels_last), 64, False, True),
        (large.contiguous(memory_format=torch.channels_last), 65, False, False),
    ):
        assert native.net_is_faster(x, units, needs_grad) == faster
