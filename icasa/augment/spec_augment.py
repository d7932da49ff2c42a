"""SpecAugment: masks over frequency and time, without the time warp (Park et al. 2019)."""

import torch
from torch import Tensor, nn

from icasa._check import check_non_negative_int, check_range
from icasa.augment.draw import integers, uniform
from icasa.padding import clear_padding


class SpecAugment(nn.Module):
    r"""SpecAugment: mask random bands of frequencies and random segments of time in a spectrogram.

    .. math::

        f &\sim U\{0, \dots, F\}, \quad f_0 \sim U\{0, \dots, H - f\} \\
        x_{h, w} &= v \quad \text{for} \quad f_0 \le h < f_0 + f

    for each frequency mask, and the same with T and W for each time mask. Each sample has its own
    masks, equal in all its channels. Masks may overlap. Use standardised features, so that v = 0 is
    the mean. In ``eval()`` x is returned unchanged and nothing is drawn.

    Args:
        freq_masks: number of frequency masks per sample, 0 for none.
        freq_width: F, the largest width of a frequency mask, in rows.
        time_masks: number of time masks per sample, 0 for none.
        time_width: T, the largest width of a time mask, in frames.
        value: :math:`v`, the value at masked positions.

    Shape:
        x (N, \*, H, W) of any floating dtype, H frequency and W time; out the same.

    Raises:
        ValueError: an option, shape or dtype that is not valid, lengths outside 1..W, or a mask
            wider than its axis.

    Reference:
        Park et al. 2019, "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
        Recognition", section 2; Li et al. 2026, section 3.4.1.

    >>> import torch
    >>> from icasa import SpecAugment
    >>> augment = SpecAugment(freq_masks=1, freq_width=8, time_masks=2, time_width=40)
    >>> augment(torch.randn(8, 1, 39, 200)).shape
    torch.Size([8, 1, 39, 200])
    """

    # DIFF: section 3.4.1 promises SpecAugment without widths, and Table 9 has no row of it. The
    # defaults are Park et al.'s policy SM (F = 15 of 80 mel bands, at most 0.2 of the frames)
    # scaled to 39 x 200; on MFCC a frequency mask hides neighbouring coefficients, not a band.
    # DIFF: no time warp, which Park et al. find the most expensive and least influential part.
    def __init__(
        self,
        freq_masks: int = 2,
        freq_width: int = 7,
        time_masks: int = 2,
        time_width: int = 40,
        *,
        value: float = 0.0,
    ) -> None:
        super().__init__()
        self.freq_masks = check_non_negative_int("freq_masks", freq_masks)
        self.freq_width = check_non_negative_int("freq_width", freq_width)
        self.time_masks = check_non_negative_int("time_masks", time_masks)
        self.time_width = check_non_negative_int("time_width", time_width)
        self.value = check_range("value", value, -1e6, 1e6)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return x with its masks filled.

        Args:
            x: the batch.
            lengths: valid positions (N,) of x's last axis. Time masks lie within them and are not
                wider than them. The padding is returned as zeros.
            generator: random generator on x's device; by default torch's.
        """
        if x.ndim < 3 or not x.is_floating_point():
            raise ValueError(
                f"SpecAugment expected a floating point x of shape (N, *, H, W), "
                f"got {x.dtype} {tuple(x.shape)}; call x.float() or add the missing axis first"
            )
        if not self.training:
            return x
        for name, axis in (("freq", -2), ("time", -1)):
            width = getattr(self, f"{name}_width")
            if getattr(self, f"{name}_masks") and width > x.shape[axis]:
                raise ValueError(
                    f"expected {name}_width <= {x.shape[axis]}, axis {axis} of x {tuple(x.shape)}, "
                    f"got {width}; build SpecAugment with a narrower mask"
                )
        x = clear_padding(x, lengths)[0]
        end = lengths.long().unsqueeze(1) if lengths is not None else x.shape[-1]
        rows = _masks(x, -2, self.freq_masks, self.freq_width, x.shape[-2], generator)
        columns = _masks(x, -1, self.time_masks, self.time_width, end, generator)
        masked = rows.unsqueeze(2) | columns.unsqueeze(1)  # (N, H, W)
        shape = (len(x), *[1] * (x.ndim - 3), *x.shape[-2:])
        return torch.where(masked.view(shape), self.value, x)  # masked_fill drops channels_last

    def extra_repr(self) -> str:
        """Show the options."""
        return (
            f"freq_masks={self.freq_masks}, freq_width={self.freq_width}, "
            f"time_masks={self.time_masks}, time_width={self.time_width}, value={self.value}"
        )


def _masks(
    x: Tensor,
    axis: int,
    count: int,
    widest: int,
    end: Tensor | int,
    generator: torch.Generator | None,
) -> Tensor:
    """Return which positions of an axis lie in one of a sample's masks, all before ``end``."""
    size, place = uniform(x, 2, len(x), count, generator=generator)
    limit = torch.as_tensor(end, device=x.device).clamp(max=widest)
    width = integers(size, 0, limit)
    # DIFF: Park et al. draw f0 from [0, H - f), which never masks the last row; here it may be.
    start = integers(place, 0, end - width)  # (N, count)
    at = torch.arange(x.shape[axis], device=x.device).unsqueeze(1)  # (axis, 1)
    start, width = start.unsqueeze(1), width.unsqueeze(1)
    return ((start <= at) & (at < start + width)).any(2)  # (N, axis)
