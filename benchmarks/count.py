"""What a forward costs without a clock: parameters, operations, bytes kept for the backward.

Five counts, since published ones differ six-fold for one layer by their conventions:

- MACs: multiply-accumulates of convolutions and linear maps, from the shapes that hooks see:
  outputs times (input channels / groups) times taps. Checked against the next two.
- fvcore: its default total (MAC = 1; norms and some pools counted, element-wise ones not), which
  papers print, and its entries for convolution and matrix products alone.
- torch: half of FlopCounterMode's total, which counts convolutions and matrix products.
- FLOPs: all arithmetic, by `COST`: what is computed per element of a tensor counts, moving does
  not, and neither does what happens once per channel. A MAC is two.
- saved: bytes of the unique storages that autograd keeps, by hooks on saved tensors.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import use_path

# Operations per element of the output.
PER_OUTPUT = {
    "add": 1,
    "div": 1,
    "mul": 1,
    "relu": 1,
    "rsub": 1,
    "sub": 1,
    "sigmoid": 4,  # negate, exp, add, divide
    "hardswish": 5,  # add, two bounds, multiply, divide
    "_softmax": 5,  # maximum, subtract, exp, sum, divide
    "native_batch_norm": 2,  # scale and shift, folded per channel: eval
    "native_group_norm": 6,  # mean, centre, square, sum, scale, shift
}
# Operations per element of the input: a reduction's additions or comparisons.
PER_INPUT = {"amax": 1, "mean": 1, "sum": 1}
FREE = {
    "_to_copy",
    "_unsafe_view",
    "alias",
    "cat",
    "clone",
    "constant_pad_nd",
    "copy_",
    "detach",
    "empty",
    "expand",
    "permute",
    "select",
    "slice",
    "split_with_sizes",
    "squeeze",
    "stack",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
}


def operations(name: str, args: tuple[Any, ...], out: Any) -> int:
    """FLOPs of one ATen operator, by `PER_OUTPUT`, `PER_INPUT` and the lines below."""
    if name in FREE:
        return 0
    first = out[0] if isinstance(out, (tuple, list)) else out
    if name in PER_OUTPUT:
        return PER_OUTPUT[name] * first.numel()
    if name in PER_INPUT:
        return PER_INPUT[name] * args[0].numel()
    if name == "convolution":  # a MAC per tap, and the bias
        return first.numel() * (2 * args[1][0].numel() + (args[2] is not None))
    if name == "addmm":
        return first.numel() * (2 * args[1].shape[1] + 1)
    if name == "max_pool2d_with_indices":  # a comparison per tap
        return first.numel() * math.prod(args[1])
    raise ValueError(f"no cost is known for {name}; add it to PER_OUTPUT, PER_INPUT or FREE")


class _Operations(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += operations(func._schema.name.removeprefix("aten::"), args, out)
        return out


@torch.no_grad()
def flops(model: nn.Module, x: Tensor) -> int:
    """All arithmetic of a forward, by our own formula."""
    with _Operations() as mode:
        model(x)
    return mode.total


@torch.no_grad()
def macs(model: nn.Module, x: Tensor) -> int:
    """Multiply-accumulates of the convolutions and linear maps of a forward, from shapes."""
    total = 0

    def hook(module: Any, args: Any, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * module.weight[0].numel()

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    hooks = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    try:
        model(x)
    finally:
        for handle in hooks:
            handle.remove()
    return total


def fvcore_counts(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Total of fvcore by default, and its entries for convolutions and matrix products."""
    with warnings.catch_warnings():  # it scripts a function of its own, which torch deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False)
        entries = analysis.uncalled_modules_warnings(False).by_operator()
    products = ("conv", "linear", "matmul", "addmm", "bmm", "einsum")
    return round(sum(entries.values())), round(sum(entries[name] for name in products))


@torch.no_grad()
def torch_macs(model: nn.Module, x: Tensor) -> float:
    """Half of what torch's FlopCounterMode counts."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2


def saved_bytes(forward: Callable[[], Any], spared: Iterable[Tensor]) -> int:
    """Bytes that `forward` keeps for its backward: unique storages, without the `spared` ones.

    Parameters and buffers belong to the `spared`: they live anyway. The input counts if it is kept.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in spared}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def saved(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward in the model's mode keeps for its backward, x needing its gradient."""
    x = x.detach().requires_grad_()
    return saved_bytes(lambda: model(x), (*model.parameters(), *model.buffers()))


def counts(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the columns of a row, on the eager path: eval, and training for what is saved.

    Raises:
        ValueError: where the formula's MACs are not those of fvcore and of torch.
    """
    model = use_path(copy.deepcopy(model), fused=False).eval()
    ours, by_torch = macs(model, x), torch_macs(model, x)
    total, by_fvcore = fvcore_counts(model, x)
    if not ours == by_fvcore == by_torch:
        raise ValueError(
            f"MACs disagree: {ours} by shapes, {by_fvcore} by fvcore, {by_torch} by torch; "
            "what is convolution or linear map must be a module of torch.nn"
        )
    row = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "MACs": ours,
        "fvcore total": total,
        "fvcore conv and linear": by_fvcore,
        "torch FLOPs / 2": int(by_torch),
        "FLOPs, all operations": flops(model, x),
    }
    return row | {"saved for backward, bytes": saved(model.train(), x)}
