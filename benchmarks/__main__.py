"""Run every benchmark, each in a process of its own, with the flags that all of them have."""

import subprocess
import sys

from benchmarks.harness import parser

SCRIPTS = ("complexity", "frames", "layers", "mixup", "aam_step", "training", "cells")

if __name__ == "__main__":
    parser(__doc__).parse_args()  # a flag that only some know stops here, not after an hour
    for script in SCRIPTS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *sys.argv[1:]], check=True)
