"""What models do to a layer and its input: the kernels give what plain PyTorch gives."""

import io
import os
import threading

import pytest
import torch
from torch import nn
from torch.autograd import graph
from torch.utils.checkpoint import checkpoint

import icasa
from icasa.padding import BATCH_NORMS
from tests.kernels.test_layers import every_class, insist
from tests.strategies import randomise, seeded

SHAPE = (2, 16, 6, 7)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def channels_last(layer):
    return layer.to(memory_format=torch.channels_last)


def sliced(layer):
    """Make each parameter a view of a larger tensor, with gaps."""
    for module in layer.modules():
        for name, p in module.named_parameters(recurse=False):
            wide = torch.stack((p.detach(), p.detach() + 1), dim=-1)
            setattr(module, name, nn.Parameter(wide[..., 0]))
    return layer


def transposed(layer):
    """Make the last axis of each parameter the first in memory."""
    for module in layer.modules():
        for name, p in module.named_parameters(recurse=False):
            turned = p.detach().movedim(-1, 0).contiguous().movedim(0, -1)
            setattr(module, name, nn.Parameter(turned))
    return layer


def frozen(every, start):
    """Freeze some parameters."""

    def freeze(layer):
        for p in list(layer.parameters())[start::every]:
            p.requires_grad_(False)
        return layer

    return freeze


def norms(**attributes):
    """Set attributes of each BatchNorm."""

    def change(layer):
        for module in layer.modules():
            if isinstance(module, BATCH_NORMS):
                vars(module).update(attributes)
        return layer

    return change


def modes(training):
    """Put the layer in one mode and its BatchNorm in the other."""

    def change(layer):
        layer.train(not training)
        return norms(training=training)(layer)

    return change


def reloaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


CHANGES = {
    "channels_last": channels_last,
    "sliced": sliced,
    "transposed": transposed,
    "shared": nn.Module.share_memory,
    "reloaded": reloaded,
    "every second frozen": frozen(2, 0),
    "the others frozen": frozen(2, 1),
    "all frozen": frozen(1, 0),
    "every third frozen": frozen(3, 1),
    "BatchNorm alone trains": modes(True),
    "BatchNorm alone is frozen": modes(False),
    "BatchNorm without its average": norms(momentum=None),
    "BatchNorm that keeps no track": norms(track_running_stats=False),
    "BatchNorm of another eps": norms(eps=0.3, momentum=0.7),
}
VIEWS = {
    "flipped": (SHAPE, lambda x: x.flip(2)),
    "of a larger map": ((4, 40, 9, 12), lambda x: x[1:3, 5:21, 2:8, 3:10]),
    "of every second element": ((4, 32, 12, 14), lambda x: x[::2, ::2, ::2, ::2]),
    "of one sample": ((1, 16, 6, 7), lambda x: x.expand(3, -1, -1, -1)),
    "of one channel": ((2, 1, 6, 7), lambda x: x.expand(-1, 16, -1, -1)),
    "of one column": ((2, 16, 6, 1), lambda x: x.expand(-1, -1, -1, 7)),
    "that overlaps itself": ((400,), lambda x: x.as_strided(SHAPE, (20, 3, 2, 5))),
    "with swapped axes": ((2, 16, 7, 6), lambda x: x.transpose(2, 3)),
    "channels_last of one sample": ((1, 6, 7, 16), lambda x: x.permute(0, 3, 1, 2)),
    "channels of channels_last": ((2, 6, 7, 32), lambda x: x.permute(0, 3, 1, 2)[:, 8:24]),
    "at an odd offset": ((2 * 16 * 6 * 7 + 3,), lambda x: x[3:].view(SHAPE)),
    "of a diagonal": ((2, 16, 6, 7, 7), lambda x: x.diagonal(dim1=3, dim2=4)),
    "of a negative bit": ((*SHAPE, 2), lambda x: torch.view_as_complex(x).conj().imag),
    "of one column alone": ((2, 16, 500, 1), lambda x: x),
    "of one row alone": ((2, 16, 1, 500), lambda x: x),
}
CALLS = {
    "in place on the output": lambda layer, x: layer(x).mul_(2).relu_(),
    "in place, channels_last": lambda layer, x: layer(
        x.contiguous(memory_format=torch.channels_last)
    ).mul_(2),
    "twice": lambda layer, x: layer(x) * layer(2 * x),
    "as a residual": lambda layer, x: x + layer(x) * x,
    "checkpointed": lambda layer, x: checkpoint(layer, x, use_reentrant=False),
    "checkpointed, reentrant": lambda layer, x: checkpoint(layer, x, use_reentrant=True),
}


def outcome(layer, x, call=nn.Module.__call__, view=None):
    """Output, and gradients of x and of the parameters, by name; None where there is none."""
    x = x.detach().clone().requires_grad_()
    y = call(layer, x if view is None else view(x))
    y.backward(randn(*y.shape, seed=1))
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **gradients}


