"""SA: shuffle attention, channel and spatial gates by groups (Zhang and Yang 2021)."""

import torch
from torch import Tensor, nn

from icasa._check import check_input, check_ndim, check_positive_int
from icasa.attention._fused import check_fused, run_kernel
from icasa.optim import one_axis_parameters
from icasa.padding import check_lengths, spatial_mean


def channel_shuffle(x: Tensor) -> Tensor:
    """Send channel ``j * C/2 + k`` of ``x`` (N, C, *S) to ``2 * k + j``, keeping its layout."""
    # Channels that lie together in memory (channels_last) are moved as the last axis.
    axis = -1 if x.stride(1) == 1 else 1
    y = torch.unflatten(x.movedim(1, axis), axis, (2, -1))
    first = axis - 1 if axis < 0 else axis
    return y.transpose(first, first + 1).flatten(first, first + 1).movedim(axis, 1)


torch.fx.wrap("channel_shuffle")  # torch.fx records the call, as the layout is known when it runs


class PlaneNorm(nn.GroupNorm):
    """GN of Eq. 14, one group per channel, also of single values, which GroupNorm refuses."""

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise ``x`` (N, C, *S), or (N, G, C, *S) by the positions valid by ``lengths``."""
        if lengths is None:
            # Flat, as torch's backward of channels_last crashes where x needs no gradient.
            y = torch.group_norm(x.flatten(2), self.num_groups, self.weight, self.bias, self.eps)
            return y.view_as(x)
        ndim = x.ndim - 3
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = x - spatial_mean(x, lengths, ndim)
        var = spatial_mean(centred.square(), lengths, ndim)
        weight, bias = (p.view(-1, *[1] * ndim) for p in (self.weight, self.bias))
        return centred * torch.rsqrt(var + self.eps) * weight + bias


class SA(nn.Module):
    r"""Shuffle attention: one half of each channel group has gates by channel, one by position.

    Group :math:`X_k` of :math:`G` is split into :math:`X_{k1}`, :math:`X_{k2}` of
    :math:`C / 2G` channels each:

    .. math:: s = \frac{1}{HW} \sum_{i, j} X_{k1}(i, j) \tag{12}

    .. math:: X'_{k1} = \sigma(W_1 s + b_1)\, X_{k1} \tag{13}

    .. math:: X'_{k2} = \sigma(W_2\, \mathrm{GN}(X_{k2}) + b_2)\, X_{k2} \tag{14}

    The halves are joined and the channels shuffled by two: channel :math:`j C/2 + k` moves to
    :math:`2k + j`. GN (group normalisation) is per channel. All groups share its affine parameters
    and :math:`W_1, b_1, W_2, b_2`. At the start :math:`W = 0, b = 1`, so a new layer is
    shuffle(:math:`\sigma(1)\, x`).

    Parameters: :math:`3 C / G`. No multiply-accumulates of convolutions or matrix products.

    Args:
        channels: :math:`C`, divisible by :math:`2G`.
        groups: :math:`G`.
        shuffle: whether the channels are shuffled at the end. Pass False before a residual
            addition and in a pretrained network, where the channels must keep their order.
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
        ValueError: if ``channels`` is not divisible by :math:`2G` (the message lists the groups
            that fit), or if another argument, or the shape or dtype of the input, is not valid.

    Reference:
        Li et al. 2026, section 2.2.2; Zhang and Yang 2021, "SA-Net: Shuffle Attention for Deep
        Convolutional Neural Networks".

    >>> import torch
    >>> from icasa import SA
    >>> SA(16, groups=4)(torch.randn(2, 16, 19, 100)).shape
    torch.Size([2, 16, 19, 100])
    >>> SA(24, groups=8)  # the message lists the groups that fit
    Traceback (most recent call last):
    ...
    ValueError: expected channels divisible by 2 * groups, ... 24 channels: 1, 2, 3, 4, 6, 12
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 4,
        shuffle: bool = True,
        ndim: int = 2,
        fused: bool | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channels = check_positive_int("channels", channels)
        self.groups = check_positive_int("groups", groups)
        self.shuffle = shuffle
        self.ndim = check_ndim(ndim)
        self.fused = check_fused(fused, ndim)
        if channels % (2 * groups):
            fits = [str(g) for g in range(1, channels // 2 + 1) if channels % (2 * g) == 0]
            hint = ", ".join(fits) if fits else "none, an odd number has no halves"
            raise ValueError(
                f"expected channels divisible by 2 * groups, got channels={channels}, "
                f"groups={groups}; groups that fit {channels} channels: {hint}"
            )
        # DIFF: the paper writes X_k1, X_k2 in R^(C/G x H x W); after the split each has C/2G.
        half = channels // (2 * groups)
        self.norm = PlaneNorm(half, half, device=device, dtype=dtype)
        self.channel_weight = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.channel_bias = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.spatial_weight = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.spatial_bias = nn.Parameter(torch.empty(half, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Open every gate to sigmoid(1): weights 0, biases 1, norm at the identity."""
        self.norm.reset_parameters()
        nn.init.zeros_(self.channel_weight)
        nn.init.ones_(self.channel_bias)
        nn.init.zeros_(self.spatial_weight)
        nn.init.ones_(self.spatial_bias)

    def _normalise(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """GN of Eq. 14, per channel, of ``x`` (N, G, C/2G, *S)."""
        if lengths is not None:
            return self.norm(x, lengths)  # type: ignore[no-any-return]
        return torch.unflatten(self.norm(x.flatten(0, 1)), 0, (-1, self.groups))

    def gates(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the attention map of ``x``, (N, C, H, W): a gate in (0, 1) for each element.

        The maps are those before the shuffle. In each group the first half of the channels has one
        value per plane.
        """
        check_input(self, x)
        lengths = check_lengths(x, lengths)
        ones = [1] * self.ndim
        w1, b1, w2, b2 = (
            p.view(-1, *ones)
            for p in (
                self.channel_weight,
                self.channel_bias,
                self.spatial_weight,
                self.spatial_bias,
            )
        )
        x1, x2 = torch.unflatten(x, 1, (self.groups, 2, -1)).unbind(2)  # each (N, G, C/2G, *S)
        s = spatial_mean(x1, lengths, self.ndim)  # Eq. 12
        g1 = torch.sigmoid(w1 * s + b1).to(x.dtype)  # Eq. 13
        # DIFF: the text names "F_c(x)" once more for the affine W_2, b_2.
        g2 = torch.sigmoid(w2 * self._normalise(x2, lengths) + b2).to(x.dtype)  # Eq. 14
        return (torch.stack((g1.expand_as(g2), g2), dim=2).flatten(1, 3),)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Gate ``x`` and shuffle its channels."""
        check_input(self, x)
        if (y := run_kernel(self, x, lengths)) is not None:
            return y
        (gate,) = self.gates(x, lengths)
        y = x * gate
        return channel_shuffle(y) if self.shuffle else y

    no_weight_decay = one_axis_parameters

    def extra_repr(self) -> str:
        """Show the options that matter."""
        shown = f"{self.channels}, groups={self.groups}, shuffle={self.shuffle}, ndim={self.ndim}"
        return shown if self.fused is None else f"{shown}, fused={self.fused}"
