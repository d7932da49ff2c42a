"""The operators of `ops` on CUDA: Triton kernels, and torch calls for what those do not serve."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import reference
from icasa.kernels.triton import gates, mix, moments
from icasa.kernels.triton.tiles import MAX_WIDTH

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


def attend(
    x: Tensor,
    ica: Sequence[Tensor],
    sa: Sequence[Tensor],
    beta: Tensor | None,
    norm_eps: float,
    group_eps: float,
    groups: int,
    shuffle: bool,
    residual: bool,
) -> Tensor:
    """Gate x by what its moments give in evaluation, in three launches."""
    ica, sa = ([p.contiguous() for p in parameters] for parameters in (ica, sa))
    z_h, z_w, s, mean, lost, var = moments.moments(x, bool(ica), groups)
    made = gates.gates(z_h, z_w, s, lost, var, ica, sa, norm_eps, group_eps, groups)
    axes, planes = made[:2] if ica else (None, None), (*made[2:], mean) if sa else (None,) * 4
    mixing: list[Any] = [*axes, beta, *planes, groups, shuffle, residual]
    return mix.mix(x, *mixing)


for _launch, _torch_calls in (
    (moments.moments, reference.moments),
    (moments.moments_backward, reference.moments_backward),
    (mix.mix, reference.mix),
    (mix.mix_backward, reference.mix_backward),
    (attend, reference.attend),
):
    torch.library.impl(f"icasa::{_launch.__name__}", "CUDA", body(_launch, _torch_calls))
