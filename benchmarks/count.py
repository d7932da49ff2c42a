"""What a forward costs without a clock: parameters, operations, bytes saved for the backward.

Five counts, since published ones differ six-fold for one layer by their conventions:

- MACs: multiply-accumulates of convolutions and linear maps, from the shapes that hooks see:
  outputs times (input channels / groups) times taps. Checked against the next two.
- fvcore: its default total (MAC = 1; norms and some pools counted, element-wise ones not), which
  papers print, and its entries for convolution and matrix products alone.
- torch: half of FlopCounterMode's total, which counts convolutions and matrix products.
- FLOPs: all arithmetic, by the tables below: what is computed per element of a tensor counts,
  moving does not, and neither does what happens once per channel. A MAC is two.
- saved: bytes of the unique storages that autograd keeps, by hooks on saved tensors.
"""

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import icasa.cost
from benchmarks.harness import use_path

ELEMENTWISE = (
    "abs", "add", "bitwise_not", "clamp_min", "cos", "div", "eq", "exp", "ge", "gt", "le", "log",
    "lt", "maximum", "minimum", "mul", "ne", "neg", "pow", "reciprocal", "relu", "rsqrt", "rsub",
    "sin", "sqrt", "sub", "where",
)  # fmt: skip
REDUCTIONS = (
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "amax", "amin", "argmax", "argmin", "cumsum", "max", "mean", "min", "sum",
)  # fmt: skip
# Operations per element of the output. An operator in place (relu_) costs what the other does.
PER_OUTPUT = dict.fromkeys(ELEMENTWISE, 1) | {
    "addcmul": 2,
    "clamp": 2,
    "hardtanh": 2,  # two bounds
    "leaky_relu": 2,  # compare, multiply
    "_prelu_kernel": 2,
    "elu": 3,  # compare, exp, subtract
    "softplus": 3,  # exp, add, log
    "hardsigmoid": 4,  # add, two bounds, divide
    "sigmoid": 4,  # negate, exp, add, divide
    "gelu": 5,  # scale, erf, add, multiply, halve
    "glu": 5,  # sigmoid, multiply
    "hardswish": 5,  # add, two bounds, multiply, divide
    "silu": 5,  # sigmoid, multiply
    "tanh": 5,  # double, exp, subtract, add, divide
    "mish": 9,  # softplus, tanh, multiply
    "_log_softmax": 5,
    "_safe_softmax": 5,
    "_softmax": 5,  # maximum, subtract, exp, sum, divide
    "native_batch_norm": 2,  # scale and shift, folded per channel: eval
    "native_group_norm": 6,  # mean, centre, square, sum, scale, shift
    "native_layer_norm": 6,
    "upsample_linear1d": 4,  # two taps
    "upsample_bilinear2d": 8,
    "upsample_trilinear3d": 16,
    "upsample_bicubic2d": 32,
}
# Operations per element of the input: a reduction's additions or comparisons.
PER_INPUT = dict.fromkeys(REDUCTIONS, 1) | {
    "linalg_vector_norm": 2,  # square, add
    "std": 4,  # mean, centre, square, sum
    "var": 4,
}
# Operations per tap and element of the output.
POOLS = ("avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices")
FREE = {
    "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "arange", "as_strided", "cat", "clone",
    "constant_pad_nd", "copy", "detach", "embedding", "empty", "empty_like", "expand", "fill",
    "flip", "full", "full_like", "gather", "index", "index_select", "lift_fresh", "masked_fill",
    "ones", "ones_like", "permute", "pixel_shuffle", "pixel_unshuffle", "randn",
    "reflection_pad1d", "reflection_pad2d", "repeat", "replication_pad1d", "replication_pad2d",
    "resize", "roll", "scalar_tensor", "select", "slice", "split", "split_with_sizes", "squeeze",
    "stack", "t", "transpose", "unbind", "unfold", "unsafe_split", "unsqueeze",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "view", "zero", "zeros",
    "zeros_like",
}  # fmt: skip


def products(name: str, args: tuple[Any, ...], out: Tensor) -> int | None:
    """FLOPs of convolutions, matrix products, attention and the LSTM; None for the others."""
    if name == "convolution":  # a MAC per tap, and the bias
        x, weight, bias, transposed = *args[:3], args[6]
        taps = (x if transposed else out).numel() * weight[0].numel()
        return 2 * taps + (bias is not None) * out.numel()
    if name in ("mm", "bmm"):
        return 2 * out.numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return out.numel() * (2 * args[1].shape[-1] + 1)
    if name.startswith("_scaled_dot_product"):  # per query and key: two products, scale, softmax
        query, key, value = args[:3]
        pairs = query.shape[:-1].numel() * key.shape[-2]
        return pairs * (2 * query.shape[-1] + 1 + PER_OUTPUT["_softmax"] + 2 * value.shape[-1])
    if name == "mkldnn_rnn_layer":  # LSTM; per unit 12 additions, 3 sigmoid, 2 tanh, 4 for the cell
        x, to_gates, recurrent = args[:3]
        units = recurrent.shape[1] * (12 + 3 * PER_OUTPUT["sigmoid"] + 2 * PER_OUTPUT["tanh"] + 4)
        return x.shape[:2].numel() * (2 * (to_gates.numel() + recurrent.numel()) + units)
    return None


def operations(name: str, args: tuple[Any, ...], out: Any) -> int:
    """FLOPs of one ATen operator, by the tables above."""
    name = name.removesuffix("_")
    if name in FREE:
        return 0
    first = out[0] if isinstance(out, (tuple, list)) else out
    if (counted := products(name, args, first)) is not None:
        return counted
    if name in PER_OUTPUT:
        return PER_OUTPUT[name] * first.numel()
    if name in PER_INPUT:
        return PER_INPUT[name] * args[0].numel()
    if name in POOLS:
        return first.numel() * math.prod(args[1])
    raise ValueError(
        f"expected an operator of known cost, got {name}; add it to PER_OUTPUT, PER_INPUT or FREE"
    )


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


def saved(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward in the model's mode keeps for its backward, x needing its gradient."""
    x = x.detach().requires_grad_()
    return icasa.cost.saved_bytes(lambda: model(x), (*model.parameters(), *model.buffers()))


def counts(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the columns of a row, on the eager path: eval, and training for what is saved.

    Raises:
        ValueError: where the formula's MACs are not those of fvcore and of torch.
    """
    model = use_path(copy.deepcopy(model), fused=False).eval()
    ours, by_torch = macs(model, x), icasa.cost.macs(model, x)
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
        "torch FLOPs / 2": by_torch,
        "FLOPs, all operations": flops(model, x),
    }
    return row | {"saved for backward, bytes": saved(model.train(), x)}
