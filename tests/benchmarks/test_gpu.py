"""The parts of benchmarks/gpu.py that need no GPU: its checks, on the CPU, and its rows."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import icasa.kernels
from benchmarks import gpu, gpu_checks
from benchmarks.harness import Settings

CPU = torch.device("cpu")
CASE = ((2, 8, 3, 5), 2, torch.float32, 0.0, CPU)


def bench(tmp_path):
    return gpu.Bench(Settings(CPU, 2, True, tmp_path, 0, {"commit": "abc"}), minutes=1.0)


def test_refuses_to_run_without_a_gpu():
    with pytest.raises(SystemExit, match="expected a CUDA device, got none"):
        gpu.main(["--device", "cpu"])


@pytest.mark.parametrize("dtype", gpu_checks.DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_operators_of_the_cpu_pass_their_checks(dtype, offset):
    gpu_checks.check_operators((2, 8, 3, 5), 2, dtype, offset, CPU)


@pytest.mark.parametrize("name", ["attend", "attend_forward", "attend_backward"])
@pytest.mark.parametrize("fault", [1e-3, float("nan")])
def test_a_wrong_operator_is_caught(name, fault, monkeypatch):
    right = getattr(torch.ops.icasa, name)

    def wrong(x, *rest):
        out = right(x, *rest)
        if x.dtype != torch.float64:  # the reference is right
            first = out if isinstance(out, torch.Tensor) else out[0]
            first.view(-1)[-1] += fault * first.norm()
        return out

    operators = ("attend", "attend_forward", "attend_backward")
    known = {n: wrong if n == name else getattr(torch.ops.icasa, n) for n in operators}
    monkeypatch.setattr(gpu_checks, "OPS", SimpleNamespace(**known))
    with pytest.raises(AssertionError, match=f"^{name} of ICA, tensor 0"):
        gpu_checks.check_operators(*CASE)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("name", gpu_checks.MAKES)
def test_the_layers_pass_their_checks(name, layout):
    gpu_checks.check_layer(name, True, torch.float32, 0.0, layout, CPU)


def test_a_wrong_layer_is_caught(monkeypatch):
    right = icasa.kernels.attend

    def wrong(x, *layer):
        y, statistics = right(x, *layer)
        return 1.001 * y, statistics

    monkeypatch.setattr(icasa.kernels, "attend", wrong)
    with pytest.raises(AssertionError, match=r"fused SA, train=False, .*tensor 0: error 0\.001"):
        gpu_checks.check_layer("SA", False, torch.float32, 0.0, "contiguous", CPU)


def test_every_check_has_a_name_of_its_own():
    names = [name for name, _ in gpu_checks.checks(CPU)]
    assert len(set(names)) == len(names) > 100


def test_a_call_that_computes_something_else_gets_no_row(tmp_path):
    b, x = bench(tmp_path), torch.ones(3)

    def look(name, *factors):
        call = lambda: [factor * x for factor in factors]  # noqa: E731
        return b.attempt(name, lambda: gpu.inspect(name, call, [x, x, x], (1e-4, 1e-2), CPU))

    assert look("right", 1, 1, 1.001) == (0, None)
    assert look("wrong map", 1, 1.001, 1) is None
    assert look("wrong gradient", 1, 1, 1.1) is None
    assert (
        "wrong map: WrongVariantError: wrong map, tensor 1: expected an error <=" in b.failures[0]
    )
    assert "wrong gradient, tensor 2: expected an error <=" in b.failures[1]


def test_rows_hold_every_clock_and_the_share_of_a_copy(tmp_path):
    b = bench(tmp_path)
    seconds = {"warm": np.array([0.5, 1.0, 3.0]), "cold": np.array([0.016])}
    key = {"layer": "ICASA", "variant": "fused", "pass": "forward", "shape": "1x2", "dtype": "half"}
    line = gpu.row(key, seconds, int(8e9), 1e12, 1.234e-6, 3.0)
    assert (line["warm ms"], line["cold ms"], line["graph ms"]) == (1000, 16, "")
    assert line["share of copy"] == 0.5
    b.save(b.settings.provenance | line)
    b.save(
        b.settings.provenance
        | gpu.row(key, seconds | {"graph cold": seconds["cold"] / 2}, *[1] * 4)
    )
    with (tmp_path / gpu.FILE).open() as file:
        rows = list(csv.DictReader(file))
    assert [r["graph cold ms"] for r in rows] == ["", "8.0"]
    assert {r["commit"] for r in rows} == {"abc"}


def test_variants_are_the_same_layer_on_other_paths():
    layer = gpu.randomised(icasa.ICASA(8))
    x = torch.randn(2, 8, 3, 5)
    made = gpu.variants(layer, train=False)
    assert list(made) == ["eager", "fused"]
    assert [made[n].fused for n in ("eager", "fused")] == [False, True]
    torch.testing.assert_close(made["fused"](x), made["eager"](x))
    assert all(module.training for module in gpu.variants(layer, train=True).values())
