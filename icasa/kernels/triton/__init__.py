"""The GPU's kernels in Triton: experimental until a device has measured them.

`ops` registers them, and is imported where a map on CUDA is first given, as Triton is slow to
import and optional. What tracing asks of them stands here.
"""

import importlib.util

import torch
from torch import Tensor

from icasa.kernels.reference import statistics_dtype

TYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_ROW = 4096  # longest row: a tile holds at least one


def is_installed() -> bool:
    """Whether there is a Triton to import."""
    return importlib.util.find_spec("triton") is not None


def serves(x: Tensor) -> bool:
    """Whether the kernels serve maps like x: their sums are float32, and a tile holds a row."""
    return x.dtype in TYPES and 0 < x.shape[-1] <= MAX_ROW and x.numel() > 0


def empty_moments(x: Tensor, axes: bool, groups: int) -> tuple[Tensor, ...]:
    """Return z_h, z_w, s, mean, mean_lo and var of x (see `icasa.kernels.ops`), to be filled."""
    N, C, H, W = x.shape
    none = x.new_empty(0, dtype=statistics_dtype(x.dtype))
    z_h, z_w = (none.new_empty((N, C, n) if axes else 0) for n in (H, W))
    s = none.new_empty((N, C // 2) if groups else 0)
    return z_h, z_w, s, *(torch.empty_like(s) for _ in range(3))
