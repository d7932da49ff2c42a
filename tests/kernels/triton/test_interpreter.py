"""What the Triton kernels compute, without a GPU: by Triton's interpreter, in its own process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed here")

INTERPRETED = Path(__file__).with_name("interpreted.py")


def test_every_launch_equals_its_float64_reference():
    # The variable must be set before a kernel is defined.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    ignored = (
        "ignore:overflow encountered in exp:RuntimeWarning",  # sigmoid's own, in numpy
        "ignore:Conversion of an array:DeprecationWarning",  # Triton 3.6, for numpy < 2.4
    )
    warnings = [word for line in ignored for word in ("-W", line)]
    done = subprocess.run(
        [*command, "-o", "addopts=", *warnings, str(INTERPRETED)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
