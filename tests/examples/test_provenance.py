"""Rows say which code and command wrote them, and survive a CSV file."""

import re
import subprocess

import torch

from examples.provenance import git_commit, provenance, read_csv, write_csv


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_the_commit_is_dirty_by_changed_code_but_not_by_changed_results(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    assert git_commit(tmp_path) == "not a checkout"
    for name in ("benchmarks/results/a.csv", "code.py"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (results / "a.csv").write_text("2")
    clean = git_commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "code.py").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_a_row_names_its_command_as_it_was_given():
    facts = provenance("examples.ser.train", ["--out", "a b"], 7, torch.device("cpu"), 2)
    assert facts["command"] == "python -m examples.ser.train --out 'a b'"
    assert (facts["seed"], facts["processes"], facts["torch"]) == (7, 2, torch.__version__)
    assert facts["device"].startswith("cpu ")


def test_rows_have_the_columns_of_all_and_empty_cells_for_the_missing(tmp_path):
    write_csv(tmp_path / "a.csv", [{"x": 1, "y": "one, two"}, {"y": "", "z": 3}])
    assert read_csv(tmp_path / "a.csv") == [
        {"x": "1", "y": "one, two", "z": ""},
        {"x": "", "y": "", "z": "3"},
    ]
