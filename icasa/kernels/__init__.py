"""Kernels of the layers: `attend` computes a layer from its tensors, `backend` names what runs.

They see tensors alone; `icasa.attention._fused` knows the layers that these come from. `ops` says
what the operators compute and `reference` computes it in plain PyTorch. `native` (C, on the CPU)
and `triton` (CUDA) compute it in about 3 passes over a map forward and 5 backward, and save little
more than the map for the backward, which `autograd` connects.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import autograd, native, triton
from icasa.kernels import ops as ops  # registers the operators
from icasa.kernels.native import is_faster as is_faster

OPS = torch.ops.icasa
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "cuda") if triton.is_installed() else ("cpu",)


def is_exporting() -> bool:
    """Whether torch.export traces; before 2.12 torch's own function is true in any compilation."""
    exporting = torch.compiler.is_exporting()
    return bool(getattr(torch.compiler, "_is_exporting_flag", exporting))


def attend(
    x: Tensor, ica: Sequence[Tensor], sa: Sequence[Tensor], beta: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor | None]:
    """Return what a layer computes of x, differentiable once, in the memory format of x.

    Args:
        x: the layer's input; one that is not contiguous is copied.
        ica: parameters and running statistics of ICA, in the order of `ops`, or none.
        sa: likewise of SA.
        beta: the weight of ICA, where there are both.
        options: norm_eps, group_eps, groups, shuffle, residual and training, as in `ops`.

    Returns:
        The output, and with training the mean and the unbiased variance of the batch.
    """
    if x.is_cuda:
        from icasa.kernels.triton import ops  # noqa: F401 (registers, and is slow to import)
    y, statistics = autograd.contiguous(x), None
    if torch.is_grad_enabled() and not is_exporting():
        y, statistics = autograd.attend(y, ica, sa, beta, options)
    elif options[-1]:
        y, _, statistics = OPS.attend_forward(y, ica, sa, beta, *options)
    else:
        y = OPS.attend(y, ica, sa, beta, *options[:-1])
    return autograd.match_memory_format(y, x), statistics


def backend(device: str = "cpu") -> str:
    """Name what computes ICA, SA and ICASA on a type of device where a kernel stands in for them.

    These layers have a fast path with the same values, in fewer passes over their input. ``fused``
    chooses it:

    - ``None`` (default): use the fast CPU kernel where it is available and faster. On CUDA, and
      with a part of the layer replaced, hooked, pruned or parametrised, PyTorch's operators run.
    - ``True``: always use it, on CUDA by Triton; raise a ValueError that names the reason where it
      cannot be used, as with ``lengths``.
    - ``False``: PyTorch's operators. It is the choice for second derivatives, which a kernel
      refuses.

    A kernel copies an input that is not contiguous, and returns channels_last as such.

    Args:
        device: "cpu" or "cuda".

    Returns:
        "c" for the compiled kernel of the CPU, "torch" for PyTorch's operators where it is missing
        (the wheel has none for the platform, or no C compiler was found at installation), "triton"
        for the kernels on CUDA, which are experimental.

    Raises:
        ValueError: if no kernel exists for the device; "cuda" is known where triton is installed.

    >>> import icasa
    >>> icasa.backend() in ("c", "torch")
    True
    """
    if device not in DEVICES:
        raise ValueError(
            f"expected a device among {list(DEVICES)}, got {device!r}; cuda needs triton"
        )
    if device == "cuda":
        return "triton"
    return "c" if native.is_built() else "torch"
