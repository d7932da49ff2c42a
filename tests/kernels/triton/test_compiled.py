"""What the Triton kernels become, without a GPU: cross-compiled, then read as PTX and cubin."""

import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed here")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from icasa.kernels.triton import gates as triton_gates  # noqa: E402
from icasa.kernels.triton import mix as triton_mix  # noqa: E402
from icasa.kernels.triton import moments as triton_moments  # noqa: E402
from icasa.kernels.triton import tiles as triton_tiles  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
if not CUOBJDUMP.exists():
    pytest.skip("this build of triton has no NVIDIA tools", allow_module_level=True)

MAPS = {"x", "y", "g", "dx", "out"}  # the pointers to whole maps; the others are float32
ICA = {"g_h", "g_w", "dg_h", "dg_w", "z_h", "z_w", "dz_h", "dz_w"}
SA = {"gate", "a", "b", "mean", "mean_lo", "dgate", "da", "db", "s", "var", "ds", "dmean", "dvar"}
KERNELS = {  # with the elements of a tile
    "moments_fwd": (triton_moments.moments_fwd_kernel, triton_moments.ELEMENTS),
    "moments_bwd": (triton_moments.moments_bwd_kernel, triton_moments.ELEMENTS),
    "mix_fwd": (triton_mix.mix_fwd_kernel, triton_mix.FORWARD),
    "mix_bwd": (triton_mix.mix_bwd_kernel, triton_mix.BACKWARD),
}
WORDS = {16: "v4.b32", 8: "v2.b32"}  # a load by its bytes


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def build(kernel, constants, kinds, absent=(), arch=90):
    """Compile with all maps and gates given but `absent`; returns the compiled kernel."""
    constants = dict(constants)
    options = {"num_warps": constants.pop("num_warps")}
    signature, fixed, aligned = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants or name in absent:
            signature[name], fixed[i,] = "constexpr", constants.get(name)
        elif name in triton_gates.INTEGERS + triton_mix.INTEGERS:
            signature[name] = "i32"
        elif name.endswith("eps"):
            signature[name] = "fp32"
        else:
            signature[name] = f"*{kinds.get(name, 'fp32')}"
            aligned[i,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, fixed, aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def stack_bytes(compiled, tmp_path):
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    command = [CUOBJDUMP, "-res-usage", cubin]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", report)
    assert len(found) == 1, report
    return sum(map(int, found[0]))


CASES = [  # kernel, H, W, element, parts, compute capability
    *((name, 56, 56, kind, "both", 90) for name in KERNELS for kind in ("fp32", "bf16")),
    *((name, 19, 100, "fp32", "both", 90) for name in KERNELS),
    *((name, 19, 100, "fp16", "both", arch) for name in KERNELS for arch in (80, 100)),
    *((name, 7, 7, "fp32", "both", 90) for name in ("moments_fwd", "mix_bwd")),
    *((name, 19, 100, "fp32", parts, 90) for name in ("mix_bwd",) for parts in ("ica", "sa")),
    ("moments_fwd", 19, 4096, "bf16", "both", 90),
    ("mix_bwd", 19, 4096, "fp32", "both", 90),
]


@pytest.mark.parametrize(("name", "height", "width", "kind", "parts", "arch"), CASES)
def test_no_spills_no_float64_and_wide_loads(name, height, width, kind, parts, arch, tmp_path):
    kernel, elements = KERNELS[name]
    size = 4 if kind == "fp32" else 2
    tiles = triton_tiles.cut(height, width, size, parts != "sa", elements)
    absent = {"both": set(), "ica": SA, "sa": ICA}[parts]
    absent = absent | ({"beta", "dbeta"} if parts != "both" else set())
    flags = {"SHUFFLE": parts != "ica", "RESIDUAL": True}
    constants = {k: v for k, v in flags.items() if k in kernel.arg_names} | tiles.constants
    compiled = build(kernel, constants, dict.fromkeys(MAPS, kind), absent, arch)
    ptx = compiled.asm["ptx"]
    assert "f64" not in ptx
    assert stack_bytes(compiled, tmp_path) == 0
    wide = WORDS.get(size * tiles.constants["VEC"])
    if wide:
        assert f"ld.global.{wide}" in ptx
        assert f"st.global.{wide}" in ptx or name == "moments_fwd"  # which stores no map
        assert not re.search(r"(ld|st)\.global\.(\w+\.)*b16", ptx)


@pytest.mark.parametrize("width", [8, 64])
@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_gates_do_not_spill(width, kind, tmp_path):
    kernel = triton_gates.gates_kernel
    statistics = {"z_h", "z_w", "s", "mean_lo", "var", "g_h", "g_w", "gate", "a", "b"}
    kinds = {name: kind for name in kernel.arg_names if name not in statistics}
    compiled = build(kernel, triton_gates.constants(width) | {"K": 3}, kinds)
    assert "f64" not in compiled.asm["ptx"]
    assert stack_bytes(compiled, tmp_path) == 0


@pytest.mark.parametrize(
    "kernel",
    [*(k for k, _ in KERNELS.values()), triton_gates.gates_kernel],
    ids=lambda k: k.__name__,
)
def test_no_length_is_compiled_in(kernel):
    free = [p.name for p in kernel.params if p.do_not_specialize]
    assert free == [n for n in kernel.arg_names if n in triton_gates.INTEGERS + triton_mix.INTEGERS]
    assert len(free) >= 6


def test_maps_of_one_size_class_share_their_constants():
    def classes(heights, widths):
        return {
            tuple(triton_tiles.cut(H, W, 4, True, 2048).constants.items())
            for H in heights
            for W in widths
        }

    assert len(classes(range(17, 300), range(68, 129, 4))) == 1
    assert len(classes(range(1, 300), range(1, 4097, 63))) < 100


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("size", [2, 4])
def test_tiles_cover_a_plane_and_no_more_than_a_tile_too_many(rows, size):
    for H in (1, 2, 7, 19, 56, 300):
        for W in (1, 3, 7, 100, 128, 4096):
            tiles = triton_tiles.cut(H, W, size, rows, 2048)
            VEC, P, BH, BW = (tiles.constants[k] for k in ("VEC", "P", "BH", "BW"))
            assert tiles.size * VEC == H * W
            assert (tiles.steps - 1) * BH < tiles.rows <= tiles.steps * BH
            assert tiles.width * VEC <= BW < 2 * tiles.width * VEC
            assert tiles.rows * tiles.width * VEC >= H * W
            assert not rows or (tiles.rows, tiles.width * VEC) == (H, W)
            assert P == 1 or tiles.steps == 1
            assert tiles.blocks(9) * P >= 9 > (tiles.blocks(9) - 1) * P
            assert VEC * size <= 16
