"""Ctrl-C and SIGTERM end a real training by a line, and the same command goes on."""

import signal
import subprocess
import sys

import pytest
import torch

from examples.ser import train
from examples.ser.crash_drill import differences, timeless
from examples.ser.run.checkpoint import CHECKPOINT
from examples.ser.synthetic import write_synthetic

EPOCHS = 3
START = """
import runpy, signal, sys
# A process in the background may have been started with it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("examples.ser.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Train without a stop; return the flags, all but --out, and the checkpoint."""
    root = tmp_path_factory.mktemp("stop")
    manifest = write_synthetic(root / "corpus", speakers=6, per_class=1)
    flags = ["--manifest", manifest, "--cache", root / "cache", "--epochs", EPOCHS, "--strong"]
    flags += ["--batch-size", 1, "--device", "cpu", "--threads", 1, "--quiet"]
    flags = [str(flag) for flag in flags]
    train.main([*flags, "--out", str(root / "run")])
    return flags, torch.load(root / "run" / CHECKPOINT, weights_only=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_says_what_is_kept_and_goes_on_to_the_same_bits(
    undisturbed, tmp_path, number
):
    flags, expected = undisturbed
    argv = [*flags, "--out", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", START, *argv], **pipes) as child:
        next(line for line in child.stdout if line.startswith("epoch 1 "))
        child.send_signal(number)
        out, err = child.communicate()
    assert child.returncode == 128 + number
    assert out.endswith(f"\nstopped by {number.name}: {train.KEPT}\n")
    assert "Traceback" not in err
    kept = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert 1 <= len(kept["history"]) < EPOCHS
    train.main(argv)
    found = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert differences(timeless(expected), timeless(found)) == []
