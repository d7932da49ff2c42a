"""Tables fit and are filled: digits by one rule, columns in words, and no number typed."""

import csv
import sys
from pathlib import Path

import pytest

from examples.study import cells, choice

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "docs"))
from extensions import tables, verdict  # noqa: E402


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (["42.153", "7.5", ""], ["42.2", "7.5", ""]),
        (["0.5", "0.0004", "0"], ["0.500", "< 0.001", "0.000"]),
        (["155636", "3"], ["155,636", "3"]),
        (["1234.6", "0.2"], ["1,235", "0.200"]),
        (["nan", "1.5"], ["", "1.5"]),
        (["0.1", "0.7"], ["0.1", "0.7"]),
        (["0.71", "1.0"], ["0.71", "1.00"]),
        (["a", "1.5"], ["a", "1.5"]),
    ],
)
def test_digits_of_a_column(values, shown):
    assert tables.digits(values) == shown


def test_points_have_one_decimal_whatever_their_size():
    cells = ["42.153", "-0.04", "1.76 0.46", "", "12"]
    for column in ("WA SD", "UA gained by seed", "low", "difference (paper)", "same class (%)"):
        assert tables.digits(cells, column) == ["42.2", "0.0", "1.8 0.5", "", "12"]
    assert tables.digits(["1.234"], "slow") == ["1.23"]


def test_variants_are_named_in_words():
    assert tables.name("none") == "no attention"
    assert tables.name("icasa+aam, 10 epochs") == "ICASA + AAM, 10 epochs"
    assert tables.name("none+aam-random") == "AAM, random partners"
    assert tables.name("something else") == "something else"
    assert tables.words("condition", "awgn10") == "noise at 10 dB"
    assert tables.words("verdict", "not known (95 % interval ...); a difference") == "not known"
    assert tables.words("command", "make a -k 'b_c'") == "`` make a -k 'b_c' ``"
    assert tables.words("commit", 40 * "a" + "-dirty") == "aaaaaaa-dirty"


def test_a_pivot_has_a_column_for_each_pair_that_is_filled():
    rows = [
        {"class": "sad", "variant": "none", "epochs": "10", "F1": "0.5"},
        {"class": "sad", "variant": "icasa", "epochs": "10", "F1": ""},
        {"class": "calm", "variant": "none", "epochs": "10", "F1": "0.25"},
    ]
    assert tables.pivot(rows, "class", ("variant", "epochs"), "F1") == [
        ["class", "no attention, 10 epochs"], ["sad", "0.50"], ["calm", "0.25"]
    ]  # fmt: skip


def test_the_readme_is_filled_from_the_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert verdict.fill(text) == text, "run python docs/extensions/verdict.py"
    assert "<!-- end of verdict -->" in text
    assert "<!-- end of why -->" in text
    assert len(text.splitlines()) <= 200


@pytest.fixture
def root(tmp_path):
    """A tree with the rows that a verdict reads, but those of the study."""
    for file in ("table19", "strong"):
        path = tmp_path / verdict.SPEECH / f"{file}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / verdict.SPEECH / f"{file}.csv").read_text())
    for file in ("layers.csv", "cost-resnet50.csv"):
        path = tmp_path / "benchmarks" / "results" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / "benchmarks" / "results" / file).read_text())
    return tmp_path


def add_study(root, family="images-layers", **values):
    row = {
        "variant": "icasa",
        "difference": "2.5",
        "low": "1.5",
        "high": "3.5",
        "seeds": "3",
        "seed_low": "1",
        "seed_high": "4",
        "verdict": "higher by 2.5 points (95 % ...)",
    }
    path = root / verdict.STUDY / f"{family}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row | values)


def test_what_is_not_measured_is_said_and_taken_up_once_it_is(root):
    missing = next(p for p in verdict.verdict(root).split("\n\n") if "Not finished" in p)
    assert "layers on images" in missing
    add_study(root)
    text = verdict.verdict(root)
    assert "layers on images" not in next(p for p in text.split("\n\n") if "Not finished" in p)
    assert "where it was measured to help" in text
    assert ", 3 seeds | +2.5 (+1.5 to +3.5) | higher |" in text


def test_the_verdict_knows_every_family_of_the_study(root):
    assert set(verdict.FAMILIES) == {*(family.name for family in cells.FAMILIES), choice.NAME}
    add_study(root, choice.NAME, variant=choice.CHOSEN)
    line = "| ICASA or AAM, as each half chooses: speech (RAVDESS, one-dimensional"
    assert line in verdict.verdict(root)


@pytest.mark.parametrize(
    ("low", "high", "p", "said"),
    [
        ("0.5", "2", "0.01", "higher"),
        ("-2", "-0.5", "0.049", "lower"),
        ("-2", "-0.5", "0.06", "lower, but not after correction"),
        ("0.5", "2", "0.06", "higher, but not after correction"),
        ("-1", "0", "0.01", "not known"),
    ],
)
def test_an_interval_counts_only_after_correction(low, high, p, said):
    assert verdict.judge({"low": low, "high": high, "p": p}, "p") == said


def test_a_gain_that_depends_on_the_seeds_is_uncertain(root):
    add_study(root, seed_low="-1")
    text = verdict.verdict(root)
    assert "| +2.5 (+1.5 to +3.5) | uncertain |" in text
    assert "no, as far as it was measured" in text


def test_the_cost_is_that_of_the_rows(root):
    path = root / "benchmarks" / "results" / "cost-resnet50.csv"
    path.write_text(
        "layer,batch size,places,parameters,MACs,forward / plain,step / plain\n"
        "plain,1,0,1000,2000,1,1\nICASA,1,16,1050,2020,1.26,9\n"
        "plain,8,0,1000,2000,1,1\nICASA,8,16,1050,2020,9,1.34\n"
    )
    text = verdict.cost(root)
    assert "each of the 16 blocks adds 5.0 % parameters and 1.0 % multiply" in text
    assert "of one image takes 1.3 times as long, and a training step of eight 1.3 times" in text
