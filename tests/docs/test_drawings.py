"""The drawings: every shape is one that the layer really makes, and no text meets anything."""

# ruff: noqa: RUF001 - the drawings typeset shapes with × and primes

import sys
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from torch.overrides import TorchFunctionMode

import icasa
from examples.ser.model.macnn import MACNN

DOCS = Path(__file__).parent.parent.parent / "docs"
sys.path.insert(0, str(DOCS))
from drawings import DRAWINGS, svg  # noqa: E402

every_drawing = pytest.mark.parametrize("name", DRAWINGS)
# Sizes that tell the axes apart; D and M follow from the layers' rules.
SIZES = {"N": 6, "C": 64, "H": 19, "W": 23, "G": 4, "D": 8, "K": 5}


class Record(TorchFunctionMode):
    """Every tensor shape that a call of torch returns."""

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return out


def forward(name):
    """Run what a drawing shows; return the shapes it made and the sizes by letter."""
    sizes = dict(SIZES)
    x = torch.randn(sizes["N"], sizes["C"], sizes["H"], sizes["W"])
    if name == "aam":
        torch.manual_seed(0)
        x, y = torch.randn(6, 1, 39, 200), torch.randint(5, (6,))
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(39 * 200, 5))
        aam = icasa.AAM(5, threshold=0.2)
        with Record() as record:
            step = icasa.aam_loss(model, aam, x, y)
            _, _, pairs = aam(x, y, step.difficulty, return_pairs=True)
        sizes["M"] = len(pairs.index)
        assert 0 < sizes["M"] < sizes["N"]
        return record.shapes, sizes
    if name == "macnn":
        model, x = MACNN(5, attention="icasa").eval(), torch.randn(6, 1, 39, 200)
        sizes["K"] = 5
    elif name == "conv":
        sizes |= {"M": 12, "H′": 17, "W′": 21}
        model = icasa.DepthwiseSeparableConv(64, 12, padding=0)
    else:
        model = {"ica": icasa.ICA, "sa": icasa.SA, "icasa": icasa.ICASA}[name](64, fused=False)
        sizes["M"] = getattr(model, "width", 0)
    with Record() as record:
        record.shapes.add(tuple(x.shape))
        model(x)
    return {shape[1:] for shape in record.shapes}, sizes


def evaluate(label, sizes):
    """The shape that a label such as "gʰ: C × H × 1" or "K classes" stands for."""
    axes = label.split(": ")[-1].removesuffix(" each").removesuffix(" classes").split(" × ")
    sums = (axis.strip("()").removesuffix(" pairs").split(" + ") for axis in axes)
    return tuple(sum(int(sizes.get(part, part)) for part in parts) for parts in sums)


@every_drawing
def test_every_shape_is_made(name):
    made, sizes = forward(name)
    labels = DRAWINGS[name]().labels
    assert labels
    for label in labels:
        assert evaluate(label, sizes) in made, f"{label}: {evaluate(label, sizes)}"


@every_drawing
def test_texts_stay_inside_and_meet_nothing(name):
    picture = DRAWINGS[name]()
    root = ElementTree.fromstring(picture.svg())
    texts, lines, boxes = [], [], []
    for element in root:
        kind = element.tag.split("}")[1]
        if kind == "text":
            texts.append((element.text, extent(element)))
        elif kind == "polyline":
            points = [tuple(map(float, p.split(","))) for p in element.get("points").split()]
            lines += [hull(a, b) for a, b in pairwise(points) if a[0] == b[0] or a[1] == b[1]]
        elif kind == "rect":
            x, y, w, h = (float(element.get(key)) for key in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h))
    for text, area in texts:
        assert within(area, (0, 0, svg.WIDTH, picture.height + 2)), text
        assert not any(meet(area, line) for line in lines), text
        for box in boxes:
            assert not meet(area, box) or within(area, box), text
    for (a, first), (b, second) in combinations(texts, 2):
        assert not meet(first, second), f"{a} and {b}"


def extent(element):
    """Left, top, right and bottom of a text in DejaVu Sans, among the widest of its kind."""
    size = 11.5 if element.get("class") == "shape" else 12
    width = TextPath((0, 0), element.text, size=size, prop=FontProperties("DejaVu Sans"))
    width = width.get_extents().width
    before = {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
    left = float(element.get("x")) - before * width
    base = float(element.get("y"))
    return left, base - 0.73 * size, left + width, base + 0.2 * size


def hull(a, b):
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


def meet(a, b):
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def within(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]
