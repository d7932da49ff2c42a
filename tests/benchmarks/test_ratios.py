"""bench-check on made rows: green where nothing moved, red where a committed row was altered."""

from types import SimpleNamespace

import pytest

from benchmarks import check
from examples.provenance import write_csv

KEYS, RATIOS = ("layer", "variant"), ("time / eager", "time / floor")


def rows(**altered):
    """Two rows as a benchmark makes them; ``altered`` goes into the second."""
    facts = {"threads": 1, "device": "cpu"}
    first = {"layer": "SA", "variant": "fused", "time / eager": 0.4, "time / floor": 3.0} | facts
    return [first, first | {"variant": "eager", "time / eager": 1.0} | altered]


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """Run check on committed rows, against a benchmark that measures `rows()`."""
    fake = SimpleNamespace(FILE="a.csv", KEYS=KEYS, RATIOS=RATIOS, run=lambda settings: rows())
    monkeypatch.setattr(check, "BENCHMARKS", (fake,))

    def run(committed, *flags):
        write_csv(tmp_path / "a.csv", committed)
        where = ["--committed", str(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
        return check.main([*where, *flags])

    return run


def test_green_where_nothing_moved(bench, capsys):
    assert bench(rows()) == 0
    out = capsys.readouterr().out
    assert "ok     a.csv SA, fused: time / eager 0.4 -> 0.4" in out
    assert "FAILED" not in out
    assert "SA, eager: time / eager" not in out  # 1 whatever was measured


@pytest.mark.parametrize("committed", [1.8, 4.9])
def test_red_and_named_where_a_ratio_moved_either_way(bench, capsys, committed):
    assert bench(rows(**{"time / floor": committed})) == 1
    out = capsys.readouterr().out
    assert f"FAILED a.csv SA, eager: time / floor {committed} -> 3" in out
    assert out.count("FAILED") == 1


def test_the_tolerance_decides(bench):
    assert bench(rows(**{"time / floor": 2.3}), "--tolerance", "0.5") == 0
    assert bench(rows(**{"time / floor": 2.9}), "--tolerance", "0.01") == 1


def test_a_row_that_was_not_committed_fails(bench, capsys):
    assert bench(rows(variant="other")) == 1
    assert "FAILED a.csv SA, eager: time / floor no committed row -> 3" in capsys.readouterr().out


def test_rows_of_another_device_are_no_measure(bench):
    other = [row | {"device": "NVIDIA H200"} for row in rows()]
    with pytest.raises(ValueError, match=r"a.csv was measured on NVIDIA H200, this is cpu; pass"):
        bench(other)


def test_compare_reads_csv_text_and_skips_a_ratio_that_a_row_has_not():
    fresh = [{"layer": "SA", "variant": "fused", "time / eager": 0.5}]
    committed = [{"layer": "SA", "variant": "fused", "time / eager": "0.4", "time / floor": ""}]
    (verdict,) = check.compare(fresh, committed, KEYS, RATIOS)
    assert verdict.moved == pytest.approx(1.25)


def test_every_benchmark_has_what_check_asks_for():
    for benchmark in check.BENCHMARKS:
        assert benchmark.FILE.endswith(".csv")
        assert callable(benchmark.run)
        assert benchmark.KEYS
        assert benchmark.RATIOS
