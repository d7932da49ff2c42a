"""CA: coordinate attention (Hou et al. 2021), the layer that ICA improves on."""

import torch
from torch import Tensor, nn

from icasa._check import check_input, check_ndim, check_positive_int
from icasa.activation import HSwish
from icasa.attention._fused import check_fused, run_kernel
from icasa.coordinate import coordinate_gates
from icasa.optim import one_axis_parameters
from icasa.padding import batch_norm


class CA(nn.Module):
    r"""Coordinate attention: multiplies each row and each column of a feature map by a gate.

    .. math::

        f = \mathrm{h\_swish}(\mathrm{BN}(F_1([z^h, z^w]))), \qquad
        y_c(i, j) = x_c(i, j)\, \sigma(F_h(f^h))_c(i)\, \sigma(F_w(f^w))_c(j)

    :math:`z^h`, :math:`z^w` are the means over W and over H; :math:`F_1` is a 1x1 convolution to
    :math:`M = \max(8, \lfloor C / r \rfloor)` channels. :math:`F_h`, :math:`F_w` are 1x1
    convolutions back to :math:`C`. With ``ndim`` axes there are ``ndim`` means and ``ndim`` gates.

    Parameters: :math:`CM + 3M + n(MC + C)`, so 1,688 for ``CA(64)``. Multiply-accumulates, with
    :math:`L` the sum of the axis lengths: :math:`2LCM`.

    Args:
        channels: :math:`C`, the channels of the input.
        reduction: :math:`r`; the width :math:`M` is never below 8.
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
        Hou, Zhou and Feng 2021, "Coordinate Attention for Efficient Mobile Network Design".

    >>> import torch
    >>> from icasa import CA
    >>> CA(64)(torch.randn(2, 64, 56, 56)).shape
    torch.Size([2, 64, 56, 56])
    >>> sum(p.numel() for p in CA(64).parameters())
    1688
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 32,
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
        self.width = max(8, channels // reduction)
        self.reduce = nn.Conv1d(channels, self.width, 1, device=device, dtype=dtype)
        self.norm = nn.BatchNorm1d(self.width, device=device, dtype=dtype)
        self.act = HSwish()
        self.expand = nn.ModuleList(
            nn.Conv1d(self.width, channels, 1, device=device, dtype=dtype) for _ in range(ndim)
        )

    def reset_parameters(self) -> None:
        """Initialise all parameters again and reset the running statistics."""
        for layer in (self.reduce, self.norm, *self.expand):
            layer.reset_parameters()

    def _squeeze(self, z: Tensor, valid: Tensor | None) -> Tensor:
        return self.act(batch_norm(self.norm, self.reduce(z), valid))  # type: ignore[no-any-return]

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention maps of ``x``, gates in (0, 1): (N, C, H, 1), then (N, C, 1, W)."""
        check_input(self, x)
        return coordinate_gates(x, self._squeeze, self.expand, lengths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Multiply ``x`` by its gates."""
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
