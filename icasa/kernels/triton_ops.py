"""The operators of `ops` on CUDA: Triton kernels, and torch calls for what those do not serve."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import cpu, triton_gates, triton_mix, triton_moments
from icasa.kernels.triton_tiles import MAX_WIDTH

SUPPORTED = {torch.float32, torch.float16, torch.bfloat16}


def served(x: Tensor) -> bool:
    """Whether the kernels serve ``x``: their sums are float32, and a tile holds a whole row."""
    return x.dtype in SUPPORTED and 0 < x.shape[-1] <= MAX_WIDTH and x.numel() > 0


def body(kernel: Callable[..., Any], torch_calls: Callable[..., Any]) -> Callable[..., Any]:
    """Return the operator that runs ``kernel`` where it serves."""

    def operator(first: Tensor, *rest: Any) -> Any:
        if served(first):
            return kernel(first, *rest)
        with torch.no_grad():
            return torch_calls(first, *rest)

    return operator


def gates(z_h: Tensor, z_w: Tensor, s: Tensor, *rest: Any) -> Any:
    """Return the gates, by the kernel unless the maps are float64 or empty."""
    served = s.dtype == torch.float32 and z_h.numel() + s.numel() > 0
    return (triton_gates.gates if served else cpu.gates)(z_h, z_w, s, *rest)


for _launch, _torch_calls in (
    (triton_moments.moments, cpu.moments),
    (triton_moments.moments_backward, cpu.moments_backward),
    (triton_mix.mix, cpu.mix),
    (triton_mix.mix_backward, cpu.mix_backward),
):
    torch.library.impl(f"icasa::{_launch.__name__}", "CUDA", body(_launch, _torch_calls))
torch.library.impl("icasa::gates", "CUDA", gates)
