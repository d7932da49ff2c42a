"""Every command that a committed row names still parses."""

import csv
import gzip
import json
import shlex

import pytest

from examples.ser import crash_drill, embedding, robustness, similarity, svm, train
from examples.ser.grid.cells import RESULTS
from examples.study.cells import EXAMPLES

PARSERS = {
    "crash_drill": crash_drill.parse,
    "train": train.parse,
    "svm": svm.parse,
    "similarity": similarity.parse,
    "robustness": robustness.parse,
    "embedding": embedding.parse,
}


def commands_in(value):
    """Yield the value of every "command", at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from [inner] if key == "command" else commands_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from commands_in(inner)


def files(pattern):
    """Yield the files of the recipe and of the study's cells of speech."""
    for folder in (RESULTS, EXAMPLES / "study" / "results"):
        yield from folder.rglob(pattern)


@pytest.fixture(scope="module")
def recorded():
    """The commands of all committed rows and records, each once."""
    found = set()
    for path in files("*.csv"):
        with path.open(newline="") as file:
            found.update(commands_in(list(csv.DictReader(file))))
    for path in files("*.json*"):
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        found.update(commands_in(json.loads(text)))
    return sorted(found)


def test_there_are_commands_of_every_parser(recorded):
    modules = {shlex.split(command)[2].rpartition(".")[2] for command in recorded}
    assert modules == {*PARSERS, "reachability"}
    assert len(recorded) > 150


def test_every_recorded_command_parses(recorded):
    for command in recorded:
        python, minus_m, module, *argv = shlex.split(command)
        room, _, name = module.rpartition(".")
        assert (python, minus_m, room) == ("python", "-m", "examples.ser"), command
        if name == "reachability":  # it has no flags
            assert not argv, command
            continue
        try:
            PARSERS[name](argv)
        except SystemExit:
            pytest.fail(command)
