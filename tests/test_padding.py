"""Padded batches: with lengths the gates of a padded sample are those of the sample alone."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import icasa
import icasa.attention
from tests.strategies import SEEDS, build, ndims, randomise, seeded

ATTENTION = [getattr(icasa, name) for name in icasa.attention.__all__]
every_attention = pytest.mark.parametrize("cls", ATTENTION, ids=lambda cls: cls.__name__)
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def padded(samples, width, value):
    """Samples (1, C, *S, w) joined to one batch (N, C, *S, width), `value` beyond each end."""
    pads = [torch.nn.functional.pad(x, (0, width - x.shape[-1]), value=value) for x in samples]
    return torch.cat(pads), torch.tensor([x.shape[-1] for x in samples])


@every_attention
@given(
    widths=st.lists(st.sampled_from([1, 2, 5, 9]), min_size=1, max_size=3),
    value=st.sampled_from([0.0, 7.0, float("nan")]),
    ndim=st.integers(1, 3),
    seed=SEEDS,
)
def test_a_padded_sample_comes_out_as_it_does_alone(cls, widths, value, ndim, seed):
    ndim = min(ndim, max(ndims(cls))) if ndim in ndims(cls) else 2
    layer = randomise(build(cls, ndim=ndim, dtype=torch.float64), seed).eval()
    generator = seeded(seed)
    shapes = [(1, 8, *(3, 4)[: ndim - 1], w) for w in widths]
    samples = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    batch, lengths = padded(samples, 11, value)
    y = layer(batch, lengths)
    for row, x in zip(y, samples, strict=True):
        torch.testing.assert_close(row[..., : x.shape[-1]], layer(x)[0])


@every_attention
@given(
    widths=st.lists(st.sampled_from([2, 5, 9]), min_size=2, max_size=3),
    value=st.sampled_from([0.0, 7.0]),
    ndim=st.integers(1, 3),
    seed=SEEDS,
)
def test_training_does_not_depend_on_the_padding(cls, widths, value, ndim, seed):
    ndim = min(ndim, max(ndims(cls))) if ndim in ndims(cls) else 2
    layer = randomise(build(cls, ndim=ndim, dtype=torch.float64), seed)
    generator = seeded(seed)
    shapes = [(1, 8, *(3, 4)[: ndim - 1], w) for w in widths]
    samples = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    results = []
    for width, filling in ((9, 0.0), (13, value)):
        learner = copy.deepcopy(layer)
        batch, lengths = padded(samples, width, filling)
        y = learner(batch, lengths)
        rows = zip(y, widths, strict=True)
        valid = torch.cat([row[..., :w].flatten() for row, w in rows])
        valid.square().sum().backward()
        gradients = [p.grad for p in learner.parameters()]
        results.append([valid, *gradients, *learner.buffers()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("cls", [icasa.ICA, icasa.CA], ids=["ICA", "CA"])
def test_training_with_lengths_takes_the_statistics_of_the_valid_positions(cls):
    layer = randomise(build(cls, ndim=1, dtype=torch.float64))
    x = torch.randn(2, 8, 7, generator=seeded(0), dtype=torch.float64)
    layer.norm.reset_running_stats()
    inputs = []
    layer.norm.register_forward_pre_hook(lambda norm, args: inputs.append(args[0]))
    layer(x, torch.tensor([3, 7]))
    squeezed = inputs[0].flatten(1)  # one row per valid position
    assert squeezed.shape == (3 + 7, layer.width)
    momentum = layer.norm.momentum
    torch.testing.assert_close(layer.norm.running_mean, momentum * squeezed.mean(0))


@every_attention
def test_training_with_lengths_compiles_without_a_graph_break(cls):
    layer = randomise(build(cls, dtype=torch.float64))
    x, lengths = torch.randn(3, 8, 4, 10, dtype=torch.float64), torch.tensor([3, 10, 7])
    eager = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    # Since torch 2.10 fullgraph=True sets this by itself.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        torch.testing.assert_close(compiled(x, lengths), eager(x, lengths))
    torch.testing.assert_close(layer.state_dict(), eager.state_dict())


@every_attention
def test_without_lengths_padding_does_shift_the_gates(cls):
    layer = randomise(build(cls, 64, dtype=torch.float64)).eval()
    x = torch.randn(1, 64, 3, 5, generator=seeded(0), dtype=torch.float64)
    batch, _ = padded([x], 11, 0.0)
    assert not torch.allclose(layer(batch)[..., :5], layer(x))


@every_attention
def test_full_lengths_change_nothing(cls):
    layer = randomise(build(cls, dtype=torch.float64)).eval()
    x = torch.randn(3, 8, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x, torch.tensor([5, 5, 5])), layer(x))


@every_attention
def test_gradients_do_not_reach_the_padding(cls):
    layer = randomise(build(cls, dtype=torch.float64)).eval()
    x = torch.randn(2, 8, 3, 6, dtype=torch.float64, requires_grad=True)
    layer(x, torch.tensor([4, 6]))[0, ..., :4].sum().backward()
    assert not x.grad[0, ..., 4:].any()
    assert x.grad[0, ..., :4].any()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([3]), r"expected lengths of shape \(2,\), one entry per sample, got \(1,\)"),
        (
            torch.tensor([3.0, 3.0]),
            r"expected integer lengths, got torch.float32; .* call lengths.long",
        ),
        (torch.tensor([True, True]), r"expected integer lengths, got torch.bool"),
        ([3, 3], r"expected lengths to be a tensor of shape \(2,\), got list; .* torch.tensor"),
        (torch.tensor([0, 3]), r"expected lengths in 1..5, .* got \[0, 3\]; count the valid"),
        (torch.tensor([3, 6]), r"expected lengths in 1..5, .* got \[3, 6\]"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        icasa.ICASA(8)(torch.randn(2, 8, 3, 5), lengths)


def test_aam_does_not_depend_on_the_padding():
    x = torch.randn(16, 1, 4, 9, generator=seeded(0), dtype=torch.float64)
    lengths = torch.arange(16) % 8 + 2
    noisy, clean = (
        torch.where(torch.arange(9) < lengths.view(-1, 1, 1, 1), x, value) for value in (50.0, 0.0)
    )
    aam, y = icasa.AAM(3, threshold=0.2, alpha=0), torch.arange(16) % 3
    draws = [
        aam.mix(batch, y, lengths=known, generator=seeded(1))[2]
        for batch, known in ((clean, None), (noisy, lengths), (noisy, None))
    ]
    assert torch.equal(draws[0].partner, draws[1].partner)
    assert draws[0].partner.tolist() != draws[2].partner.tolist()
    assert aam.report(noisy, y, lengths=lengths) == aam.report(clean, y)


@every_mode
@every_attention
def test_small_integer_lengths_are_read_at_any_width(cls, training):
    layer, x = randomise(build(cls)).train(training), torch.randn(2, 8, 60, 300)  # past uint8
    results = []
    for dtype in (torch.uint8, torch.int64):
        twin = copy.deepcopy(layer)
        y = twin(x, torch.tensor([240, 100], dtype=dtype))
        y.square().sum().backward()
        results.append([y, *(p.grad for p in twin.parameters()), *twin.buffers()])
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_mode
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_attention
def test_half_precision_layers_take_lengths(cls, dtype, training):
    layer = randomise(build(cls)).to(dtype).train(training)
    x = torch.randn(3, 8, 4, 10, generator=seeded(1)).to(dtype)
    lengths = torch.tensor([3, 10, 7])
    y = layer(x, lengths)
    assert y.dtype == dtype
    valid = (torch.arange(10) < lengths.unsqueeze(1))[:, None, None]
    expected = copy.deepcopy(layer).float()(x.float(), lengths)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close((y * valid).float(), expected * valid, rtol=16 * eps, atol=16 * eps)


class Reads(TorchDispatchMode):
    """Counts the values that Python reads from a tensor, each of which waits for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("call", ["forward", "gates"])
@every_attention
def test_lengths_are_checked_once_a_call(cls, call):
    layer, x = build(cls).eval(), torch.randn(2, 8, 3, 5)
    lengths = torch.tensor([2, 5])
    for _ in range(2):
        with Reads() as reads:
            getattr(layer, call)(x, lengths)
        assert reads.count == 1
    lengths[0] = 6  # the same tensor is checked anew in each call
    with pytest.raises(ValueError, match=r"expected lengths in 1..5, .* got \[6, 5\]"):
        getattr(layer, call)(x, lengths)
