"""Data flow of ICA, SA, ICASA and the depthwise-separable convolution (Figs. 2 to 4, Eq. 5)."""

# ruff: noqa: RUF001 - shapes and equations are typeset, with × and Greek letters

from drawings.svg import GAP, Picture

MIDDLE = 180


def ica() -> Picture:
    """Fig. 2, with the depthwise-separable convolution in its two stages."""
    p = Picture("Data flow of ICA")
    left, right, skip = 88, 250, 350
    x = p.box(MIDDLE, 1, "x", 60, "data")
    fork = x.bottom + 20
    p.line((MIDDLE, x.bottom), (MIDDLE, fork))
    p.shape(MIDDLE, x.bottom + 9, "C × H × W")
    rows = p.box(left, fork + 20, "mean over W (Eq. 6)", 140)
    columns = p.box(right, fork + 20, "mean over H (Eq. 7)", 140)
    p.arrow((MIDDLE, fork), (left, fork), (left, rows.top))
    p.arrow((MIDDLE, fork), (right, fork), (right, columns.top))
    cat = p.box(169, rows.bottom + GAP, "concatenate along space", 302)
    p.arrow((left, rows.bottom), (left, cat.top), label="zʰ: C × H")
    p.arrow((right, columns.bottom), (right, cat.top), label="zʷ: C × W")
    deep = p.down(cat, "depthwise convolution, k taps", 210, "learnt", "C × (H + W)")
    point = p.down(deep, "pointwise convolution, C to M", 210, "learnt", "C × (H + W)")
    norm = p.down(point, "BatchNorm", 210, "learnt", "M × (H + W)")
    act = p.down(norm, "h_swish (Eq. 8), split along space", 302, label="M × (H + W)")
    gate_h = p.box(left, act.bottom + GAP, "1 × 1, M to C, σ (Eq. 9)", 146, "learnt")
    gate_w = p.box(right, act.bottom + GAP, "1 × 1, M to C, σ (Eq. 10)", 156, "learnt")
    p.arrow((left, act.bottom), (left, gate_h.top), label="fʰ: M × H")
    p.arrow((right, act.bottom), (right, gate_w.top), label="fʷ: M × W")
    product = p.box(187, gate_h.bottom + GAP, "x · gʰ · gʷ (Eq. 11)", 340)
    p.arrow((left, gate_h.bottom), (left, product.top), label="gʰ: C × H × 1")
    p.arrow((right, gate_w.bottom), (right, product.top), label="gʷ: C × 1 × W")
    p.arrow((right, fork), (skip, fork), (skip, product.top))
    y = p.box(MIDDLE, product.bottom + GAP, "y", 60, "data")
    p.arrow((MIDDLE, product.bottom), (MIDDLE, y.top), label="C × H × W")
    return p


def sa() -> Picture:
    """Fig. 4, all groups at once; D = C / 2G is half of a group's channels."""
    p = Picture("Data flow of SA")
    left, right = 74, 286
    x = p.box(MIDDLE, 1, "x", 60, "data")
    split = p.down(x, "split into G groups, each into two halves", 352, label="C × H × W")
    top = split.bottom + 2 * GAP - 20
    fork = split.bottom + 12
    p.text(MIDDLE, split.bottom + 27, "X₁ and X₂, each", "shape")
    p.text(MIDDLE, split.bottom + 42, "G × D × H × W", "shape")
    p.labels.append("G × D × H × W")
    mean = p.box(left, top, "mean over H, W\n(Eq. 12)", 104)
    norm = p.box(right, top, "GroupNorm,\nper channel", 104, "learnt")
    gate1 = p.box(left, mean.bottom + GAP, "σ(W₁ s + b₁)", 104, "learnt")
    gate2 = p.box(right, mean.bottom + GAP, "σ(W₂ n + b₂)", 104, "learnt")
    times1 = p.box(left, gate1.bottom + GAP, "times X₁ (Eq. 13)", 140)
    times2 = p.box(right, gate2.bottom + GAP, "times X₂ (Eq. 14)", 140)
    join = p.box(MIDDLE, times1.bottom + GAP, "join the halves and the groups", 352)
    for at, first, gate, times, skip, side, inner in (
        (left, mean, gate1, times1, 10, "right", "G × D × 1 × 1"),
        (right, norm, gate2, times2, 350, "left", "G × D × H × W"),
    ):
        p.arrow((at, split.bottom), (at, first.top))
        p.arrow((at, first.bottom), (at, gate.top), label=inner, side=side)
        p.arrow((at, gate.bottom), (at, times.top), label=inner, side=side)
        p.arrow((at, times.bottom), (at, join.top), label="G × D × H × W", side=side)
        p.arrow((at, fork), (skip, fork), (skip, times.top))
    shuffle = p.down(join, "channel shuffle: jC/2 + k goes to 2k + j", 352, label="C × H × W")
    p.down(shuffle, "y", 60, "data", "C × H × W")
    return p


