"""Depthwise-separable convolution: a filter per channel, then a 1x1 mix of the channels."""

import torch
from torch import Tensor, nn

from icasa._check import (
    check_input,
    check_ndim,
    check_non_negative_int,
    check_odd_int,
    check_positive_int,
)

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class DepthwiseSeparableConv(nn.Module):
    r"""Depthwise convolution followed by a pointwise one (Fig. 3 of the paper).

    .. math::

        u_c = w_c * x_c + a_c, \qquad y_m = \sum_{c=1}^{C} p_{mc}\, u_c + b_m

    with one spatial kernel :math:`w_c` of :math:`k^n` weights per channel and a
    :math:`1 \times 1` kernel :math:`p` from :math:`C` to :math:`M` channels.

    Parameters: :math:`C k^n + C M` weights, and :math:`C + M` with bias. Multiply-accumulates:
    :math:`(C k^n + C M)` per output position, against :math:`C M k^n` of the full convolution.

    Args:
        channels: :math:`C`, the input channels.
        out_channels: :math:`M`, the output channels; None means ``channels``.
        kernel_size: :math:`k`, the kernel size along each axis.
        stride: stride of the depthwise convolution.
        padding: zeros on each side; None keeps the length, for stride 1 and an odd kernel.
        dilation: dilation of the depthwise convolution.
        bias: whether both convolutions add a bias.
        ndim: number :math:`n` of spatial axes, 1, 2 or 3.
        device: device of the parameters.
        dtype: type of the parameters.

    Shape:
        - Input: (N, C, \*S) with ``ndim`` spatial axes.
        - Output: (N, M, \*S') with
          :math:`S' = \lfloor (S + 2p - d(k - 1) - 1) / s \rfloor + 1` along each axis.

    Raises:
        ValueError: if an argument, or the shape or dtype of the input, is not valid.

    Reference:
        Li et al. 2026, section 2.2.1; Chollet 2017, "Xception".

    >>> import torch
    >>> from icasa import DepthwiseSeparableConv
    >>> layer = DepthwiseSeparableConv(16, 8)
    >>> layer(torch.randn(2, 16, 39, 200)).shape
    torch.Size([2, 8, 39, 200])
    >>> sum(p.numel() for p in layer.parameters())  # 16*9 + 16*8 + 16 + 8
    296
    """

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        bias: bool = True,
        ndim: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        out_channels = channels if out_channels is None else out_channels
        check_positive_int("out_channels", out_channels)
        check_positive_int("kernel_size", kernel_size)
        check_positive_int("stride", stride)
        check_positive_int("dilation", dilation)
        if padding is None:
            padding = dilation * (
                check_odd_int("kernel_size (with padding=None)", kernel_size) // 2
            )
        else:
            padding = check_non_negative_int("padding", padding)
        self.ndim = check_ndim(ndim)
        conv = CONVS[ndim]
        self.depthwise = conv(
            channels,
            channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=channels,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.pointwise = conv(channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Initialise both convolutions again, by torch's default."""
        self.depthwise.reset_parameters()
        self.pointwise.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x``; see the class for shapes."""
        check_input(self, x)
        return self.pointwise(self.depthwise(x))  # type: ignore[no-any-return]
