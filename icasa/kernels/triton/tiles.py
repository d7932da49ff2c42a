"""How the Triton kernels cut feature maps into tiles, and the index arithmetic they share.

A tile is P planes by BH rows by BW columns, powers of two: many small planes in one program or a
part of a large one, by one code. Lengths reach a kernel as run-time integers divided by the
constant VEC, so that it proves 16-byte loads without a compilation per shape.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, import-untyped"
# Triton has no types; a kernel's arguments are pointers or integers, and constants where marked.

from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import triton
import triton.language as tl


class Tiles(NamedTuple):
    """Tiles of an H x W plane: run-time integers and the kernel's constants."""

    rows: int  # rows of a plane
    width: int  # length of a row, in VEC
    size: int  # elements of a plane, in VEC
    steps: int  # tiles along a plane
    constants: dict[str, Any]  # VEC, P, BH, BW and num_warps

    def blocks(self, planes: int) -> int:
        """Programs that cover each of ``planes`` once, not counting the tiles along a plane."""
        return -(-planes // int(self.constants["P"]))


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()


@lru_cache(maxsize=4096)
def cut(H: int, W: int, itemsize: int, rows: bool, elements: int) -> Tiles:
    """Tiles of about ``elements`` for planes H x W of ``itemsize`` bytes an element.

    With ``rows`` a tile's rows are the map's. Without, where nothing depends on them, a plane is
    one line cut into pieces, so that an odd W has wide loads too.
    """
    size = H * W
    if not rows:
        W = min(elements, power_of_two(size))
        H = -(-size // W)
    VEC = gcd(16 // itemsize, W, size)
    BW = power_of_two(W)
    tile = max(BW, elements if VEC > 1 else elements // 2)  # each narrow load has an address
    BH = min(power_of_two(H), tile // BW)
    P = tile // (BH * BW)
    warps = max(4, 4 * tile // elements)
    constants = {"VEC": VEC, "P": P, "BH": BH, "BW": BW, "num_warps": warps}
    return Tiles(H, W // VEC, size // VEC, -(-H // BH), constants)


@triton.jit
def locate(C, count, P: tl.constexpr, BH: tl.constexpr):
    """Planes (P,) and first row of this program's tile.

    Channels vary fastest, then tiles, then samples, so that two programs which read the same part
    of a sample run close together, and the second reads from the cache.
    """
    program = tl.program_id(0)
    if P == 1:
        plane = program // (C * count) * C + program % C + tl.arange(0, 1)
        row = program // C % count * BH
    else:  # several planes: each is one tile
        plane = program * P + tl.arange(0, P)
        row = 0
    return plane, row


@triton.jit
def place(plane, planes, row, W, S, BH: tl.constexpr, BW: tl.constexpr):
    """Offsets (P, BH, BW) of a tile from the start of the map, and their mask."""
    line = row + tl.arange(0, BH)[None, :, None]
    column = tl.arange(0, BW)[None, None, :]
    inside = (plane < planes)[:, None, None] & (column < W) & (line * W + column < S)
    return plane.to(tl.int64)[:, None, None] * S + (line * W + column), inside


@triton.jit
def along(plane, planes, start, length, B: tl.constexpr):
    """Offsets (P, B) into a line of ``length`` values per plane, from ``start``, and their mask."""
    i = start + tl.arange(0, B)[None, :]
    return plane.to(tl.int64)[:, None] * length + i, (plane < planes)[:, None] & (i < length)


@triton.jit
def halves(plane, planes, C, half):
    """Masks of the planes of the channel and of the spatial half, and indices into (N, C/2)."""
    within = plane % C % (2 * half)
    k = plane % C // (2 * half) * half + within % half
    known = plane < planes
    return known & (within < half), known & (within >= half), plane // C * (C // 2) + k


@triton.jit
def fetch(values, at, mask, other=0.0):
    """Load as float32."""
    return tl.load(values + at, mask, other).to(tl.float32)


@triton.jit
def total(values):
    """Sum (P, BH, BW) to (P,)."""
    return tl.sum(tl.sum(values, 2), 1)
