"""SE: squeeze-and-excitation, one gate per channel (Hu et al. 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icasa._check import check_input, check_ndim, check_positive_int
from icasa.attention._fused import check_fused, run_kernel
from icasa.optim import one_axis_parameters
from icasa.padding import spatial_mean


class SE(nn.Module):
    r"""Squeeze-and-excitation: multiplies each channel by a gate that all channel means give.

    .. math:: y_c = x_c\, \sigma(W_2\, \mathrm{ReLU}(W_1 \bar{x} + b_1) + b_2)_c

    :math:`\bar{x}` are the channel means; :math:`W_1` leads to
    :math:`M = \max(1, \lfloor C / r \rfloor)` units.

    Parameters: :math:`2CM + C + M`. Multiply-accumulates: :math:`2CM`.

    Args:
        channels: :math:`C`, the channels of the input.
        reduction: :math:`r`; the width :math:`M` is never below 1.
        ndim: number of spatial axes, 1, 2 or 3.
        fused: None uses a kernel where it is available and faster, True always uses it, False
            uses PyTorch's operators; see :func:`icasa.backend`.
        device: device of the parameters.
        dtype: type of the parameters.

    Shape:
        - Input: (N, C, \*S) with ``ndim`` spatial axes of any length.
        - ``lengths``: (N,) integers, the valid positions of the last axis in a padded batch.
        - Output: the same shape, dtype and memory format.

    Raises:
        ValueError: if an argument, or the shape or dtype of the input, is not valid.

    Reference:
        Hu, Shen and Sun 2018, "Squeeze-and-Excitation Networks".

    >>> import torch
    >>> from icasa import SE
    >>> SE(64)(torch.randn(2, 64, 56, 56)).shape
    torch.Size([2, 64, 56, 56])
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        ndim: int = 2,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        self.reduction = check_positive_int("reduction", reduction)
        self.ndim = check_ndim(ndim)
        self.fused = check_fused(fused, ndim)
        width = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, width, device=device, dtype=dtype)
        self.excite = nn.Linear(width, channels, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise both linear maps again, by torch's default."""
        self.squeeze.reset_parameters()
        self.excite.reset_parameters()

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention map of ``x``: one gate in (0, 1) per channel, (N, C, 1, 1)."""
        check_input(self, x)
        mean = spatial_mean(x, lengths, self.ndim).flatten(1)  # (N, C)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean)))).to(x.dtype)
        return (gate[(..., *[None] * self.ndim)],)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Multiply the channels of ``x`` by their gates."""
        check_input(self, x)
        if (y := run_kernel(self, x, lengths)) is not None:
            return y
        (gate,) = self.gates(x, lengths)
        return x * gate

    no_weight_decay = one_axis_parameters

    def extra_repr(self) -> str:
        """Show the options that matter."""
        shown = f"{self.channels}, reduction={self.reduction}, ndim={self.ndim}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
