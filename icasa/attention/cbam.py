"""CBAM: convolutional block attention, channel gates and then spatial ones (Woo et al. 2018)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icasa._check import check_input, check_odd_int, check_positive_int
from icasa.attention._fused import check_fused, run_kernel
from icasa.optim import one_axis_parameters
from icasa.padding import batch_norm, check_lengths, clear_padding, spatial_mean, valid_positions


class CBAM(nn.Module):
    r"""Convolutional block attention: multiplies the channels, then the positions, by gates.

    .. math::

        x' = x\, \sigma(\mathrm{MLP}(\mathrm{avg}\,x) + \mathrm{MLP}(\mathrm{max}\,x)), \qquad
        y = x'\, \sigma(\mathrm{BN}(f^{k \times k}([\max\nolimits_c x', \mathrm{mean}_c\, x'])))

    The MLP has one hidden layer of :math:`M = \max(1, \lfloor C / r \rfloor)` units with ReLU;
    :math:`f` is a convolution without bias from two maps to one.

    Parameters: :math:`2CM + C + M + 2k^2 + 2`. Multiply-accumulates: :math:`4CM + 2k^2 HW`.

    Args:
        channels: :math:`C`, the channels of the input.
        reduction: :math:`r`; the width :math:`M` is never below 1.
        kernel_size: :math:`k`, the odd kernel size of the spatial convolution.
        fused: None uses a kernel where it is available and faster, True always uses it, False
            uses PyTorch's operators; see :func:`icasa.backend`.
        device: device of the parameters.
        dtype: type of the parameters.

    Shape:
        - Input: (N, C, H, W).
        - ``lengths``: (N,) integers, the valid positions of the last axis in a padded batch.
        - Output: the same shape, dtype and memory format.

    Raises:
        ValueError: if an argument, or the shape or dtype of the input, is not valid. In training
            the BatchNorm needs more than one value (N = H = W = 1 has one).

    Reference:
        Woo et al. 2018, "CBAM: Convolutional Block Attention Module".

    >>> import torch
    >>> from icasa import CBAM
    >>> CBAM(64)(torch.randn(2, 64, 56, 56)).shape
    torch.Size([2, 64, 56, 56])
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        kernel_size: int = 7,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        self.fused = check_fused(fused, 2)
        self.reduction = check_positive_int("reduction", reduction)
        self.kernel_size = check_odd_int("kernel_size", kernel_size)
        width = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, width, device=device, dtype=dtype)
        self.excite = nn.Linear(width, channels, device=device, dtype=dtype)
        self.conv = nn.Conv2d(
            2, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype
        )
        self.norm = nn.BatchNorm2d(1, momentum=0.01, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise all parameters again and reset the running statistics."""
        for layer in (self.squeeze, self.excite, self.conv, self.norm):
            layer.reset_parameters()

    def _attend(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Channel gate, the map it gives, and that map's spatial gate."""
        check_input(self, x)
        lengths = check_lengths(x, lengths)
        valid, _ = clear_padding(x, lengths, -math.inf)
        pooled = torch.stack(
            (spatial_mean(x, lengths, 2).flatten(1), valid.amax((2, 3)))
        )  # (2, N, C)
        logits = self.excite(F.relu(self.squeeze(pooled))).sum(0)
        channel = torch.sigmoid(logits).to(x.dtype)[:, :, None, None]
        y = x * channel
        maps = torch.cat((y.amax(1, keepdim=True), y.mean(1, keepdim=True)), dim=1)
        maps, _ = clear_padding(maps, lengths)
        where = None
        if lengths is not None:
            where = valid_positions(lengths, x.shape[3]).unsqueeze(1).expand(-1, x.shape[2], -1)
        return channel, y, torch.sigmoid(batch_norm(self.norm, self.conv(maps), where)).to(x.dtype)

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention maps of ``x``: channels (N, C, 1, 1), positions (N, 1, H, W)."""
        channel, _, spatial = self._attend(x, lengths)
        return channel, spatial

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Multiply the channels and then the positions of ``x`` by their gates."""
        check_input(self, x)
        if (y := run_kernel(self, x, lengths)) is not None:
            return y
        _, y, spatial = self._attend(x, lengths)
        return y * spatial

    no_weight_decay = one_axis_parameters

    def extra_repr(self) -> str:
        """Show the options that matter."""
        shown = f"{self.channels}, reduction={self.reduction}, kernel_size={self.kernel_size}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
