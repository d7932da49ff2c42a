"""MACNN: the multi-attention convolutional network of Table 1, with any attention layer."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from icasa import CA, CBAM, ECA, ICA, ICASA, SA, SE

ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "sa": SA,
    "ica": ICA,
    "icasa": ICASA,
    "icasa-aligned": partial(ICASA, shuffle=False),
    "ca": CA,
    "se": SE,
    "eca": ECA,
    "cbam": CBAM,
}
# Table 1: kernels are (frequency, time); Conv2 to Conv5 are 3 x 3.
CHANNELS = {"conv2": 32, "conv3": 48, "conv4": 64, "conv5": 80}
POOLED = ("conv2", "conv3")
# DIFF: Table 1 gives no padding. "macnn" is that of Xu et al.: 39 x 200 becomes 38 x 199. Zeros on
# the left, right, top and bottom of Conv1a and of Conv1b, so that both give one size.
PADDING = {
    "macnn": ((0, 0, 4, 4), (3, 3, 0, 0)),
    "same": ((0, 1, 4, 5), (3, 4, 0, 1)),
}


class HeadFusion(nn.Module):
    """Head fusion of Xu et al.: query, key and value maps multiplied element by element.

    ``relu(softmax(Q * K) * V)`` per head, with the softmax over channels, then the mean over heads
    and positions, which is the global mean over heads joined along the height. Embeds
    (N, channels, H, W) as (N, size).
    """

    def __init__(self, channels: int, heads: int = 4, size: int = 64) -> None:
        super().__init__()
        self.features = size
        self.heads = heads
        self.qkv = nn.Conv2d(channels, 3 * heads * size, 1)

    def attend(self, x: Tensor) -> Tensor:
        """Return the attended map of each head: (N, heads, size, H, W)."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        return torch.softmax(q * k, dim=2) * v

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``."""
        return self.attend(x).relu().mean((1, 3, 4))


class LinearFusion(nn.Module):
    """The head of section 3.2: weighted mean of the heads, linear map, residual, LayerNorm."""

    def __init__(self, channels: int, heads: int = 4, size: int = 64) -> None:
        super().__init__()
        self.features = channels
        self.fusion = HeadFusion(channels, heads, size)
        self.weight = nn.Parameter(torch.zeros(heads))
        self.linear = nn.Conv2d(size, channels, 1)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x`` (N, channels, H, W) as (N, channels)."""
        heads = self.fusion.attend(x) * self.weight.softmax(0).view(-1, 1, 1, 1)
        fused = x + self.linear(heads.sum(1))
        return self.norm(fused.permute(0, 2, 3, 1)).mean((1, 2))


class DotProduct(nn.Module):
    """Multi-head dot-product attention over the positions, with residual and LayerNorm."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.features = channels
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x`` (N, channels, H, W) as (N, channels)."""
        tokens = x.flatten(2).transpose(1, 2)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.norm(tokens + attended).mean(1)


class Flatten(nn.Module):
    """One linear layer of 64 units over all positions: the only head near Table 20's count."""

    def __init__(self, channels: int, size: int = 64) -> None:
        super().__init__()
        self.features = size
        self.linear = nn.LazyLinear(size)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x`` (N, channels, H, W) as (N, size)."""
        return self.linear(x.flatten(1)).relu()


# DIFF: section 3.2's head is not that of the MACNN it builds on; "fusion" is the latter's.
HEADS: dict[str, Callable[[int], nn.Module]] = {
    "fusion": HeadFusion,
    "linear": LinearFusion,
    "dot": DotProduct,
    "flatten": Flatten,
}


class MACNN(nn.Module):
    """MACNN on MFCC segments: (N, 1, 39, 200) to logits (N, num_classes).

    Conv1a and Conv1b in parallel, Conv2 to Conv5, each with BatchNorm and ReLU, max-pooling by two
    after Conv2 and Conv3, then the head: 155,636 parameters with four classes and the default head.

    Args:
        num_classes: number of emotions.
        attention: a key of ``ATTENTION``, the layer put after BatchNorm and ReLU, before the pool.
        places: the convolutions it follows, of "conv2" to "conv5".
        head: a key of ``HEADS``.
        padding: "macnn" (39 x 200 becomes 38 x 199) or "same".
    """

    def __init__(
        self,
        num_classes: int,
        *,
        attention: str = "none",
        places: Sequence[str] = tuple(CHANNELS),
        head: str = "fusion",
        padding: str = "macnn",
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("attention", attention, ATTENTION),
            ("head", head, HEADS),
            ("padding", padding, PADDING),
            *(("places", place, CHANNELS) for place in places),
        ):
            if value not in allowed:
                raise ValueError(f"expected {name} among {', '.join(allowed)}, got {value!r}")
        # DIFF: the text calls Conv1a "horizontal"; (10, 2) is 10 along frequency, as in Table 1.
        self.conv1a, self.conv1b = (
            nn.Sequential(nn.ZeroPad2d(pad), nn.Conv2d(1, 8, kernel), nn.BatchNorm2d(8), nn.ReLU())
            for pad, kernel in zip(PADDING[padding], ((10, 2), (2, 8)), strict=True)
        )
        self.blocks = nn.ModuleDict()
        width = 16
        for place, channels in CHANNELS.items():
            # DIFF: Fig. 1 shows "ICASA modules" without number or place; ours follow every block.
            layer = ATTENTION[attention](channels) if place in places else nn.Identity()
            pool = nn.MaxPool2d(2) if place in POOLED else nn.Identity()
            conv = nn.Conv2d(width, channels, 3, padding=1)
            block = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(), layer, pool)
            self.blocks[place] = block
            width = channels
        self.head = HEADS[head](width)
        self.classifier = nn.Linear(self.head.features, num_classes)
        with torch.no_grad():  # a lazy head takes its width from the first map
            self.eval()(torch.zeros(1, 1, 39, 200))
        self.train()

    def embed(self, x: Tensor) -> Tensor:
        """Return the input of the classifier: (N, features)."""
        x = torch.cat((self.conv1a(x), self.conv1b(x)), dim=1)
        for block in self.blocks.values():
            x = block(x)
        return self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of ``x``."""
        return self.classifier(self.embed(x))

    def betas(self) -> dict[str, float]:
        """Return beta of every ICASA, by the convolution that it follows."""
        layers = {place: block[3] for place, block in self.blocks.items()}
        return {p: layer.beta.item() for p, layer in layers.items() if isinstance(layer, ICASA)}
