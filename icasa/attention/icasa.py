"""ICASA: a learned mix of improved coordinate and shuffle attention (Li et al. 2026)."""

from typing import Any

import torch
from torch import Tensor, nn

from icasa._check import check_input
from icasa.attention._fused import run_kernel
from icasa.attention.ica import ICA
from icasa.attention.sa import SA
from icasa.optim import one_axis_parameters
from icasa.padding import check_lengths


def bounded_share(raw: Tensor) -> Tensor:
    """Sigmoid of ``raw``, kept inside (0, 1) also where rounding would give 0 or 1."""
    eps = torch.finfo(raw.dtype).eps
    return torch.sigmoid(raw).clamp(eps, 1 - eps)


torch.fx.wrap("bounded_share")  # torch.fx records the call, as the type is known when it runs


class ICASA(nn.Module):
    r"""Improved coordinate and shuffle attention: the weighted sum of ICA and SA.

    .. math:: \mathrm{ICASA}(x) = \beta\, \mathrm{ICA}(x) + (1 - \beta)\, \mathrm{SA}(x) \tag{5}

    :math:`\beta` is learnable, starts at 0.5 and is read as ``layer.beta``. The branches are
    ``layer.ica`` and ``layer.sa``. SA ends in a channel shuffle, so Eq. 5 adds different channels.
    With ``shuffle=False`` the channels keep their order: use it before a residual addition and in
    a pretrained network. A new layer scales its input by about 0.5; ``residual=True`` adds the
    input to the output.

    Parameters: those of ICA and SA, and one more. Multiply-accumulates: those of ICA.

    Args:
        channels: :math:`C`, divisible by ``2 * groups``.
        groups: :math:`G` of SA.
        reduction: :math:`r` of ICA.
        kernel_size: the odd kernel size of ICA's depthwise convolution.
        norm: whether ICA has a BatchNorm.
        shuffle: whether SA shuffles its channels, as in the paper.
        bounded: keep :math:`\beta` in (0, 1) as the sigmoid of its parameter, which starts at 0.
        residual: return :math:`x + \mathrm{ICASA}(x)`.
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
        ValueError: as :class:`ICA` and :class:`SA` do.

    Reference:
        Li et al. 2026, section 2.2, Eq. 5.

    >>> import torch
    >>> from icasa import ICASA
    >>> layer = ICASA(32)
    >>> layer(torch.randn(2, 32, 19, 100)).shape
    torch.Size([2, 32, 19, 100])
    >>> layer.beta.item()
    0.5
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 4,
        reduction: int = 32,
        kernel_size: int = 3,
        norm: bool = True,
        shuffle: bool = True,
        bounded: bool = False,
        residual: bool = False,
        ndim: int = 2,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.bounded = bounded
        self.residual = residual
        shared: dict[str, Any] = {"ndim": ndim, "fused": fused, "device": device, "dtype": dtype}
        self.ica = ICA(channels, reduction=reduction, kernel_size=kernel_size, norm=norm, **shared)
        self.sa = SA(channels, groups=groups, shuffle=shuffle, **shared)
        self.channels, self.ndim, self.fused = self.ica.channels, self.ica.ndim, self.ica.fused
        # One element rather than none: sharding wrappers refuse scalar parameters.
        self.raw_beta = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self._reset_beta()

    @property
    def beta(self) -> Tensor:
        """The weight of ICA, a tensor of one element, the parameter itself by default."""
        return bounded_share(self.raw_beta) if self.bounded else self.raw_beta

    def _reset_beta(self) -> None:
        nn.init.constant_(self.raw_beta, 0.0 if self.bounded else 0.5)

    def reset_parameters(self) -> None:
        """Initialise both branches again and set beta to 0.5."""
        self.ica.reset_parameters()
        self.sa.reset_parameters()
        self._reset_beta()

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention maps of ``x``: those of ICA, one per axis, then that of SA."""
        check_input(self, x)
        lengths = check_lengths(x, lengths)
        return (*self.ica.gates(x, lengths), *self.sa.gates(x, lengths))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the weighted sum of the two branches (Eq. 5)."""
        check_input(self, x)
        if (y := run_kernel(self, x, lengths)) is not None:
            return y
        lengths = check_lengths(x, lengths)
        beta = self.beta.to(x.dtype)
        # A branch put in by hand may take x alone.
        args = (x,) if lengths is None else (x, lengths)
        y = beta * self.ica(*args) + (1 - beta) * self.sa(*args)
        return x + y if self.residual else y  # type: ignore[no-any-return]

    no_weight_decay = one_axis_parameters

    def extra_repr(self) -> str:
        """Show the options that matter; the branches show theirs."""
        shown = f"bounded={self.bounded}, residual={self.residual}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
