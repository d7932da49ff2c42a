"""Parts that do not fit, and what crashed: an error as plain PyTorch's, in a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules import module as hooks

import icasa
import icasa.attention
from tests.strategies import build, randomise

X = torch.randn(2, 8, 5, 6)
every_fused = pytest.mark.parametrize("fused", [None, True, False])


def run(code):
    """Standard output of a process of its own, whose crash is a failure here."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"
    return done.stdout.split()


MISFITS = """
import torch
from torch import nn
from icasa import ICA, ICASA, SA

parts = [ICA(4), ICA(16), ICA(8, ndim=1), SA(16, groups=4), SA(24, groups=3), SA(8, ndim=1)]
parts.append(nn.Parameter(torch.empty(0)))
for part in parts:
    for fused in (None, True, False):
        for training in (True, False):
            layer = ICASA(8, groups=2, fused=fused).train(training)
            name = "raw_beta" if isinstance(part, nn.Parameter) else type(part).__name__.lower()
            setattr(layer, name, part)
            try:
                layer(torch.randn(2, 8, 5, 6)).sum().backward()
                print(name, "was computed")
            except (ValueError, RuntimeError) as error:
                print(type(error).__name__)
"""


def test_a_part_that_does_not_fit_is_an_error_on_every_path():
    raised = run(MISFITS)
    assert len(raised) == 7 * 3 * 2
    assert set(raised[:-6]) == {"ValueError"}
    # PyTorch's own operators say that no broadcast fits an empty beta.
    assert raised[-6:] == 2 * ["RuntimeError"] + 2 * ["ValueError"] + 2 * ["RuntimeError"]


@every_fused
def test_the_error_names_what_fits(fused):
    layer = icasa.ICASA(8, groups=2, fused=fused)
    layer.ica = icasa.ICA(4)
    message = r"expected x of shape \(N, 4, H, W\), got \(2, 8, 5, 6\)"
    if fused:
        message = r"expected ica for 8 channels and ndim=2, got one for 4 and ndim=2; restore"
    with pytest.raises(ValueError, match=message):
        layer(X)


def test_a_beta_for_each_channel_is_that_of_plain_pytorch():
    layer = randomise(icasa.ICASA(8, groups=2)).eval()
    beta = torch.linspace(0, 1, 8).reshape(8, 1, 1)
    layer.raw_beta = nn.Parameter(beta)
    torch.testing.assert_close(layer(X), beta * layer.ica(X) + (1 - beta) * layer.sa(X))
    layer.fused = True
    with pytest.raises(ValueError, match=r"expected beta of shape \(1,\), got shape \(8, 1, 1\)"):
        layer(X)


CHANNELS_LAST = """
import torch
from icasa import ICASA, SA

for shape in ((2, 16, 5, 7), (1, 16, 1, 1), (2, 2, 3, 4)):
    for layer in (SA, ICASA):
        for options in ({"fused": False}, {"dtype": torch.float64}, {"dtype": torch.bfloat16}):
            layer_ = layer(shape[1], groups=1, **options).eval()
            x = torch.randn(shape, dtype=options.get("dtype", torch.float32))
            gradients = []
            for x in (x, x.to(memory_format=torch.channels_last)):
                layer_.zero_grad()
                layer_(x).square().sum().backward()
                gradients.append([p.grad.clone() for p in layer_.parameters()])
            for plain, last in zip(*gradients):
                torch.testing.assert_close(plain, last, rtol=2e-2, atol=1e-2)
"""


def test_one_group_learns_from_channels_last_without_a_gradient_of_the_input():
    run(CHANNELS_LAST)


@every_fused
@pytest.mark.parametrize("branch", ["ica", "sa"])
@pytest.mark.parametrize("part", [nn.Identity(), nn.Conv2d(8, 8, 1)], ids=str)
def test_a_layer_of_x_alone_is_a_branch(part, branch, fused):
    layer = randomise(icasa.ICASA(8, fused=fused)).eval()
    setattr(layer, branch, part)
    if fused:
        with pytest.raises(ValueError, match=f"expected {branch.upper()} as {branch}, got"):
            layer(X)
    else:
        torch.testing.assert_close(
            layer(X), layer.beta * layer.ica(X) + (1 - layer.beta) * layer.sa(X)
        )


REGISTER = {
    "forward": hooks.register_module_forward_hook,
    "forward_pre": hooks.register_module_forward_pre_hook,
    "full_backward": hooks.register_module_full_backward_hook,
    "full_backward_pre": hooks.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 6])], ids=["whole", "padded"])
@pytest.mark.parametrize("kind", REGISTER)
@pytest.mark.parametrize("name", icasa.attention.__all__)
def test_hooks_on_all_modules_see_every_module(name, kind, lengths):
    layer, seen = getattr(icasa, name)(8), []
    handle = REGISTER[kind](lambda module, *_: seen.append(module))
    try:
        layer(X.clone().requires_grad_(), lengths).sum().backward()
    finally:
        handle.remove()
    containers = [m for m in layer.modules() if isinstance(m, nn.ModuleList)]
    assert {*map(id, seen), *map(id, containers)} == set(map(id, layer.modules()))


@pytest.mark.parametrize("name", [*icasa.attention.__all__, "DepthwiseSeparableConv"])
@pytest.mark.parametrize(
    "x", [np.zeros((2, 8, 3, 4), np.float32), [1.0], None], ids=lambda x: type(x).__name__
)
def test_what_is_no_tensor_is_named(name, x):
    got = type(x).__name__
    message = f"{name} expected a tensor x, got {got}; call torch.as_tensor"
    with pytest.raises(ValueError, match=message):
        build(getattr(icasa, name))(x)