def icasa() -> Picture:
    """Eq. 5."""
    p = Picture("Data flow of ICASA")
    left, right = 95, 265
    x = p.box(MIDDLE, 1, "x", 60, "data")
    fork = x.bottom + 20
    p.line((MIDDLE, x.bottom), (MIDDLE, fork))
    p.shape(MIDDLE, x.bottom + 9, "C × H × W")
    total = None
    for at, name, weight in ((left, "ICA", "β"), (right, "SA", "(1 − β)")):
        branch = p.box(at, fork + 20, name, 130, "learnt")
        p.arrow((MIDDLE, fork), (at, fork), (at, branch.top))
        scaled = p.down(branch, f"times {weight}", 130, "learnt", "C × H × W")
        total = total or p.box(MIDDLE, scaled.bottom + GAP, "sum (Eq. 5)", 300)
        p.arrow((at, scaled.bottom), (at, total.top), label="C × H × W")
    p.down(total, "y", 60, "data", "C × H × W")
    return p


def conv() -> Picture:
    """Fig. 3, for C = 4 and M = 2."""
    p = Picture("Depthwise-separable convolution")
    places, side, words = (36, 94, 152, 210), 40, 250
    rows = {"x": 2, "filter": 72, "u": 134, "y": 222}

    def plane(x: float, top: float, kind: str, size: float, cells: int) -> None:
        step = size / cells
        for i in range(cells * cells):
            a, b = x - size / 2 + step * (i % cells), top + step * (i // cells)
            p.parts.append(
                f'<rect class="{kind}" x="{a:g}" y="{b:g}" width="{step:g}" height="{step:g}"/>'
            )

    for x in places:
        plane(x, rows["x"], "cell", side, 1)
        plane(x, rows["filter"], "learnt", 30, 3)
        plane(x, rows["u"], "cell", side, 1)
        p.arrow((x, rows["x"] + side), (x, rows["filter"]))
        p.arrow((x, rows["filter"] + 30), (x, rows["u"]))
        for out in (94, 152):
            p.line((x, rows["u"] + side), (out, rows["y"]), kind="mesh")
    for out in (94, 152):
        plane(out, rows["y"], "cell", side, 1)
    for top, line, label in (
        (rows["x"], "x", "C × H × W"),
        (rows["u"], "u", "C × H′ × W′"),
        (rows["y"], "y", "M × H′ × W′"),
    ):
        p.text(words, top + 17, line, anchor="start")
        p.shape(words - 8, top + 30, label)
    p.text(words, rows["filter"] + 13, "depthwise: k × k", anchor="start")
    p.text(words, rows["filter"] + 27, "per channel", anchor="start")
    p.text(words, rows["u"] + 60, "pointwise: 1 × 1,", anchor="start")
    p.text(words, rows["u"] + 74, "from C to M", anchor="start")
    p.height = rows["y"] + side
    return p
