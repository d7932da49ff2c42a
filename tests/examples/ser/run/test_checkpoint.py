"""The folder of a run: one training at a time, released by its end, cleaned of what was killed."""

import subprocess
import sys

import pytest
import torch

from examples.errors import UserError
from examples.ser.run.checkpoint import CHECKPOINT, IN_USE, is_training, only_training, resume, save

HOLDER = """
import pathlib, sys, time
from examples.ser.run.checkpoint import only_training
with only_training(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_is_refused_until_the_first_ends(tmp_path, capsys):
    with only_training(tmp_path):
        assert is_training(tmp_path)
        with pytest.raises(SystemExit, match=f"{IN_USE}"):
            only_training(tmp_path).__enter__()
        assert "expected --out without a running training, got" in capsys.readouterr().err
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


CONFIG, DATA = {"lr": "0.1", "head": "fusion"}, {"features": "f", "labels of train": "l"}


def resumed(path, config=CONFIG, data=DATA, notes=None):
    note = (notes if notes is not None else []).append
    return resume(path, config, data, {}, defaults={"head": "fusion"}, note=note)


def test_other_flags_and_other_data_are_refused_and_named(tmp_path):
    path = tmp_path / CHECKPOINT
    save(path, {"config": CONFIG, "data": DATA, "history": [1]})
    assert resumed(path)["history"] == [1]
    with pytest.raises(UserError, match=r"of another \(lr: 0\.1 there, 2 now\); give another"):
        resumed(path, CONFIG | {"lr": "2"})
    with pytest.raises(UserError, match=r"of another \(other data: labels of train\); give"):
        resumed(path, data=DATA | {"labels of train": "corrected"})
    with pytest.raises(UserError, match=r"lr: 0\.1 there, 2 now; other data: features\)"):
        resumed(path, CONFIG | {"lr": "2"}, DATA | {"features": "g"})


def test_a_checkpoint_of_before_is_taken_with_a_note_and_new_flags_are_at_their_default(tmp_path):
    path, notes = tmp_path / CHECKPOINT, []
    save(path, {"config": {"lr": "0.1"}, "history": []})
    resumed(path, notes=notes)
    assert len(notes) == 1
    assert "of before checkpoints knew their data" in notes[0]
    with pytest.raises(UserError, match="head: fusion there, dot now"):
        resumed(path, CONFIG | {"head": "dot"})


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / CHECKPOINT
    save(path, {"weights": 1})
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected a checkpoint of this recipe with .*; remove"):
        resumed(path)


def test_a_truncated_checkpoint_is_refused_in_one_line(tmp_path):
    path = tmp_path / CHECKPOINT
    save(path, {"config": CONFIG, "model": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        resumed(path)
