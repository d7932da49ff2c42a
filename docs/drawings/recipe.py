"""Data flow of AAM (Algorithm 1) and of MACNN with ICASA (Fig. 1, Table 1)."""

# ruff: noqa: RUF001 - shapes and equations are typeset, with × and Greek letters

from drawings.svg import BOX, GAP, Picture


def aam() -> Picture:
    """Algorithm 1 on a batch of N, of which M samples find a partner."""
    p = Picture("Data flow of AAM")
    left, right, skip = 106, 280, 8
    x = p.box(left, 1, "x, y", 70, "data")
    mean = p.down(x, "mean over time: r", 160, label="N × 1 × 39 × 200")
    cosine = p.down(mean, "cosine of all pairs (Eq. 1)", 166, label="N × 39")
    over = p.down(cosine, "above T, and not itself", 166, label="N × N")
    draw = p.down(over, "draw one partner j for i", 166, label="N × N")
    model = p.box(right, mean.top, "model f", 120, "learnt")
    p.arrow((x.right, x.middle), (right, x.middle), (right, model.top))
    loss = p.box(right, cosine.top, "cross entropy with y", 130)
    p.arrow((right, model.bottom), (right, loss.top), label="N × K")
    lam = p.box(right, draw.top, "σ(−α (dᵢ − dⱼ))\n(Eq. 3)", 130)
    p.arrow((right, loss.bottom), (right, lam.top), label="d (Eq. 2): N")
    p.arrow((draw.right, draw.middle), (lam.left, draw.middle))
    mix = p.box(190, lam.bottom + GAP, "λ xᵢ + (1 − λ) xⱼ, and y alike (Eq. 4)", 324)
    p.arrow((left, draw.bottom), (left, mix.top), label="M pairs")
    p.arrow((right, lam.bottom), (right, mix.top), label="λ: M")
    add = p.box(180, mix.bottom + GAP, "append to the batch", 352)
    p.arrow((right, mix.bottom), (right, add.top), label="M × K", side="left")
    p.arrow((left, mix.bottom), (left, add.top), label="M × 1 × 39 × 200")
    p.arrow((x.left, x.middle), (skip, x.middle), (skip, add.top))
    p.arrow((skip, mix.middle), (mix.left, mix.middle))
    out = p.down(add, "x, y", 70, "data", "(N + M) × 1 × 39 × 200")
    p.shape(out.right, out.middle + 1, "(N + M) × K")
    return p


def macnn() -> Picture:
    """Fig. 1: the network with ICASA after every block, shapes after each step."""
    p = Picture("MACNN with ICASA")
    at, wide, words = 112, 200, 216
    x = p.box(at, 1, "MFCC", 70, "data")
    p.shape(words, x.middle + 1, "1 × 39 × 200")
    fork = x.bottom + 12
    pair = [
        p.box(at + dx, fork + 16, f"Conv1{name}\n{kernel}", 96, "learnt")
        for dx, name, kernel in ((-52, "a", "10 × 2"), (52, "b", "2 × 8"))
    ]
    p.line((at, x.bottom), (at, fork))
    for box in pair:
        p.arrow((at, fork), (box.x, fork), (box.x, box.top))
    p.shape(words, pair[0].middle + 1, "8 × 38 × 199 each")
    box = p.box(at, pair[0].bottom + 20, "join the channels", wide)
    for conv in pair:
        p.arrow((conv.x, conv.bottom), (conv.x, box.top))
    p.shape(words, box.middle + 1, "16 × 38 × 199")
    size = "38 × 199"
    for name, channels, pooled in (
        ("Conv2", 32, "19 × 99"),
        ("Conv3", 48, "9 × 49"),
        ("Conv4", 64, ""),
        ("Conv5", 80, ""),
    ):
        rows = [(f"{name}, 3 × 3", "learnt", size), ("ICASA", "learnt", size)]
        rows += [("max-pool, 2 × 2", "op", pooled)] if pooled else []
        top = box.bottom + 20
        for n, (text, kind, after) in enumerate(rows):
            last, box = box, p.box(at, top + n * BOX, text, wide, kind)
            p.shape(words, box.middle + 1, f"{channels} × {after}")
            if n == 0:
                p.arrow((at, last.bottom), (at, box.top))
        size = pooled or size
    for text, kind, after in (
        ("1 × 1: Q, K, V of 4 heads", "learnt", f"768 × {size}"),
        ("ReLU(softmax(Q · K) · V)", "op", f"4 × 64 × {size}"),
        ("mean of heads, positions", "op", "64"),
        ("linear", "learnt", "K classes"),
    ):
        last, box = box, p.box(at, box.bottom + 20, text, wide, kind)
        p.arrow((at, last.bottom), (at, box.top))
        p.shape(words, box.middle + 1, after)
    return p
