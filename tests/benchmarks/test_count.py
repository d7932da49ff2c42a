"""The counters against closed forms, those that the layers' docstrings print among them."""

import csv
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import icasa
from benchmarks import networks
from benchmarks.complexity import PAPER, paper
from benchmarks.count import counts, flops, fvcore_counts, macs, operations, saved
from examples.ser.model.macnn import ATTENTION, MACNN

SIZES = [(8, 3, 5), (48, 4, 1), (320, 2, 7)]
LAYERS = ("ICA", "SA", "CA", "SE", "ECA", "CBAM", "DepthwiseSeparableConv")


def evaluate(formula, **symbols):
    """Value of a LaTeX formula of sums, products and powers of one-letter symbols."""
    tokens = re.findall(r"[A-Za-z]|\d+|[-+*/()^]", formula)
    text = " ".join(tokens).replace("^", "**")
    text = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", text)
    return eval(text, {}, symbols)


def docstring_formulas(cls):
    """What the docstring prints as parameters, then as multiply-accumulates."""
    parts = re.split(r"Parameters: |[Mm]ultiply-accumulates", cls.__doc__.split("Args:")[0])
    (_, parameters, products) = parts
    maths = [re.findall(r":math:`([^`]+)`", part) for part in (parameters, products)]
    per_position = " * H * W" if "per output position" in products else ""
    return " + ".join(maths[0]), next((m for m in maths[1] if len(m) > 1), "0") + per_position


