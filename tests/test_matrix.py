"""Drop-in everywhere: every layer under every tool, as `docs/matrix.csv` says.

A cell is "yes" where the check below passes. What does not work stands in NO with its reason, and
must fail: a "no" that has come to work is to be taken out. ``python -m tests.test_matrix`` writes
the file from these.
"""

import copy
import csv
import io
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import icasa
import icasa.attention
from tests.strategies import build, randomise, seeded

CLASSES = [
    *(getattr(icasa, name) for name in icasa.attention.__all__),
    icasa.HSwish,
    icasa.DepthwiseSeparableConv,
]
MATRIX = Path(__file__).parent.parent / "docs" / "matrix.csv"
SHAPES = ((3, 16, 7, 9), (2, 16, 5, 12), (4, 16, 11, 6))  # the first is what tools are shown
NO = {
    **{
        (cls.__name__, "jit_script"): "it is deprecated in torch; use torch.export"
        for cls in CLASSES
    },
    (
        "DepthwiseSeparableConv",
        "autocast",
    ): "like torch's convolutions it returns the autocast dtype",
}
del NO["HSwish", "jit_script"]
PARAMETERS_ONLY = ("ddp", "fsdp", "qat")


def maps(dtype=torch.float32):
    return [torch.randn(shape, generator=seeded(0), dtype=dtype) for shape in SHAPES]


def agree(layer, run, tolerance=1e-5):
    """`run` gives what the layer gives, at the size that was shown and at others."""
    for x in maps():
        torch.testing.assert_close(run(x), layer(x), rtol=tolerance, atol=tolerance)


def dynamic():
    sizes = {axis: torch.export.Dim(name) for axis, name in ((0, "n"), (2, "h"), (3, "w"))}
    return (sizes,)


def check_compile(layer):
    """torch.compile(fullgraph=True, dynamic=True) by Inductor, without a graph break."""
    if not shutil.which("g++"):
        pytest.skip("Inductor compiles C++ on the CPU and there is no g++")
    torch._dynamo.reset()
    agree(layer, torch.compile(layer, fullgraph=True, dynamic=True))


def check_export(layer):
    """torch.export with dynamic batch, height and width."""
    agree(layer, torch.export.export(layer, (maps()[0],), dynamic_shapes=dynamic()).module())


def check_onnx(layer):
    """torch.onnx.export(dynamo=True), run by onnxruntime at other sizes than the export's."""
    program = torch.onnx.export(
        layer, (maps()[0],), dynamo=True, dynamic_shapes=dynamic(), verbose=False
    )
    agree(layer, session(program.model_proto.SerializeToString()))


def check_onnx_torchscript(layer):
    """torch.onnx.export(dynamo=False), run by onnxruntime at other sizes than the export's."""
    axes = {0: "n", 2: "h", 3: "w"}
    file = io.BytesIO()
    torch.onnx.export(
        layer, (maps()[0],), file, dynamo=False, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": axes, "y": axes},
    )  # fmt: skip
    agree(layer, session(file.getvalue()))


def session(model):
    runtime = pytest.importorskip("onnxruntime")
    running = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in running.get_inputs())
    return lambda x: torch.from_numpy(running.run(None, {name: x.numpy()})[0])


def check_fx(layer):
    """torch.fx.symbolic_trace, of the layer and of a model that holds it, at any batch size."""
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), layer).eval()
    for module in (layer, model):
        graph = torch.fx.symbolic_trace(module)
        agree(module, graph)
        agree(module, pickle.loads(pickle.dumps(graph)))


def check_jit_trace(layer):
    """torch.jit.trace, at other sizes than the trace's."""
    agree(layer, torch.jit.trace(layer, maps()[0]))


def check_jit_script(layer):
    """torch.jit.script."""
    agree(layer, torch.jit.script(layer))


def check_autocast(layer):
    """torch.autocast in bfloat16 and float16: the output has the input's dtype."""
    for low in (torch.bfloat16, torch.float16):
        for dtype in (torch.float32, low):
            with torch.autocast("cpu", low):
                assert layer(maps()[0].to(dtype)).dtype == dtype


