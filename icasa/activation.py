"""HSwish: the piecewise-linear swish of MobileNetV3, used by coordinate attention."""

import torch.nn.functional as F
from torch import Tensor, nn


class HSwish(nn.Module):
    r"""Hard swish: a swish with a piecewise linear function in place of the sigmoid.

    .. math:: \mathrm{h\_swish}(x) = x \cdot \frac{\mathrm{ReLU6}(x + 3)}{6}

    It is zero below -3, the identity above 3, and has no parameters.

    Shape:
        - Input: any shape, floating point.
        - Output: the same shape, dtype and memory format.

    Reference:
        Howard et al. 2019, "Searching for MobileNetV3", section 5.2; the :math:`F_1` of Eq. 8 in
        Li et al. 2026.

    >>> import torch
    >>> from icasa import HSwish
    >>> HSwish()(torch.tensor([-4.0, 0.0, 1.0, 4.0]))
    tensor([-0.0000, 0.0000, 0.6667, 4.0000])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each element; ``x`` is not changed."""
        return F.hardswish(x)
