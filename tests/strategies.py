"""Hypothesis strategies for feature maps, and layers whose parameters are nowhere special."""

import inspect

import torch
from hypothesis import strategies as st

import icasa

LENGTHS = st.sampled_from([1, 2, 3, 5, 7, 8, 11])  # one, primes, a power of two
SEEDS = st.integers(0, 2**16)
LAYOUTS = ("contiguous", "channels_last", "sliced", "transposed")
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by rank


class FusedICA(icasa.ICA):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedCA(icasa.CA):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedSE(icasa.SE):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedECA(icasa.ECA):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedCBAM(icasa.CBAM):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedSA(icasa.SA):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


class FusedICASA(icasa.ICASA):
    def __init__(self, channels, **kwargs):
        super().__init__(channels, fused=True, **kwargs)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def lay_out(x, layout):
    """The values of `x` in another layout; "channels_last" leaves rank 3 as it is."""
    if layout == "channels_last" and x.ndim in FORMATS:
        return x.contiguous(memory_format=FORMATS[x.ndim])
    if layout == "sliced":
        return torch.stack((x, x + 1), dim=-1)[..., 0]
    if layout == "transposed":
        return x.transpose(1, -1).contiguous().transpose(1, -1)
    return x


@st.composite
def feature_maps(
    draw, *, channels=8, ndims=(1, 2, 3), min_batch=0, dtype=torch.float32, layouts=LAYOUTS
):
    """Maps (N, channels, *S) with N from `min_batch` to 3 and odd sizes, in any layout."""
    ndim = draw(st.sampled_from(ndims))
    sizes = draw(st.lists(LENGTHS, min_size=ndim, max_size=ndim))
    shape = (draw(st.integers(min_batch, 3)), channels, *sizes)
    x = torch.randn(shape, generator=seeded(draw(SEEDS)), dtype=torch.float64).to(dtype)
    return lay_out(x, draw(st.sampled_from(layouts)))


def options(cls):
    """The constructor's parameters by name."""
    return inspect.signature(cls).parameters


def ndims(cls):
    """Numbers of spatial axes that a layer takes: all if it is told, or asks for no channels."""
    return (1, 2, 3) if "ndim" in options(cls) or "channels" not in options(cls) else (2,)


def build(cls, channels=8, ndim=2, **kwargs):
    """A layer for `channels` and `ndim`, as far as its constructor takes them."""
    wanted = {"channels": channels, "ndim": ndim}
    return cls(**{k: v for k, v in wanted.items() if k in options(cls)}, **kwargs)


def randomise(layer, seed=0):
    """Move every parameter and running statistic off its initial value; returns the layer.

    A fresh SA has W = 0, a fresh norm is the identity: laws would hold there that fail elsewhere.
    """
    generator = seeded(seed)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(1.5 * noise - 0.5)
        for name, tensor in layer.named_buffers():
            if name.endswith("running_var"):
                tensor.add_(1.0)
    return layer
