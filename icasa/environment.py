"""What a report and a row of measurements say about the machine and the versions."""

import platform
from pathlib import Path

import numpy as np
import torch

from icasa import __version__


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def instruction_set() -> str:
    """Vector instructions that torch uses on this processor: avx512, avx2, sse2, neon, ..."""
    found = torch.backends.cpu.get_cpu_capability()
    if found not in ("DEFAULT", "NO AVX"):  # what torch says of a machine with its baseline alone
        return found.lower()
    baseline = {"x86_64": "sse2", "amd64": "sse2", "aarch64": "neon", "arm64": "neon"}
    return baseline.get(platform.machine().lower(), found.lower())


def environment() -> dict[str, str]:
    """Versions, processor, instruction set, threads and CUDA device, by name.

    >>> from icasa.environment import environment
    >>> list(environment())[:4]
    ['icasa', 'torch', 'numpy', 'python']
    """
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "icasa": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "instruction set": instruction_set(),
        "threads": str(torch.get_num_threads()),
        "cuda device": cuda,
    }
