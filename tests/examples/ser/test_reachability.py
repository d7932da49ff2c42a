"""Reachability: numbers that a result has and numbers that none has."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from examples.provenance import read_csv, write_csv
from examples.ser import reachability
from examples.ser.reachability import CLIPS, denominator, published, reach

FOLDS = Path(reachability.__file__).parent / "data" / "folds" / "ravdess.csv"
HALF = Fraction(1, 2)


def test_the_clips_are_those_of_the_folds():
    rows = read_csv(FOLDS)
    for fold in {row["fold"] for row in rows}:
        count = Counter(row["label"] for row in rows if row["fold"] == fold)
        assert sorted(count.values()) == sorted(4 * n for n in CLIPS.values())
        assert count["neutral"] == 4 * CLIPS["neutral"]
    for gender in ("male", "female"):
        assert sum(row["gender"] == gender for row in rows) == denominator("WA", gender)


def test_the_lattices():
    assert [denominator(m) for m in ("WA", "UA")] == [1440, 1536]
    assert [denominator(m, "male") for m in ("WA", "UA")] == [720, 768]
    assert [denominator(f"recall {c}") for c in ("neutral", "calm")] == [96, 192]


@pytest.mark.parametrize("published", ["84.78", "80.24", "81.48", "82.37", "83.22"])
def test_no_wa_of_the_paper_s_main_table_can_be_had(published):
    assert not reach(published, denominator("WA"))["reached"]


@pytest.mark.parametrize("published", ["83.89", "80.04", "81.21"])
def test_no_ua_of_it_either(published):
    assert not reach(published, denominator("UA"))["reached"]


@pytest.mark.parametrize("n", [1440, 768, 96])
def test_every_result_is_reached_and_nothing_between(n):
    results = set()  # in hundredths; a tie is rounded either way
    for k in range(n + 1):
        hundredths = Fraction(10_000 * k, n)
        results |= {math.floor(hundredths + HALF), math.ceil(hundredths - HALF)}
    for value in range(0, 10_001, 7):
        assert reach(f"{value / 100:.2f}", n)["reached"] == (value in results)


@pytest.mark.parametrize("k", [0, 1, 1220, 1221, 1440])
def test_a_result_printed_with_any_digits_is_reached(k):
    for digits in (0, 1, 2, 3, 5):
        found = reach(f"{100 * k / 1440:.{digits}f}", 1440)
        assert found["reached"]
        assert found["runs"] == 1
    assert reach(f"{k / 1440:.3f}", 1440, unit=1)["reached"]


def test_the_average_ua_of_equal_folds_is_on_the_same_lattice():
    folds = [[draw.randint(0, n) for n in (16, *[32] * 7)] for draw in map(Random, range(6))]
    ua = [sum(Fraction(k, n) for k, n in zip(f, (16, *[32] * 7), strict=True)) / 8 for f in folds]
    assert (sum(ua) / 6 * denominator("UA")).denominator == 1
    assert (sum(ua) / 6 * denominator("WA")).denominator > 1  # other than WA's


def test_leniency_admits_cut_digits_and_folds_rounded_first():
    cut = "84.72", "84.79"  # 1220 and 1221 of 1440 are 84.7222 and 84.7917
    assert all(reach(value, 1440)["cut"] for value in cut)
    found = reach("81.95", 1440)  # 1180 of 1440 is 81.9444
    assert (found["reached"], found["cut"]) == (False, True)
    assert not reach("84.78", 1440)["cut"]


def test_runs_are_the_fewest_whose_average_prints_so():
    assert reach("84.78", 1440)["runs"] == 5
    lattice = {s: {f"{100 * k / (s * 1440):.2f}" for k in range(s * 1440)} for s in (4, 5)}
    assert "84.78" not in lattice[4]
    assert "84.78" in lattice[5]


def test_chance_is_the_share_of_two_digit_numbers_on_the_lattice():
    reached = sum(reach(f"{v / 100:.2f}", 1440)["reached"] for v in range(10_000))
    assert abs(reached / 10_000 - float(reach("0.00", 1440)["chance"])) < 0.01
    assert reach("0.839", 1536, unit=1)["chance"] == "1.000"


def test_the_paper_s_numbers_are_in_range_and_the_rows_are_written(tmp_path, monkeypatch):
    runs = [
        {"variant": "none", "WA": "42.15", "UA": "39.52", "folds": "6", "seeds": "1"},
        {"variant": "sa+aam", "WA": "41.88", "UA": "39.2", "folds": "4", "seeds": "1"},
        {"variant": "ica+aam", "WA": "42.16", "UA": "39.52", "folds": "6", "seeds": "2"},
    ]
    for table in reachability.OURS:
        facts = {"corpus": "ravdess", "preset": "onecycle", "epochs": "10"}
        write_csv(tmp_path / f"table{table}.csv", [facts | row for row in runs])
    monkeypatch.setattr(reachability, "RESULTS", tmp_path)
    rows = reachability.main()
    written = read_csv(tmp_path / "reachability.csv")
    assert len(written) == len(rows)
    assert len(published()) == 57
    ours = [row for row in written if row["source"] == "ours"]
    assert len(ours) == len(rows) - 57 == 2 * len(reachability.OURS)  # whole, of one seed
    assert all(row["row"] == "none, onecycle10" and row["reached"] == "True" for row in ours)
    by_name = {(row["table"], row["row"], row["measure"]): row for row in written}
    assert by_name["12", "icasa+aam", "WA"]["reached"] == "False"
    assert by_name["13", "happy", "recall happy"]["reached"] == "True"
    assert by_name["17", "male", "UA"]["n"] == "768"
    assert by_name["17", "female - male", "WA"]["n"] == "720"
    assert all(float(row["gap"]) <= 100 / 2 / float(row["n"]) + 1e-4 for row in written)


def test_every_number_of_ours_can_be_had():
    ours = [
        row
        for row in read_csv(reachability.RESULTS / "reachability.csv")
        if row["source"] == "ours"
    ]
    assert ours
    assert all(row["reached"] == "True" for row in ours)
