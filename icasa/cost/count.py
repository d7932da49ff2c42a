"""What is counted rather than timed: MACs, and the bytes saved for the backward."""

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.mha import get_fastpath_enabled, set_fastpath_enabled
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from icasa.attention import LAYERS


def macs(model: nn.Module, *args: Any) -> int:
    """Return the multiply-accumulates of a forward, half of the count of torch's FlopCounterMode.

    Convolutions and matrix products are counted, as modules or as functions, also inside attention
    and recurrent layers, whose fused forms are switched off for the count. Norms, pooling, biases
    and other element-wise operations are not counted.
    """
    # Without parameters that need gradients: else the counter fails at views made under no_grad.
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            layer.fused = False  # type: ignore[assignment]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(set_fastpath_enabled, get_fastpath_enabled())
        set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            for backend in (torch.backends.mkldnn, torch.backends.cudnn):
                stack.callback(backend.set_flags, backend.set_flags(False)[0])
        counter = stack.enter_context(FlopCounterMode(display=False))
        model(*args)
    return int(counter.get_total_flops()) // 2


def saved_bytes(forward: Callable[[], Any], spared: Iterable[Tensor]) -> int:
    """Return the bytes that ``forward`` saves for its backward, without the ``spared`` tensors.

    Each storage is counted once. Pass the parameters and buffers as ``spared``, which exist anyway.
    The input is counted if it is saved.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in spared}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in saved.values())
