"""Kernels of the layers: `attend` or `weigh` computes one from its tensors, `backend` names how.

They see tensors alone; `icasa.attention._operands` takes them of a layer. `ops` says what the
operators compute and `reference` computes it in plain PyTorch. `native` (C, on the CPU) and
`triton` (CUDA) compute it in about 3 passes over a map forward and 5 backward, and save little more
than the map for the backward, which `autograd` connects.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from icasa.kernels import autograd, native, triton
from icasa.kernels.native import is_faster as is_faster
from icasa.kernels.native import net_is_faster as net_is_faster
from icasa.kernels.ops import dispatch_modes as dispatch_modes
from icasa.kernels.ops import keeps_format, operators

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
        x: the layer's input; one that is neither contiguous nor channels_last is copied.
        ica: parameters and running statistics of ICA, in the order of `ops`, or none.
        sa: likewise of SA.
        beta: the weight of ICA, where there are both.
        options: norm_eps, group_eps, groups, shuffle, residual and training, as in `ops`.

    Returns:
        The output, and with training the mean and the unbiased variance of the batch.
    """
    if x.is_cuda:
        from icasa.kernels.triton import ops  # noqa: F401 (registers, and is slow to import)
    given, statistics = x, None
    x = x if x.is_contiguous() or keeps_format(x) else autograd.contiguous(x)
    if torch.is_grad_enabled() and not is_exporting():
        y, statistics = autograd.attend(x, ica, sa, beta, options)
    elif options[-1]:
        y, _, statistics = operators(x).attend_forward(x, ica, sa, beta, *options)
    else:
        y = operators(x).attend(x, ica, sa, beta, *options[:-1])
    return y if x is given else autograd.match_memory_format(y, given), statistics


def weigh(
    x: Tensor, net: Sequence[Tensor], spatial: Sequence[Tensor], eps: float, training: bool
) -> tuple[Tensor, Tensor | None]:
    """Return x weighed plane by plane, and of CBAM by position, as `attend` returns it.

    Args:
        x: the layer's input on the CPU; one that is neither contiguous nor channels_last is copied.
        net: parameters of the gates of planes, in the order of `ops`.
        spatial: of CBAM, parameters and running statistics of the gates of positions.
        eps: of the BatchNorm.
        training: whether it takes the statistics of the batch.
    """
    given, statistics = x, None
    x = x if x.is_contiguous() or keeps_format(x) else autograd.contiguous(x)
    if torch.is_grad_enabled() and not is_exporting():
        y, statistics = autograd.weigh(x, net, spatial, (eps, training))
    elif training:
        y, _, statistics = operators(x).weigh_forward(x, net, spatial, eps, training)
    else:
        y = operators(x).weigh(x, net, spatial, eps)
    return y if x is given else autograd.match_memory_format(y, given), statistics


def backend(device: str = "cpu") -> str:
    """Return the name of the backend that computes the attention layers' fast path on a device.

    The fast path is a kernel that computes the same values with fewer passes over the input. The
    option ``fused`` of a layer chooses it:

    - ``None`` (default): use the fast CPU kernel where it is available and faster. PyTorch's
      operators are used on CUDA, and if a part of the layer was replaced, hooked, pruned or
      parametrised.
    - ``True``: always use its operator. On CUDA the operator is written in Triton; SE, ECA and CBAM
      have none there. Where it cannot be used, for example with ``lengths``, a ValueError names the
      reason. For inputs that the C code does not take, such as float64, the operator computes in
      float64 by PyTorch, which is slower than ``False``.
    - ``False``: PyTorch's operators. Choose it for second derivatives and batched gradients, which
      a kernel refuses.

    On the CPU the kernels read channels_last directly. Any other input that is not contiguous is
    copied. The output of a channels_last input is in channels_last.

    Args:
        device: "cpu" or "cuda".

    Returns:
        "c" for the compiled kernels of the CPU. "torch" for PyTorch's operators, if the kernels are
        missing (no wheel for the platform, and no C compiler at installation). "triton" for the
        kernels on CUDA, which are experimental.

    Raises:
        ValueError: if there is no kernel for the device. "cuda" needs triton.

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
    return "c" if native.is_loaded() else "torch"
