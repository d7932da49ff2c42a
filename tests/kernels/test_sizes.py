"""Arguments that do not fit are refused where a kernel is called, and corrupt no memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from icasa.kernels import native, sizes

if native.LIBRARY is None:
    pytest.skip("the C kernels were not compiled at installation", allow_module_level=True)

# Run in a process of its own, which a write beyond its memory may end.
SCRIPT = """
import torch
from icasa.kernels.ops import OPS

N, C, H, W, M, K, G = 2, 16, 3, 5, 8, 3, 2
SHAPES = [(C, 1, K), (C,), (M, C, 1), (M,), *[(C, M, 1), (C,)] * 2, *[(M,)] * 4]

def ones(shapes):
    return [torch.ones(shape) for shape in shapes]

def run(index, shape=None, which="ica", groups=G, beta=(1,), shuffle=True, norm=True, **change):
    ica, sa = ones(SHAPES if norm else SHAPES[:8]), ones([(C // (2 * G),)] * 6)
    if shape is not None:
        (ica if which == "ica" else sa)[index] = torch.ones(shape)
    beta, x = None if beta is None else torch.ones(beta), change.get("x", torch.ones(N, C, H, W))
    ica, sa = change.get("ica", ica), change.get("sa", sa)
    options = (1e-5, 1e-5, groups, shuffle, False)
    y = OPS.attend(x, ica, sa, beta, *options)
    training = change.get("training", norm)
    y, (saved,), _ = OPS.attend_forward(x, ica, sa, beta, *options, training)
    weights = (ica[:10:2], sa[::2])
    g, saved = change.get("g", y), change.get("saved", lambda s: s)(saved)
    back = change.get("weights", lambda w: w)(weights)
    OPS.attend_backward(g, x, [saved], *back, beta, *options, training)

CASES = CASES_HERE
run(0), run(0, norm=False)
for name, arguments in CASES.items():
    print(name, flush=True)
    try:
        run(**arguments)
    except ValueError as error:
        assert "expected" in str(error) and "got" in str(error) and "; " in str(error), error
    else:
        raise AssertionError(f"{name} was taken")
print("all refused")
"""
CASES = """{
    **{f"ica[{i}] of {shape}": dict(index=i, shape=shape)
       for i, right in enumerate(SHAPES)
       for shape in {(), (0,), (1,), (C + 1,), (4, 1, 3), (C, M), (*right[:-1], right[-1] + 1)}},
    **{f"sa[{i}] of {shape}": dict(index=i, shape=shape, which="sa")
       for i in range(6) for shape in ((), (0,), (1,), (8,), (4, 1))},
    "a branch for other channels": dict(index=0, ica=ones(
        [(4, 1, K), (4,), (M, 4, 1), (M,), *[(4, M, 1), (4,)] * 2, *[(M,)] * 4])),
    "too few": dict(index=0, ica=ones(SHAPES[:7])),
    "no parameters": dict(index=0, ica=[], sa=[], beta=None, groups=0),
    "even taps": dict(index=0, shape=(C, 1, 4)),
    **{f"groups={g}": dict(index=0, groups=g) for g in (-1, 0, 1, 3, 4, 8, 16)},
    "groups without sa": dict(index=0, sa=[], beta=None),
    **{f"beta of {shape}": dict(index=0, beta=shape) for shape in ((0,), (8, 1, 1), (2,))},
    "no beta": dict(index=0, beta=None),
    "beta alone": dict(index=0, sa=[], groups=0, shuffle=False),
    "training without a norm": dict(index=0, norm=False, training=True),
    "a map of three axes": dict(index=0, x=torch.ones(N, C, H)),
    "other channels": dict(index=0, x=torch.ones(N, C + 4, H, W)),
    "integer parameters": dict(index=0, ica=[p.int() for p in ones(SHAPES)]),
    "a short vector": dict(index=0, saved=lambda saved: saved[:-1].clone()),
    "a vector in float64": dict(index=0, saved=lambda saved: saved.double()),
    "another g": dict(index=0, g=torch.ones(N, C, H, W + 1)),
    "g in another type": dict(index=0, g=torch.ones(N, C, H, W, dtype=torch.bfloat16)),
    "biases too": dict(index=0, weights=lambda w: (ones(SHAPES[:10]), w[1])),
}"""


def test_what_does_not_fit_is_a_value_error_and_no_crash():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("CASES_HERE", CASES)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-2000:]
    assert done.stdout.endswith("all refused\n")


C, M, K = 16, 8, 3
ICA = [(C, 1, K), (C,), (M, C, 1), (M,), *[(C, M, 1), (C,)] * 2, *[(M,)] * 4]
NET, SPATIAL = [(M, C), (M,), (C, M), (C,)], [(1, 2, K, K), *[(1,)] * 4]
# For each list its check, the shapes of its tensors, and what they are of.
PARTS = {
    "ica": (
        sizes.check_layer,
        ICA,
        "depthwise, pointwise, map to H, map to W, norm, norm statistics",
    ),
    "sa": (sizes.check_layer, [(4,)] * 6, "channel gate, spatial gate, GroupNorm"),
    "net": (sizes.check_net, NET, "first map, second map"),
    "spatial": (sizes.check_net, SPATIAL, "convolution, norm, norm, norm, norm"),
}


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("name", PARTS)
def test_the_message_names_the_parameter(name, biases):
    check, shapes, words = PARTS[name]
    pairs = name != "spatial"  # whose convolution has no bias
    if not biases:
        shapes = shapes[:10:2] if pairs else shapes[:2]
    x = torch.empty(2, C, 3, 5)
    for i in range(1, len(shapes)):
        given = [torch.empty(shape) for shape in shapes]
        given[i] = torch.empty(7, 7, 7)
        word = words.split(", ")[i // 2 if pairs and biases else i]
        lists = {
            "ica": (given, [], None, 0, False),
            "sa": ([], given, None, 2, False),
            "net": (given, []),
            "spatial": ([torch.empty(s) for s in (NET if biases else NET[::2])], given),
        }
        with pytest.raises(
            ValueError, match=rf"expected {name}\[{i}\] \({word}\) of shape .*\(7, 7"
        ):
            check(x, *lists[name], biases=biases)
