"""ICA: improved coordinate attention, gates along each axis (Li et al. 2026, section 2.2.1)."""

import torch
from torch import Tensor, nn

from icasa._check import check_input, check_ndim, check_odd_int, check_positive_int
from icasa.activation import HSwish
from icasa.attention._fused import check_fused, run_kernel
from icasa.conv import DepthwiseSeparableConv
from icasa.coordinate import coordinate_gates
from icasa.optim import one_axis_parameters
from icasa.padding import batch_norm


class ICA(nn.Module):
    r"""Improved coordinate attention: multiplies each row and each column of a map by a gate.

    .. math::

        z^h_c(i) = \frac{1}{W} \sum_{j} x_c(i, j), \qquad
        z^w_c(j) = \frac{1}{H} \sum_{i} x_c(i, j) \tag{6, 7}

    .. math:: f = \mathrm{h\_swish}(\mathrm{BN}(\mathrm{DSConv}([z^h, z^w]))) \tag{8}

    .. math::

        g^h = \sigma(F_h(f^h)), \qquad g^w = \sigma(F_w(f^w)) \tag{9, 10}

    .. math:: y_c(i, j) = x_c(i, j)\, g^h_c(i)\, g^w_c(j) \tag{11}

    The depthwise-separable convolution runs along the concatenated axis and reduces :math:`C` to
    :math:`M = \max(8, \lfloor C / r \rfloor)` channels; :math:`F_h`, :math:`F_w` are 1x1
    convolutions back to :math:`C`. With a kernel of 3 the last row and the first column are
    neighbours in the concatenation. With ``ndim`` axes there are ``ndim`` means and ``ndim``
    gates.

    Parameters: :math:`C(k + 1) + CM + 3M + n(MC + C)`. Multiply-accumulates, with :math:`L` the
    sum of the axis lengths: :math:`L(Ck + 2CM)`.

    Args:
        channels: :math:`C`, the channels of the input.
        reduction: :math:`r`; the width :math:`M` is never below 8.
        kernel_size: :math:`k`, the odd kernel size of the depthwise convolution.
        norm: whether Eq. 8 has a BatchNorm.
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
        ValueError: if an argument, or the shape or dtype of the input, is not valid. In training a
            BatchNorm needs more than one value per channel (``ndim=1`` with N = L = 1 has one).

    Reference:
        Li et al. 2026, section 2.2.1; Hou et al. 2021, "Coordinate Attention for Efficient Mobile
        Network Design".

    >>> import torch
    >>> from icasa import ICA
    >>> layer = ICA(32)
    >>> layer(torch.randn(2, 32, 19, 100)).shape
    torch.Size([2, 32, 19, 100])
    >>> [tuple(g.shape) for g in layer.gates(torch.randn(2, 32, 19, 100))]
    [(2, 32, 19, 1), (2, 32, 1, 100)]
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
        kernel_size: int = 3,
        norm: bool = True,
        ndim: int = 2,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        self.reduction = check_positive_int("reduction", reduction)
        self.kernel_size = check_odd_int("kernel_size", kernel_size)
        self.ndim = check_ndim(ndim)
        self.fused = check_fused(fused, ndim)
        # DIFF: "adaptive dimensionality reduction" has no formula; we take coordinate attention's.
        self.width = max(8, channels // reduction)
        self.reduce = DepthwiseSeparableConv(
            channels, self.width, kernel_size=kernel_size, ndim=1, device=device, dtype=dtype
        )
        # DIFF: Eq. 8 has no normalisation, coordinate attention does; norm=False leaves it out.
        self.norm = (
            nn.BatchNorm1d(self.width, device=device, dtype=dtype) if norm else nn.Identity()
        )
        self.act = HSwish()
        self.expand = nn.ModuleList(
            nn.Conv1d(self.width, channels, 1, device=device, dtype=dtype) for _ in range(ndim)
        )

    def reset_parameters(self) -> None:
        """Initialise all parameters again and reset the running statistics."""
        for layer in (self.reduce, *self.expand):
            layer.reset_parameters()
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.reset_parameters()

    def _squeeze(self, z: Tensor, valid: Tensor | None) -> Tensor:
        # DIFF: the text under Eq. 8 swaps its symbols; the convolution comes first.
        return self.act(batch_norm(self.norm, self.reduce(z), valid))  # type: ignore[no-any-return]

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention maps of ``x``, gates in (0, 1): (N, C, H, 1), then (N, C, 1, W)."""
        check_input(self, x)
        return coordinate_gates(x, self._squeeze, self.expand, lengths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Multiply ``x`` by its gates (Eq. 11)."""
        check_input(self, x)
        if (y := run_kernel(self, x, lengths)) is not None:
            return y
        y = x
        for gate in self.gates(x, lengths):
            y = y * gate
        return y

    no_weight_decay = one_axis_parameters

    def extra_repr(self) -> str:
        """Show what the submodules do not."""
        shown = f"{self.channels}, reduction={self.reduction}, width={self.width}, ndim={self.ndim}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