def built(name, size):
    """A layer for maps of that size, and the symbols of its docstring."""
    C, H, W = size
    layer = getattr(icasa, name)(C)
    width = getattr(layer, "width", None) or max(1, C // getattr(layer, "reduction", 1))
    k = {"CBAM": 7}.get(name) or getattr(layer, "kernel_size", 3)
    return layer, {"C": C, "H": H, "W": W, "L": H + W, "M": width, "G": 4, "n": 2, "k": k}


def test_evaluate_reads_implicit_products_and_powers():
    assert evaluate("C(k + 1) + CM + 2k^2 HW", C=2, k=3, M=5, H=7, W=11) == 8 + 10 + 18 * 77
    assert evaluate(r"3 C / G", C=8, G=4) == 6


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_docstring_s_formulas_are_what_is_counted(name, size):
    layer, symbols = built(name, size)
    parameters, products = docstring_formulas(type(layer))
    row = counts(layer, torch.randn(1, *size))
    assert row["parameters"] == evaluate(parameters, **symbols)
    assert row["MACs"] == evaluate(products, **symbols)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_icasa_has_what_its_branches_have_and_beta(size):
    said = "Parameters: those of ICA and SA, and one more. Multiply-accumulates: those of ICA."
    assert said in icasa.ICASA.__doc__
    mix, ica, sa = (
        counts(cls(size[0]), torch.randn(1, *size)) for cls in (icasa.ICASA, icasa.ICA, icasa.SA)
    )
    assert mix["parameters"] == ica["parameters"] + sa["parameters"] + 1
    assert mix["MACs"] == ica["MACs"]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_all_operations_by_hand(size):
    C, H, W = size
    x, E, M = torch.randn(1, C, H, W), C * H * W, max(1, C // 16)
    # Mean; two linear maps with bias, ReLU between, sigmoid after; the product.
    assert flops(icasa.SE(C).eval(), x) == E + (2 * C + 2) * M + (2 * M + 1) * C + 4 * C + E
    # Half of x: mean, w, b, sigmoid per plane. The other: norm, w, b, sigmoid. Then the product.
    half, planes = E // 2, C // 2
    assert flops(icasa.SA(C, fused=False).eval(), x) == half + 6 * planes + 12 * half + E
    # Two means; MACs, biases, norm and activation of the squeeze; expansions; two products.
    layer = icasa.ICA(C, fused=False).eval()
    L, M = H + W, layer.width
    squeeze = L * (C + M) + 7 * L * M
    assert flops(layer, x) == 2 * E + 2 * macs(layer, x) + squeeze + 5 * L * C + 2 * E


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(
        ValueError, match=r"expected an operator of known cost, got erfinv; add it to"
    ):
        flops(
            nn.Sequential(type("Erf", (nn.Module,), {"forward": lambda _, x: x.erfinv()})()),
            torch.rand(3),
        )


CASES = {
    "relu6": (nn.ReLU6(), (2, 3), 2 * 6),
    "relu in place": (nn.ReLU(inplace=True), (2, 3), 6),
    "hardsigmoid": (nn.Hardsigmoid(), (2, 3), 4 * 6),
    "silu": (nn.SiLU(inplace=True), (2, 3), 5 * 6),
    "gelu": (nn.GELU(), (2, 3), 5 * 6),
    "prelu": (nn.PReLU(), (2, 3), 2 * 6),
    "layer norm": (nn.LayerNorm(3), (2, 3), 6 * 6),
    "average pool": (nn.AvgPool2d(2), (1, 3, 4, 4), 12 * 4),
    "max pool": (nn.MaxPool2d((1, 3)), (1, 3, 4, 6), 3 * 4 * 2 * 3),
    "global pool": (nn.AdaptiveAvgPool2d(1), (1, 3, 4, 4), 48),
    "linear": (nn.Linear(3, 5), (2, 3), 2 * 5 * (6 + 1)),
    "transposed": (nn.ConvTranspose2d(3, 5, 3), (1, 3, 4, 4), 2 * 48 * 45 + 5 * 36),
    "bilinear": (nn.UpsamplingBilinear2d(scale_factor=2), (1, 3, 4, 4), 8 * 3 * 64),
    "nearest": (nn.Upsample(scale_factor=2), (1, 3, 4, 4), 0),
    "LSTM": (nn.LSTM(3, 5), (7, 2, 3), 14 * (2 * 20 * 8 + 5 * (12 + 12 + 10 + 4))),
}


@pytest.mark.parametrize("case", CASES)
def test_operators_of_usual_networks_by_hand(case):
    model, shape, expected = CASES[case]
    assert flops(model.eval(), torch.randn(shape)) == expected


def test_attention_by_hand():
    q, k, v = torch.randn(2, 3, 7, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)
    name = "_scaled_dot_product_flash_attention_for_cpu"
    per_pair = 2 * 4 + 1 + 5 + 2 * 6  # a product, the scale, the softmax, a product
    assert operations(name, (q, k, v), (v,)) == 2 * 3 * 7 * 5 * per_pair
    assert operations("bmm", (q[0], k[0].mT), q[0] @ k[0].mT) == 2 * 3 * 7 * 5 * 4


def test_resnet_50_is_the_one_of_the_literature():
    row = counts(networks.resnet50(), torch.randn(1, 3, 224, 224))
    assert row["parameters"] == 25_557_032
    assert row["MACs"] == 4_089_184_256
    assert row["FLOPs, all operations"] > 2 * row["MACs"]


class Functional(nn.Module):
    """A convolution that is no module: hooks don't see it."""

    def forward(self, x):
        return F.conv1d(x, torch.ones(2, 3, 1))


def test_counts_that_disagree_make_no_row():
    with pytest.raises(ValueError, match=r"MACs disagree: 0 by shapes, 42 by fvcore, 42 by torch"):
        counts(Functional(), torch.randn(1, 3, 7))


def test_fvcore_s_total_also_has_the_norms():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    total, products = fvcore_counts(net, torch.randn(1, 2, 5, 5))
    assert products == 2 * 3 * 25
    assert total > products


def test_saved_counts_the_input_and_no_parameter():
    x = torch.randn(4, 3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Sigmoid())
    assert saved(net, x) == x.nbytes + 4 * 5 * 4  # the input and the sigmoid, not the weight


def test_macnn_costs_what_table_1_says_and_a_layer_only_adds():
    x = torch.randn(1, 1, 39, 200)
    rows = [counts(MACNN(4, attention=a), x) for a in ("none", "se")]
    assert rows[0]["parameters"] == 155_636
    assert rows[0]["MACs"] == 122_635_840
    assert all(rows[0][key] < rows[1][key] for key in rows[0])


def test_the_paper_s_table_names_its_source_and_our_attentions():
    assert set(paper()) == {"none", "sa", "ica", "icasa"} <= set(ATTENTION)
    with PAPER.open() as file:
        assert {row["source"] for row in csv.DictReader(file)} == {"Li et al. 2026, Table 20"}
