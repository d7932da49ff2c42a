"""Labels as rows of class weights, which mixing needs."""

from typing import Any

import torch
from torch import Tensor

from icasa._check import check_same_device


def float_labels(layer: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return y as (N, ``layer.num_classes``) floats: a soft label as it is, an index one-hot."""
    name, k = type(layer).__name__, layer.num_classes
    for argument, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            hint = "" if argument == "x" else f"number the classes 0..{k - 1} and "
            raise ValueError(
                f"{name} expected {argument} to be a tensor, got {type(value).__name__}; "
                f"{hint}call torch.as_tensor first"
            )
    n = len(x) if x.ndim else 0
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"{name} expected a floating point x of shape (N, *) with at least 2 axes, "
            f"got {x.dtype} {tuple(x.shape)}; call x.float() or add the missing axis first"
        )
    if y.shape not in ((n,), (n, k)):
        raise ValueError(
            f"{name} expected y of shape ({n},) or ({n}, {k}), got {tuple(y.shape)}; "
            f"match y to x or build {name} with num_classes as wide as the labels"
        )
    check_same_device("y", y, x)
    if y.ndim == 2:
        return y if y.is_floating_point() else y.to(torch.promote_types(x.dtype, torch.float32))
    if y.is_floating_point():
        raise ValueError(f"expected integer class indices, got {y.dtype}; call y.long() first")
    y = y.long()  # the classes may be past a smaller type
    if not torch.compiler.is_compiling():
        bad = y[(y < 0) | (y >= k)]
        if len(bad):
            raise ValueError(
                f"expected class indices in 0..{k - 1}, got {bad[0].item()}; "
                f"remap the labels or build {name} with another num_classes"
            )
    one_hot = y.unsqueeze(1) == torch.arange(k, device=y.device)  # (N, K)
    return one_hot.to(torch.promote_types(x.dtype, torch.float32))
