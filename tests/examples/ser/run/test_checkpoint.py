"""The folder of a run: one training at a time, released by its end, cleaned of what was killed."""

import subprocess
import sys

import pytest

from examples.ser.run.checkpoint import CHECKPOINT, is_training, only_training, save

HOLDER = """
import pathlib, sys, time
from examples.ser.run.checkpoint import only_training
with only_training(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_until_the_first_ends(tmp_path):
    with only_training(tmp_path):
        assert is_training(tmp_path)
        with (
            pytest.raises(
                SystemExit, match=r"expected --out without a running training, got .*wait"
            ),
            only_training(tmp_path),
        ):
            pass
    with only_training(tmp_path):
        pass
    assert not is_training(tmp_path)


def test_a_killed_training_releases_its_folder_and_its_temporaries_are_removed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert is_training(tmp_path)
        holder.kill()
    save(tmp_path / CHECKPOINT, {"epoch": 1})
    (tmp_path / f"{CHECKPOINT}.1.tmp").touch()
    with only_training(tmp_path):
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".pt"]
