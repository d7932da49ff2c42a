"""The crash drill's short form: killed runs end as undisturbed ones, and a difference is seen."""

import subprocess
import sys

import pytest
import torch

from examples.provenance import read_csv
from examples.ser.crash_drill import differences, drill, timeless


def test_killed_runs_end_as_undisturbed_ones(tmp_path):
    places = ("--out", tmp_path / "drill", "--csv", tmp_path / "rows.csv")
    kills = ("--kills", 2, "--grid-kills", 1, "--rank-kills", 0)  # a rank's take a minute more
    # In a process of its own: a process that has used autograd cannot be forked.
    command = [sys.executable, "-m", "examples.ser.crash_drill", *map(str, (*places, *kills))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_csv(tmp_path / "rows.csv")
    assert [(row["run"], row["kills"]) for row in rows] == [
        ("training, macnn", "1"), ("training, strong", "1"), ("grid", "1"),
    ]  # fmt: skip


def test_a_difference_of_one_bit_is_named():
    record = {"model": {"w": torch.tensor([1.0, 2.0])}, "history": [{"loss": 1.0, "seconds": 3.0}]}
    other = {"model": {"w": torch.tensor([1.0, 2.0]).nextafter(torch.zeros(2))}, "history": [{}]}
    assert differences(record, other) == ["/model/w", "/history/0"]
    assert differences(timeless(record), timeless(record | {"history": [{"loss": 1.0}]})) == []


class Fixed:
    """A stand-in for random.Random, whose moments are all alike."""

    def uniform(self, low, high):
        return high / 2


@pytest.mark.parametrize("faulty", [False, True])
def test_a_life_that_ends_otherwise_is_counted(tmp_path, faulty):
    ends = iter(["finished", "killed", "unfinished", "finished", "killed", "finished"])

    def attempt(folder, seconds):
        if (end := next(ends)) == "finished":
            (folder / "result").write_text("b" if faulty and folder.name == "life1" else "a")
        return end

    row = drill(attempt, lambda life: (life / "result").read_text(), 2, tmp_path / "drill", Fixed())
    assert row == {"kills": 2, "lives": 2, "lives that ended otherwise": int(faulty)}
