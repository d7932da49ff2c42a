"""ICA: improved coordinate attention, gates along each axis (Li et al. 2026, section 2.2.1)."""

from typing import Any

import torch
from torch import Tensor, nn

from icasa import kernels
from icasa._check import check_input, check_ndim, check_odd_int, check_positive_int
from icasa.activation import HSwish
from icasa.conv import DepthwiseSeparableConv
from icasa.coordinate import axis_gates, coordinate_gates
from icasa.padding import batch_norm


class ICA(nn.Module):
    r"""Improved coordinate attention: weighs each row and each column of a feature map.

    .. math::

        z^h_c(i) = \frac{1}{W} \sum_{j} x_c(i, j), \qquad
        z^w_c(j) = \frac{1}{H} \sum_{i} x_c(i, j) \tag{6, 7}

    .. math:: f = \mathrm{h\_swish}(\mathrm{BN}(\mathrm{DSConv}([z^h, z^w]))) \tag{8}

    .. math::

        g^h = \sigma(F_h(f^h)), \qquad g^w = \sigma(F_w(f^w)) \tag{9, 10}

    .. math:: y_c(i, j) = x_c(i, j)\, g^h_c(i)\, g^w_c(j) \tag{11}

    The depthwise-separable convolution runs along the concatenated axis and reduces :math:`C` to
    :math:`M = \max(8, \lfloor C / r \rfloor)` channels; :math:`F_h`, :math:`F_w` are 1x1
    convolutions back to :math:`C`. With a kernel of 3 the last row and the first column touch at
    the seam of the concatenation. With ``ndim`` axes there are as many means, and the gates
    multiply.

    Parameters: :math:`C(k + 1) + CM + 3M + n(MC + C)`. Multiply-accumulates, with :math:`L` the
    sum of the axis lengths: :math:`L(Ck + 2CM)`.

    Args:
        channels: :math:`C`, the channels of the input.
        reduction: :math:`r`; the width :math:`M` is never below 8.
        kernel_size: odd taps :math:`k` of the depthwise convolution.
        norm: whether Eq. 8 has its BatchNorm.
        ndim: number of spatial axes, 1, 2 or 3.
        fused: None for the fast path where it serves and pays on the CPU, the same values in fewer
            passes over x, without second derivatives; False for plain torch operators; True to
            insist, also on CUDA by Triton, and to refuse ``lengths`` and what else it cannot
            serve. It copies a map that is not contiguous, and returns channels_last as such.
        device: where the parameters are made.
        dtype: type of the parameters.

    Shape:
        - Input: (N, C, \*S) with ``ndim`` spatial axes of any length.
        - ``lengths``: (N,) integers, the valid positions of the last axis where a batch is padded.
        - Output: the same shape, dtype and memory format.

    Raises:
        ValueError: if an argument or the input's shape or dtype does not fit. In training a
            BatchNorm wants more than one value per channel (``ndim=1`` with N = L = 1 has one).

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
        self.fused = kernels.option(fused, ndim)
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
        """Draw all parameters anew and forget the running statistics."""
        for layer in (self.reduce, *self.expand):
            layer.reset_parameters()
        if isinstance(self.norm, nn.BatchNorm1d):
            self.norm.reset_parameters()

    def _squeeze(self, z: Tensor, valid: Tensor | None) -> Tensor:
        # DIFF: the text under Eq. 8 swaps its symbols; the convolution comes first.
        return self.act(batch_norm(self.norm, self.reduce(z), valid))  # type: ignore[no-any-return]

    def _from_means(self, z_h: Tensor, z_w: Tensor, x: Tensor) -> dict[str, Any]:
        """Eq. 8-10 for the fast path."""
        g_h, g_w = axis_gates((z_h.to(x.dtype), z_w.to(x.dtype)), self._squeeze, self.expand)
        return {"g_h": g_h, "g_w": g_w}

    def _rebuilt(self) -> bool:
        """Whether the gates are another's than these."""
        return not kernels.own_gates(self, ICA)

    def _net(self) -> kernels.Net | None:
        """Say what Eq. 8-10 are made of, None if a submodule was replaced."""
        # Read from the dicts: an attribute of a module takes ten times as long.
        modules: dict[str, Any] = self._modules
        reduce, norm, act = (modules[name] for name in ("reduce", "norm", "act"))
        if type(reduce) is not DepthwiseSeparableConv or type(act) is not HSwish:
            return None
        C, M, k = self.channels, self.width, self.kernel_size
        convs = (reduce.depthwise, reduce.pointwise, *modules["expand"])
        tensors: list[Tensor | None] = []
        for conv, shape in zip(convs, ((C, 1, k), (M, C, 1), (C, M, 1), (C, M, 1)), strict=True):
            if type(conv) is not nn.Conv1d:
                return None
            weight, bias = (conv._parameters.get(name) for name in ("weight", "bias"))
            if weight is None or weight.shape != shape or conv.padding_mode != "zeros":
                return None
            if (conv.stride, conv.padding, conv.dilation) != ((1,), (shape[2] // 2,), (1,)):
                return None
            tensors += (weight, bias)
        if type(norm) is nn.BatchNorm1d:
            if norm.training and (norm.momentum is None or not norm.track_running_stats):
                return None
            tensors += [norm._parameters.get(name) for name in ("weight", "bias")]
            tensors += [norm._buffers.get(name) for name in ("running_mean", "running_var")]
            if any(p is None or p.shape != (M,) for p in tensors[8:]):
                return None
        elif type(norm) is not nn.Identity:
            return None
        eps, widest = getattr(norm, "eps", 0.0), max(self.width, self.kernel_size)
        learns = norm if tensors[8:] and norm.training else None
        return kernels.Net(tensors, eps, (reduce, act, norm, *convs), widest, learns)

    def _fused(self, x: Tensor) -> Tensor | None:
        y = kernels.attend(x, ica=self._net)
        if y is not None or not kernels.in_parts(x, self.fused):
            return y
        inner, z_h, z_w, *_ = kernels.moments(x, axes=True)
        return kernels.mix(inner, **self._from_means(z_h, z_w, x))

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Attention maps of ``x``: per axis a gate in (0, 1), (N, C, H, 1) then (N, C, 1, W)."""
        check_input(self, x)
        return coordinate_gates(x, self._squeeze, self.expand, lengths)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Weigh ``x`` by the product of its gates (Eq. 11)."""
        check_input(self, x)
        usable = kernels.usable(x, lengths, self.fused, rebuilt=self._rebuilt())
        if usable and (y := self._fused(x)) is not None:
            return kernels.laid_out_as(x, y)
        y = x
        for gate in self.gates(x, lengths):
            y = y * gate
        return y

    def no_weight_decay(self) -> set[str]:
        """Names of biases and norms, which weight decay should spare."""
        return {name for name, p in self.named_parameters() if p.ndim == 1}

    def extra_repr(self) -> str:
        """Show what the submodules do not."""
        shown = f"{self.channels}, reduction={self.reduction}, width={self.width}, ndim={self.ndim}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
