"""A loud part of a map spoils nothing of the quiet rest: the law of exactness (see law.py)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import icasa
from icasa.kernels import native
from icasa.padding import BATCH_NORMS
from tests.kernels import law
from tests.kernels.test_layers import OPTIONS, insist, outcome
from tests.strategies import LAYOUTS, SEEDS, randomise, seeded

CLASSES = (icasa.CA, icasa.ICA, icasa.SA, icasa.ICASA, icasa.SE, icasa.ECA, icasa.CBAM)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_mode = pytest.mark.parametrize("mode", ["eval", "train", "frozen"])
LOUDEST = {torch.float32: 9.0, torch.bfloat16: 9.0, torch.float16: 3.5}  # powers of ten
each_dtype = pytest.mark.parametrize("dtype", LOUDEST, ids=str)
each_layout = pytest.mark.parametrize("layout", LAYOUTS[:2])  # those of the kernels
HALVED = (icasa.SA, icasa.ICASA)  # take an even number of channels, or a multiple of it

if native.LIBRARY is None:
    pytest.skip("the C kernels were not compiled at installation", allow_module_level=True)


@pytest.fixture(autouse=True)
def as_it_lies(reads_last):
    """Have the C read every map in channels_last as it lies."""


def put_in(layer, mode):
    """The layer in a mode; "frozen" is training with its BatchNorm in evaluation."""
    layer.train(mode != "eval")
    for module in layer.modules():
        if isinstance(module, BATCH_NORMS) and mode == "frozen":
            module.eval()
    return layer


@st.composite
def layers_and_maps(draw, cls, mode, dtype, layout):
    options = {name: draw(st.sampled_from(o)) for name, o in OPTIONS[cls.__name__].items()}
    if mode == "frozen":
        options.pop("norm", None)
    channels = 24 if cls in HALVED else draw(st.sampled_from((2, 3, 17, 24, 40, 130)))
    layer = randomise(cls(channels, dtype=dtype, **options), draw(SEEDS))
    kind = draw(st.sampled_from(sorted(law.DISTURBANCES)))
    strength = 10 ** draw(st.floats(0, LOUDEST[dtype]))
    sizes = [draw(st.sampled_from(s)) for s in ((2, 3), (1, 2, 7, 20, 33), (1, 5, 33, 130))]
    shape = (sizes[0], channels, *sizes[1:])
    return put_in(layer, mode), law.draw(kind, strength, shape, dtype, draw(SEEDS), layout)


@each_layout
@each_dtype
@each_mode
@every_class
@given(data=st.data())
def test_every_output_and_gradient_holds_the_law(cls, mode, dtype, layout, data):
    layer, inputs = data.draw(layers_and_maps(cls, mode, dtype, layout))
    assert law.breaches(layer, inputs) == {}


@pytest.mark.parametrize("kind", sorted(law.DISTURBANCES))
@each_layout
@each_mode
@every_class
def test_each_disturbance_holds_the_law(cls, mode, layout, kind):
    for seed, strength in enumerate((1e2, 1e5, 1e9)):
        layer = put_in(randomise(cls(16), seed), mode)
        inputs = law.draw(kind, strength, (2, 16, 20, 100), torch.float32, seed, layout)
        assert law.breaches(layer, inputs) == {}, strength


@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("shape", [(3, 5, 6), (2, 60, 70)])
@each_layout
@each_mode
def test_ica_takes_an_odd_number_of_channels(mode, layout, shape, channels):
    layer = put_in(randomise(icasa.ICA(channels)), mode)
    shape = (shape[0], channels, *shape[1:])
    inputs = law.draw("loud row", 1e4, shape, torch.float32, 0, layout)
    assert law.breaches(layer, inputs) == {}


@pytest.mark.parametrize(
    ("channels", "shape", "options"),
    [
        (8, (2, 60, 70), {"groups": 2}),
        (40, (1, 33, 300), {"groups": 5}),
        (64, (2, 35, 3), {"groups": 1}),
        (128, (1, 1, 66), {"groups": 4}),
        (32, (3, 66, 1), {"groups": 4, "shuffle": False}),
    ],
)
@each_layout
@each_mode
@pytest.mark.parametrize("cls", HALVED, ids=lambda cls: cls.__name__)
def test_any_width_holds_the_law(cls, mode, layout, channels, shape, options):
    layer = put_in(randomise(cls(channels, **options), 1), mode)
    shape = (shape[0], channels, *shape[1:])
    for kind in ("noise", "loud row", "loud pixel of every plane"):
        inputs = law.draw(kind, 1e4, shape, torch.float32, 0, layout)
        assert law.breaches(layer, inputs) == {}, kind


def quiet_errors(layer, x, rows):
    """Largest error of y and dx in some rows, and of each parameter's gradient, relative."""
    g = torch.randn(x.shape, generator=seeded(1))
    exact = outcome(insist(layer, False).double(), x.double(), g.double())
    got = outcome(insist(layer, True), x, g)
    parts = {name: (rows if name in ("y", "dx") else ...) for name in got if "num_" not in name}
    return {name: law.ratio(got[name][part], exact[name][part]) for name, part in parts.items()}


@pytest.mark.parametrize("v", [1e4, 1e6, 1e9])
def test_the_first_bin_of_a_power_spectrogram_leaves_the_others_as_they_are(v):
    torch.manual_seed(0)
    layer, x = icasa.ICA(16).eval(), torch.randn(2, 16, 20, 100)
    x[:, :, 0] = v
    errors = quiet_errors(layer, x, (slice(None), slice(None), slice(4, None)))
    assert errors["y"] < 1e-6
    assert errors["dx"] < 1e-6


def loud_sample(x):
    x[0] += 1e4


def loud_row(x):
    x[:, :, 10] += 1e5


@pytest.mark.parametrize("disturb", [loud_sample, loud_row])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_loud_sample_or_row_leaves_the_gradients_of_parameters_right(disturb, frozen):
    torch.manual_seed(0)
    layer = icasa.ICA(16, norm=frozen)
    layer, x = put_in(layer, "frozen"), torch.randn(2, 16, 20, 100)
    disturb(x)
    errors = quiet_errors(layer, x, ...)
    assert errors["dreduce.depthwise.weight"] < 2e-6
    assert max(errors.values()) < 2e-5
