"""RandomCrop: keep a random stretch of time, padded back to the width."""

import torch
from torch import Tensor, nn

from icasa._check import check_range
from icasa.augment.draw import integers, uniform
from icasa.padding import clear_padding


class RandomCrop(nn.Module):
    r"""RandomCrop: keep a random segment of each sample, move it to the start, pad with zeros.

    .. math::

        l &\sim U\{\lceil p W \rceil, \dots, W\}, \quad s \sim U\{0, \dots, W - l\} \\
        \tilde x_w &= x_{s + w} \text{ for } w < l, \text{ else } 0

    Use standardised features, so that 0 is the mean. In ``eval()`` x is returned unchanged and
    nothing is drawn.

    Args:
        min_fraction: p in (0, 1], the smallest share of a sample that is kept.

    Shape:
        x (N, \*, W) of any floating dtype, W time; out the same.

    Raises:
        ValueError: an option, shape or dtype that is not valid, or lengths outside 1..W.

    Reference:
        Li et al. 2026, section 3.4.1 and Table 9 ("RC").

    >>> import torch
    >>> from icasa import RandomCrop
    >>> crop = RandomCrop(min_fraction=0.5)
    >>> crop(torch.randn(8, 1, 39, 200)).shape
    torch.Size([8, 1, 39, 200])
    """

    # DIFF: Table 9's RC cites [27], a paper on spectrogram transformers, and gives no size, axis or
    # padding. We crop along time and pad at the end, as Algorithm 2 pads a short utterance; a
    # resize back to W would change the speaking rate, which carries emotion. The length varies, for
    # with one length every training sample, and no test sample, would end in padding.
    def __init__(self, *, min_fraction: float = 0.8) -> None:
        super().__init__()
        self.min_fraction = check_range("min_fraction", min_fraction, 1e-3, 1)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        return_lengths: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the crops.

        Args:
            x: the batch.
            lengths: valid positions (N,) of x's last axis; each sample's own W. The padding is
                returned as zeros.
            generator: random generator on x's device; by default torch's.
            return_lengths: also return l (N,), the lengths of the crops.
        """
        if x.ndim < 2 or not x.is_floating_point():
            raise ValueError(
                f"RandomCrop expected a floating point x of shape (N, *, W), "
                f"got {x.dtype} {tuple(x.shape)}; call x.float() or add the missing axis first"
            )
        whole = torch.full((len(x),), x.shape[-1], device=x.device) if lengths is None else lengths
        if not self.training:
            return (x, whole) if return_lengths else x
        padded = clear_padding(x, lengths)[0]
        size, place = uniform(x, 2, len(x), generator=generator)
        whole = whole.long()
        shortest = self.min_fraction * whole.float() * (1 - 1e-6)  # so that 0.15 of 200 is 30
        least = shortest.ceil().long()
        length = integers(size, least, whole)
        start = integers(place, 0, whole - length)
        at = torch.arange(x.shape[-1], device=x.device)
        source = (start.unsqueeze(1) + at).clamp(max=x.shape[-1] - 1)  # (N, W)
        shape = (len(x), *[1] * (x.ndim - 2), x.shape[-1])
        crop = padded.gather(-1, source.view(shape).expand_as(x))
        beyond = (at >= length.unsqueeze(1)).view(shape)
        crop = torch.where(beyond, torch.zeros_like(x), crop)  # in the memory format of x
        return (crop, length) if return_lengths else crop

    def extra_repr(self) -> str:
        """Show the option."""
        return f"min_fraction={self.min_fraction}"