def assert_alike(got, expected):
    """What float32 leaves open is relative to the largest value, as a true gradient may be 0."""
    scale = max(t.abs().max().item() for t in expected.values() if t is not None)
    assert [name for name in got if (got[name] is None) != (expected[name] is None)] == []
    for name, value in expected.items():
        if value is not None:
            assert (got[name] - value).abs().max() <= 2e-5 * scale, name


def layers(cls, change=lambda layer: layer, fused=None, **options):
    """A layer as users build it, and its twin in plain PyTorch."""
    layer = randomise(cls(16, **options))
    return [change(insist(layer, way)) for way in (fused, False)]


@pytest.mark.parametrize("change", CHANGES)
@every_class
def test_a_changed_layer(cls, change):
    fast, plain = layers(cls, CHANGES[change])
    for seed in (0, 1):
        x = randn(*SHAPE, seed=seed)
        assert_alike(outcome(fast, x), outcome(plain, x))
    for mine, buffer in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, buffer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("view", VIEWS)
@every_class
def test_a_view(cls, view, training):
    shape, view = VIEWS[view]
    fast, plain = (layer.train(training) for layer in layers(cls))
    assert_alike(outcome(fast, randn(*shape), view=view), outcome(plain, randn(*shape), view=view))


@pytest.mark.parametrize("call", CALLS)
@every_class
def test_a_call(cls, call):
    fast, plain = layers(cls)
    x = randn(*SHAPE)
    assert_alike(outcome(fast, x, CALLS[call]), outcome(plain, x, CALLS[call]))


def packed():
    """Keep saved tensors as arrays of numpy, as one that writes them to a file does."""
    return graph.saved_tensors_hooks(lambda t: t.detach().clone().numpy(), torch.from_numpy)


@pytest.mark.parametrize(
    "context", [graph.save_on_cpu, graph.allow_mutation_on_saved_tensors, packed]
)
@every_class
def test_saved_tensors_that_are_packed(cls, context):
    fast, plain = layers(cls)
    x = randn(*SHAPE)
    with context():
        got = outcome(fast, x)
    assert_alike(got, outcome(plain, x))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_class
def test_a_gradient_of_any_layout(cls, training):
    for incoming in (
        torch.ones(1).expand(SHAPE),
        randn(2, 6, 7, 16).permute(0, 3, 1, 2),
        randn(2, 16, 7, 6).transpose(2, 3),
    ):
        results = []
        for layer in layers(cls):
            x = randn(*SHAPE).requires_grad_()
            (dx,) = torch.autograd.grad(layer.train(training)(x), x, incoming)
            results.append({"dx": dx})
        assert_alike(*results)


@every_class
def test_an_input_changed_in_place_before_the_backward_is_refused(cls):
    for layer in layers(cls):
        h = randn(*SHAPE).requires_grad_() * 1
        y = layer(h)
        h.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@every_class
def test_a_graph_is_used_once_unless_it_is_retained(cls):
    fast, plain = layers(cls)
    results = []
    for layer in (fast, plain):
        x = randn(*SHAPE).requires_grad_()
        y = layer(x).square().sum()
        y.backward(retain_graph=True)
        y.backward()
        results.append({"dx": x.grad})
        with pytest.raises(RuntimeError, match="a second time"):
            y.backward()
    assert_alike(*results)


@every_class
def test_inference_mode_and_what_it_made(cls):
    fast, plain = layers(cls)
    with torch.inference_mode():
        x = randn(*SHAPE)
        assert_alike({"y": fast(x)}, {"y": plain(x)})
    for layer in (fast, plain):
        with pytest.raises(RuntimeError, match=r"[Ii]nference tensors"):
            layer(x)


@every_class
def test_parameters_of_a_replica_are_no_leaves(cls):
    """As DataParallel makes them on each device."""
    results = []
    for layer in layers(cls):

        def replicate(module):
            replica = module._replicate_for_data_parallel()
            for name, child in module._modules.items():
                replica._modules[name] = replicate(child)
            for name, p in module._parameters.items():
                setattr(replica, name, p if p is None else p * 1)
            return replica

        y = replicate(layer)(randn(*SHAPE))
        y.backward(randn(*SHAPE, seed=1))
        results.append({name: p.grad for name, p in layer.named_parameters()})
    assert_alike(*results)


@every_class
def test_threads_that_share_a_layer(cls):
    fast, plain = layers(cls)
    got = [{} for _ in range(6)]

    def run(i):
        x = randn(*SHAPE, seed=i).requires_grad_()
        got[i]["dx"] = torch.autograd.grad(fast.eval()(x).sum(), x)[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(6):
        x = randn(*SHAPE, seed=i).requires_grad_()
        assert_alike(got[i], {"dx": torch.autograd.grad(plain.eval()(x).sum(), x)[0]})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_forked_after_threads_have_worked():
    layer, x = icasa.ICASA(16).eval(), randn(4, 16, 40, 50)
    torch.set_num_threads(2)
    try:
        layer(x)
    finally:
        torch.set_num_threads(1)
    process = torch.multiprocessing.get_context("fork").Process(target=layer, args=(x,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
