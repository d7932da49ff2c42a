"""Two commits in turn: which rows, fair turns, a wrong side refused, and the whole way once."""

import csv

import numpy as np
import pytest

from benchmarks import compare

CASE = compare.Case("SA", "default", "forward+backward", (2, 8, 3, 5), False)


class Side:
    """A side that answers without a process, and writes its name down when it is timed."""

    def __init__(self, name, turns, seconds=1e-4, error=0.0):
        self.name, self.turns, self.seconds, self.error = name, turns, seconds, error

    def ask(self, **message):
        if "make" in message:
            return {"error": self.error, "seconds": self.seconds}
        self.turns.append((self.name, message["time"]))
        return {"seconds": self.seconds}


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(compare, "PAUSE", 0)


def test_patterns_choose_rows_and_the_default_rows_exist():
    chosen = compare.choose(["ICASA/default/forward/1x32x19x100*"])
    assert [case.name for case in chosen] == [
        "ICASA/default/forward/1x32x19x100",
        "ICASA/default/forward/1x32x19x100/channels_last",
    ]
    assert [case.name for case in compare.choose(compare.DEFAULT)] != []
    assert {case.name for case in compare.choose(compare.DEFAULT)} == set(compare.DEFAULT)
    assert {case.layer for case in compare.choose(["*"])} == set(compare.LAYERS)


def test_a_pattern_without_a_row_is_named(capsys):
    with pytest.raises(SystemExit):
        compare.main(["HEAD", "ICASA/fast/*"])
    assert "expected a pattern of rows such as ICA/eager/forward" in capsys.readouterr().err


def test_a_commit_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        compare.main(["no-such-commit"])
    message = "expected a commit of this repository as BASE, got 'no-such-commit'"
    assert message in capsys.readouterr().err


def test_sides_take_turns_in_an_order_drawn_anew_with_equal_repeats():
    turns = []
    sides = {"base": Side("base", turns), "present": Side("present", turns, seconds=4e-4)}
    seconds = compare.measure(CASE, sides, rounds=40, seed=0)
    assert {repeats for _, repeats in turns} == {5}  # a block of 2 ms by the slower side
    rounds = {(turns[i][0], turns[i + 1][0]) for i in range(0, 80, 2)}
    assert rounds == {("base", "present"), ("present", "base")}
    np.testing.assert_allclose(seconds["present"] / seconds["base"], np.full(40, 4.0))


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_side_that_computes_something_else_is_refused(error):
    turns = []
    sides = {"base": Side("base", turns), "present": Side("present", turns, error=error)}
    message = "SA/default/forward.backward/2x8x3x5 of present: expected an error <= 0.0003, got"
    with pytest.raises(ValueError, match=message):
        compare.measure(CASE, sides, rounds=1, seed=0)
    assert not turns


def test_this_commit_with_itself(tmp_path, monkeypatch, capsys):
    try:
        commit = compare.resolve("HEAD")
    except (ValueError, OSError):
        pytest.skip("this is no git checkout")
    worktrees = compare.git("worktree", "list")
    cases = [CASE, CASE._replace(which="forward", channels_last=True)]
    monkeypatch.setattr(compare, "all_cases", lambda: {case.name: case for case in cases})
    flags = ["--quick", "--rounds", "2", "--threads", "1", "--out", str(tmp_path)]
    assert compare.main(["HEAD", *flags, "--bar", "0.0001", "*"]) == 1
    with (tmp_path / compare.FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [case.name for case in cases]
    for row in rows:
        assert row["base"] == commit
        assert row["base backend"] == row["present backend"] in ("c", "torch")
        low, middle, high = (float(row[f"{compare.RATIO}{p}"]) for p in (" p20", "", " p80"))
        assert 0 < low <= middle <= high
        assert row["instruction set"]
    printed = capsys.readouterr()
    assert f"2 rows in {tmp_path / compare.FILE}" in printed.out
    assert f"2 of 2 ratios above 0.0001\n{cases[0].name}\n{cases[1].name}" in printed.out
    assert "present: {'icasa': " in printed.err
    assert compare.git("worktree", "list") == worktrees
