"""torch.fx: the traced graph is the eager layer, without `lengths`."""

import pytest
import torch

import icasa
import icasa.attention
from tests.strategies import FORMATS, build, lay_out, ndims, options, randomise

LAYERS = [getattr(icasa, name) for name in icasa.attention.__all__]
every_layer = pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@every_layer
def test_the_graph_is_the_layer_for_every_batch_layout_and_number_of_axes(cls, training):
    for ndim in ndims(cls):
        layer = randomise(build(cls, ndim=ndim)).train(training)
        graph = torch.fx.symbolic_trace(layer)
        for batch, sizes in ((1, (3, 5, 2)), (2, (4, 3, 5))):
            for layout in ("contiguous", "channels_last"):
                x = lay_out(torch.randn(batch, 8, *sizes[:ndim]), layout)
                y = graph(x)
                torch.testing.assert_close(y, layer(x))
                if layout == "channels_last" and ndim in (2, 3):
                    assert y.is_contiguous(memory_format=FORMATS[x.ndim])
        graph(x).square().sum().backward()
        assert all(p.grad is not None for p in graph.parameters())


@pytest.mark.parametrize("options", [{"bounded": True}, {"residual": True}, {"shuffle": False}])
def test_the_options_of_icasa_are_traced(options):
    layer, x = randomise(icasa.ICASA(8, **options)), torch.randn(3, 8, 4, 5)
    graph = torch.fx.symbolic_trace(layer.eval())
    torch.testing.assert_close(graph(x), layer(x))
    torch.testing.assert_close(graph.double()(x.double()), layer.double()(x.double()))


@every_layer
def test_a_graph_refuses_lengths_and_one_of_a_model_has_none(cls):
    layer, x = build(cls).eval(), torch.randn(2, 8, 3, 5)
    graph = torch.fx.symbolic_trace(layer)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    torch.testing.assert_close(graph(x), layer(x))
    with pytest.raises(ValueError, match=r"expected no lengths in a graph of torch\.fx.*; call"):
        graph(x, torch.tensor([2, 5]))
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 1), layer)
    assert "lengths" not in torch.fx.symbolic_trace(model).code


@every_layer
def test_fx_counts_and_reads_the_shapes_of_a_traced_layer(cls):
    graph, x = torch.fx.symbolic_trace(build(cls).eval()), torch.randn(2, 8, 3, 5)
    torch.fx.passes.shape_prop.ShapeProp(graph).propagate(x, None)
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    assert output.args[0].meta["tensor_meta"].shape == x.shape


@pytest.mark.parametrize("cls", [cls for cls in LAYERS if "fused" in options(cls)])
def test_fused_true_is_refused(cls):
    message = (
        r"with fused=True expected no trace by torch\.jit or torch\.fx, got a trace; use torch"
    )
    with pytest.raises(ValueError, match=message):
        torch.fx.symbolic_trace(cls(8, fused=True))