def check_channels_last(layer):
    """channels_last in and out."""
    y = layer(maps()[0].to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    agree(layer, lambda x: layer(x.to(memory_format=torch.channels_last)))


def check_non_contiguous(layer):
    """A strided view gives what its copy gives."""
    agree(layer, lambda x: layer(torch.stack((x, -x), dim=-1)[..., 0]))


def check_vmap(layer):
    """torch.vmap over an extra axis, and per-sample gradients by vmap(grad(functional_call))."""
    x = maps()[0]
    torch.testing.assert_close(vmap(layer)(x.unsqueeze(0))[0], layer(x))
    parameters = dict(layer.named_parameters())

    def loss(p, row):
        return functional_call(layer, p, row.unsqueeze(0)).sum()

    for name, value in vmap(grad(loss), (None, 0))(parameters, x).items():
        assert value.shape == (len(x), *parameters[name].shape), name


def check_copies(layer):
    """deepcopy, pickle and a strict state_dict round trip."""
    fresh = build(type(layer), 16).eval()
    fresh.load_state_dict(layer.state_dict(), strict=True)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        agree(layer, other, 0)


def check_meta(layer):
    """Built on the meta device, then to_empty and loaded."""
    options = {} if type(layer) is icasa.HSwish else {"device": "meta"}
    fresh = build(type(layer), 16, **options).to_empty(device="cpu").eval()
    fresh.load_state_dict(layer.state_dict())
    agree(layer, fresh, 0)


def check_deterministic(layer):
    """torch.use_deterministic_algorithms(True), forward and backward, twice the same."""
    torch.use_deterministic_algorithms(True)
    try:
        x = maps()[0].requires_grad_()
        first, second = (torch.autograd.grad(layer(x).square().sum(), x)[0] for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)


def check_checkpointing(layer):
    """torch.utils.checkpoint: the same gradients."""
    x = maps()[0].requires_grad_()
    plain = torch.autograd.grad(layer(x).square().sum(), x)[0]
    again = checkpoint(layer, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), x)[0], plain)


def distributed(wrap, layer):
    """Wrap a copy in a process group of one, take a step, and compare its gradients."""
    wrapped = wrap(torch.nn.Sequential(copy.deepcopy(layer)).train())
    reference = torch.nn.Sequential(copy.deepcopy(layer)).train()
    x = maps()[0]
    wrapped(x).square().sum().backward()
    reference(x).square().sum().backward()
    for ours, plain in zip(wrapped.parameters(), reference.parameters(), strict=True):
        value = ours.grad.full_tensor() if hasattr(ours.grad, "full_tensor") else ours.grad
        torch.testing.assert_close(value, plain.grad)


def check_ddp(layer, group):
    """DistributedDataParallel over gloo."""
    distributed(torch.nn.parallel.DistributedDataParallel, layer)


def check_fsdp(layer, group):
    """torch.distributed.fsdp.fully_shard over gloo."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed(lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (1,))), layer)


def check_qat(layer):
    """Eager quantisation-aware training: prepare_qat, then a training step."""
    model = torch.nn.Sequential(copy.deepcopy(layer)).train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare_qat(model)
    y = prepared(maps()[0])
    assert y.shape == SHAPES[0]
    y.sum().backward()


CHECKS = {name[6:]: value for name, value in globals().items() if name.startswith("check_")}


@pytest.fixture(scope="module")
def group():
    """A gloo process group of this one process."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{folder}/store"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_cell_is_as_the_matrix_says(cls, name, request):
    layer = randomise(build(cls, 16)).eval()
    if name in PARAMETERS_ONLY and not list(layer.parameters()):
        pytest.skip("nothing to wrap: the layer has no parameters")
    group = [request.getfixturevalue("group")] if name in ("ddp", "fsdp") else []
    if (cls.__name__, name) in NO:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the tool raises
            CHECKS[name](layer, *group)
    else:
        CHECKS[name](layer, *group)


def cell(cls, name):
    """What the matrix says of a layer: yes, no, or n/a where there is nothing to check."""
    if name in PARAMETERS_ONLY and not list(build(cls, 16).parameters()):
        return "n/a"
    return "no" if (cls.__name__, name) in NO else "yes"


def table():
    """The rows of docs/matrix.csv: a capability, what was checked, and a cell for every layer."""
    rows = [["check", *(cls.__name__ for cls in CLASSES), "what"]]
    for name, check in CHECKS.items():
        reasons = dict.fromkeys(f" No: {why}." for (_, of), why in NO.items() if of == name)
        rows.append([name, *(cell(cls, name) for cls in CLASSES), check.__doc__ + "".join(reasons)])
    return rows


def test_the_file_in_the_docs_is_this_matrix():
    with MATRIX.open(newline="") as file:
        assert list(csv.reader(file)) == table(), "run python -m tests.test_matrix"


if __name__ == "__main__":
    with MATRIX.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table())
    print(f"wrote {MATRIX}; pytest tests/test_matrix.py says whether it is true")
