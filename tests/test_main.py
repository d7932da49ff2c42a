"""`python -m icasa`: what a bug report should say, observed rather than guessed."""

import platform
import warnings

import numpy as np
import pytest
import torch

import icasa
import icasa.__main__ as report
from icasa import environment


def lines():
    return dict(line.split("  ", 1) for line in report.report().split("\n"))


def test_versions_machine_and_backends():
    found = {name: value.strip() for name, value in lines().items()}
    assert found["icasa"] == icasa.__version__
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == str(torch.get_num_threads())
    assert found["backend on cpu"] == report.describe_backend("cpu")
    assert {f"{name} on cpu" for name in icasa.attention.__all__} <= set(found)
    assert all(found.values())


@pytest.mark.parametrize("name", icasa.attention.__all__)
@pytest.mark.parametrize("train", [False, True])
def test_the_path_is_the_one_that_a_fresh_layer_takes(name, train):
    layer = getattr(icasa, name)
    said = report.path(layer, "cpu", train)
    if not hasattr(layer(8), "fused"):
        assert said == "PyTorch's operators: this layer has no fused kernel"
    elif report.backend("cpu") == "c":
        assert said == "fused, backend c"
    else:
        assert said == "PyTorch's operators: the C library is missing"


def test_without_the_c_library_it_says_so(monkeypatch):
    monkeypatch.setattr(report, "backend", lambda device: "torch")
    monkeypatch.setattr(report, "operators", lambda layer, x: [])
    assert report.path(icasa.SA, "cpu", True) == "PyTorch's operators: the C library is missing"
    assert report.describe_backend("cpu").startswith("torch (no C library: none in the wheel")


def test_a_library_that_does_not_load_is_named_with_the_reason(monkeypatch):
    def backend(device):
        warnings.warn("the CPU uses PyTorch's operators: undefined symbol", stacklevel=2)
        return "torch"

    monkeypatch.setattr(report, "backend", backend)
    said = report.describe_backend("cpu")
    assert said == "torch (the CPU uses PyTorch's operators: undefined symbol)"


def test_a_device_without_a_kernel_is_named():
    assert report.describe_backend("xpu").startswith("none: expected a device among ")


def test_a_refusal_is_given_with_its_reason(monkeypatch):
    class Refused(icasa.SA):
        def __init__(self, channels, device=None):
            super().__init__(channels, ndim=1, device=device)

        def forward(self, x):
            if self.fused:
                raise ValueError("fused=True expected ndim=2, got ndim=1")
            return super().forward(x[..., 0])

    said = report.path(Refused, "cpu", True)
    assert said == "PyTorch's operators: fused=True expected ndim=2, got ndim=1"


def test_operators_are_seen_where_they_are_called():
    x = torch.ones(1, 8, 4, 4)
    assert report.operators(icasa.ICA(8, fused=False), x) == []
    assert all(name.startswith("icasa.") for name in report.operators(icasa.ICA(8, fused=True), x))
    assert report.operators(icasa.ICA(8, fused=True), x)


@pytest.mark.parametrize(
    ("torch_says", "machine", "expected"),
    [
        ("AVX2", "x86_64", "avx2"),
        ("AVX512", "x86_64", "avx512"),
        ("DEFAULT", "AMD64", "sse2"),
        ("NO AVX", "x86_64", "sse2"),
        ("DEFAULT", "aarch64", "neon"),
        ("DEFAULT", "arm64", "neon"),
        ("SVE256", "aarch64", "sve256"),
        ("DEFAULT", "riscv64", "default"),
    ],
)
def test_the_instruction_set_is_named(monkeypatch, torch_says, machine, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_says)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert environment.instruction_set() == expected
