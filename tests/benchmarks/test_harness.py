"""The harness: a wrong variant is refused before it is timed, and rows say where they come from."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import harness
from benchmarks.harness import Case, WrongVariantError, configure, measure, parser, spread, verify
from icasa import ICASA, SE

CPU = torch.device("cpu")
PROVENANCE = [
    "commit",
    "device",
    "cpu",
    "instruction set",
    "dtype",
    "threads",
    "allocator",
    "python",
    "torch",
    "numpy",
]
PROVENANCE += ["seed", "command", "date"]


def test_verify_returns_the_largest_difference_in_its_units():
    expected = [torch.tensor([3.0, 4.0]), torch.zeros(2)]
    got = [torch.tensor([3.0, 4.11]), torch.tensor([0.01, 0.0])]
    assert verify("v", got, expected, 0.1) == pytest.approx(0.11 / 5.5, rel=1e-4)
    assert verify("v", expected[:1] + got[1:], expected, 0.1) == pytest.approx(0.01 / 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (
            [torch.ones(3), torch.tensor([1.0, 1.01, 1])],
            "v, tensor 1: expected an error <= 0.001, got 0.0052",
        ),
        (
            [torch.ones(3), torch.tensor([1.0, torch.nan, 1])],
            "v, tensor 1: expected an error <= 0.001, got nan",
        ),
        ([torch.ones(3), torch.ones(1)], r"v, tensor 1: expected shape \(3,\), got \(1,\)"),
        ([torch.ones(3)], "v: expected 2 tensors, got 1"),
    ],
)
def test_verify_names_the_variant_and_the_tensor_that_is_wrong(got, message):
    with pytest.raises(WrongVariantError, match=message):
        verify("v", got, [torch.ones(3), torch.ones(3)], 1e-3)


def test_a_wrong_variant_is_called_once_and_never_timed():
    calls = []
    one = torch.ones(1)
    wrong = Case(lambda: calls.append("wrong") or (one,), (one + 1,))
    with pytest.raises(WrongVariantError, match="wrong"):
        measure({"right": Case(lambda: (one,), (one,)), "wrong": wrong}, CPU, rounds=5)
    assert calls == ["wrong"]


def test_cases_take_turns_after_the_warm_up_in_an_order_drawn_anew():
    calls = []
    one = torch.ones(1)
    cases = {n: Case(lambda n=n: calls.append(n) or (one,), (one,)) for n in "abc"}
    times = measure(cases, CPU, rounds=60, warmup=2, block=0)
    said = "".join(calls)
    assert said.startswith("aaa" + "bbb" + "ccc")  # one call is checked, two warm up
    rounds = [said[i : i + 3] for i in range(9, len(said), 3)]
    assert len(rounds) == 60
    assert set(rounds) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert all(len(t.seconds) == 60 and (t.seconds > 0).all() for t in times.values())


def test_a_short_call_is_repeated_until_a_round_is_long_enough_to_time():
    calls = []
    one = torch.ones(1)
    measure({"a": Case(lambda: calls.append(1) or (one,), (one,))}, CPU, rounds=1, block=1e-3)
    assert len(calls) > 4 + 10


def test_spread_is_median_and_quantiles_to_four_digits():
    values = np.arange(11) + 0.12345
    assert spread("t", values) == {"t": 5.123, "t p20": 2.123, "t p80": 8.123}


def test_every_row_gets_its_provenance(tmp_path):
    argv = ["--quick", "--seed", "7", "--out", str(tmp_path / "new")]
    settings = configure(parser("doc").parse_args(argv), "layers", argv)
    assert list(settings.provenance) == PROVENANCE
    assert all(str(value) for value in settings.provenance.values())
    assert settings.provenance["seed"] == 7
    assert settings.provenance["command"].startswith("python -m benchmarks.layers --quick --seed 7")
    assert (tmp_path / "new").is_dir()
    assert settings.rounds == 9


def test_committed_rows_are_not_overwritten_unasked():
    assert harness.RESULTS not in parser("doc").parse_args([]).out.resolve().parents
    assert parser("doc").parse_args([]).out.resolve() != harness.RESULTS.resolve()


def test_the_table_shows_columns_and_where_the_rows_went(capsys, tmp_path):
    rows = [{"layer": "SA", "ms": 1.5, "seed": 0}, {"layer": "ICASA", "ms": 12.25, "seed": 0}]
    harness.show(rows, ("layer", "ms", "none"), tmp_path / "a.csv")
    assert capsys.readouterr().out.split("\n") == [
        "layer     ms  none",
        "SA       1.5      ",
        "ICASA  12.25      ",
        f"2 rows in {tmp_path / 'a.csv'}",
        "",
    ]


def test_the_reference_is_a_float64_copy_on_the_eager_path():
    net = nn.Sequential(ICASA(8, fused=True), SE(8))
    exact = harness.double(net)
    assert [m.fused for m in exact.modules() if hasattr(m, "fused")] == [False] * 4
    assert {p.dtype for p in exact.parameters()} == {torch.float64}
    assert [m.fused for m in net.modules() if hasattr(m, "fused")] == [True] * 3 + [None]


def test_gradients_are_those_of_the_input_and_of_each_parameter():
    net, x, g = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2)
    y, dx, dw, db = harness.gradients(net, x, g)
    torch.testing.assert_close(y, net(x))
    torch.testing.assert_close((dx, dw, db), (g @ net.weight, g.T @ x, g.sum(0)))
