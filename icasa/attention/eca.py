"""ECA: efficient channel attention, a short convolution over the channels (Wang et al. 2020)."""

import math

import torch
from torch import Tensor, nn

from icasa._check import check_input, check_odd_int, check_positive_int
from icasa.attention._fused import check_fused, run_kernel
from icasa.optim import one_axis_parameters
from icasa.padding import spatial_mean


def adaptive_kernel_size(channels: int) -> int:
    """Odd kernel of ECA for ``channels``: int((log2 C + 1) / 2), made odd upward."""
    size = int((math.log2(channels) + 1) / 2)
    return size + 1 - size % 2


class ECA(nn.Module):
    r"""Efficient channel attention: multiplies a channel by a gate from its neighbours' means.

    .. math:: y_c = x_c\, \sigma\Big(\sum_{t=1}^{k} w_t\, \bar{x}_{c + t - (k + 1) / 2}\Big)

    :math:`\bar{x}` are the channel means, zero beyond the ends. By default
    :math:`k = \lfloor (\log_2 C + b) / \gamma \rfloor` with :math:`\gamma = 2`, :math:`b = 1`; an
    even k is increased by 1.

    Parameters: :math:`k`. Multiply-accumulates: :math:`kC`.

    Args:
        channels: :math:`C`, the channels of the input.
        kernel_size: :math:`k`, odd; None uses the formula.
        fused: None uses a kernel where it is available and faster, True always uses it, False
            uses PyTorch's operators; see :func:`icasa.backend`.
        device: device of the parameters.
        dtype: type of the parameters.

    Shape:
        - Input: (N, C, H, W).
        - ``lengths``: (N,) integers, the valid positions of the last axis in a padded batch.
        - Output: the same shape, dtype and memory format.

    Raises:
        ValueError: if an argument, or the shape or dtype of the input, is not valid.

    Reference:
        Wang et al. 2020, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
        Networks".

    >>> import torch
    >>> from icasa import ECA
    >>> ECA(128)(torch.randn(2, 128, 28, 28)).shape
    torch.Size([2, 128, 28, 28])
    >>> [ECA(c).kernel_size for c in (64, 128, 1024, 2048)]
    [3, 5, 5, 7]
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | None = None,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        self.fused = check_fused(fused, 2)
        if kernel_size is None:
            kernel_size = adaptive_kernel_size(channels)
        self.kernel_size = check_odd_int("kernel_size", kernel_size)
        self.conv = nn.Conv1d(
            1, 1, kernel_size, padding=kernel_size // 2, bias=False, device=device, dtype=dtype
        )

    def reset_parameters(self) -> None:
        """Initialise the kernel again, by torch's default."""
        self.conv.reset_parameters()

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention map of ``x``: one gate in (0, 1) per channel, (N, C, 1, 1)."""
        check_input(self, x)
        mean = spatial_mean(x, lengths, 2).flatten(1).unsqueeze(1)  # (N, 1, C)
        return (torch.sigmoid(self.conv(mean)).to(x.dtype).transpose(1, 2).unsqueeze(3),)

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
        shown = f"{self.channels}, kernel_size={self.kernel_size}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
