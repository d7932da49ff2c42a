"""Which bits agree, as ``ops`` states it, on every instruction set that this processor has."""

import subprocess
from pathlib import Path

import pytest
import torch

from icasa.kernels import library, native
from tests.kernels import law
from tests.kernels.test_exact import HALVED, each_layout, every_class, put_in
from tests.kernels.test_layers import insist, outcome
from tests.strategies import randomise

hatch_build = pytest.importorskip("hatch_build", reason="hatchling is not installed here")
pytestmark = pytest.mark.usefixtures("c_library", "reads_last")

SETS = {"SSE2": "", "AVX2": "x86-64-v3", "AVX-512": "x86-64-v4"}
FLAGS = {"SSE2": "sse2", "AVX2": "avx2", "AVX-512": "avx512vl"}  # as Linux names them
KINDS = ("noise", "loud row", "loud sample")


@pytest.fixture(scope="session", params=SETS)
def instruction_set(request, tmp_path_factory):
    """The library built for one instruction set alone."""
    info = Path("/proc/cpuinfo")
    if not info.exists() or f" {FLAGS[request.param]} " not in info.read_text().replace("\n", " "):
        pytest.skip(f"this processor has no {request.param}")
    name = SETS[request.param]
    attribute = f'__attribute__((target("arch={name}")))' if name else ""
    path, compiler = tmp_path_factory.mktemp("native") / "libicasa.so", hatch_build.find_compiler()
    sources = [Path(hatch_build.__file__).parent / source for source in hatch_build.SOURCES]
    options = [*hatch_build.FLAGS.split(), f"-DVECTORISED={attribute}", "-shared"]
    if not compiler:
        pytest.skip("there is no C compiler")
    subprocess.run([*compiler, *options, *sources, "-o", path], check=True, capture_output=True)
    return library.load(path)[0]


@pytest.fixture
def on_one_set(instruction_set, monkeypatch):
    monkeypatch.setattr(native, "LIBRARY", instruction_set)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["eval", "train"])
@each_layout
@every_class
def test_the_law_holds_on_each_instruction_set(cls, layout, mode, kind, on_one_set):
    for seed, dtype in enumerate((torch.float32, torch.bfloat16)):
        layer = put_in(randomise(cls(16, dtype=dtype), seed), mode)
        inputs = law.draw(kind, 1e4, (2, 16, 19, 37), dtype, seed, layout)
        assert law.breaches(layer, inputs) == {}


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(torch.float32, (5, 16, 40, 33)), (torch.float16, (17, 72, 13, 20))],
    ids=str,
)
@pytest.mark.parametrize("mode", ["eval", "train"])
@each_layout
@every_class
def test_threads_gradients_and_repeats_change_no_bit(cls, layout, mode, dtype, shape, on_one_set):
    layer = put_in(randomise(cls(shape[1], dtype=dtype), 3), mode)
    x, g, _ = law.draw("loud row", 100.0, shape, dtype, 3, layout)
    assert x.numel() >= native.PARALLEL
    outcomes, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            outcomes.append(outcome(insist(layer, True), x, g))
            with torch.no_grad():
                assert torch.equal(insist(layer, True)(x), outcomes[0]["y"])
    finally:
        torch.set_num_threads(threads)
    for other in outcomes[1:]:
        for name, value in other.items():
            assert torch.equal(value, outcomes[0][name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 3, 4])
@each_layout
@every_class
def test_other_samples_change_no_bit_in_evaluation(cls, layout, groups, dtype):
    layer = cls(24, dtype=dtype, **({"groups": groups} if cls in HALVED else {}))
    layer = insist(randomise(layer).eval(), True)
    x, g, _ = law.draw("loud sample", 100.0, (5, 24, 30, 33), dtype, 0, layout)
    whole = outcome(layer, x, g)
    parts = [outcome(layer, *part) for part in zip(x.split(3), g.split(3), strict=True)]
    for name in ("y", "dx"):
        assert torch.equal(torch.cat([part[name] for part in parts]), whole[name]), name
