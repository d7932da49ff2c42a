"""Time and memory of every layer: eager, fused, compiled, the official structure.

``python -m benchmarks.layers`` times forward (eval) and forward with backward (training) of every
layer alone, over batch sizes, over map sizes, in channels_last, and of ICASA inside a ResNet
bottleneck and MACNN. It writes layers.csv and three plots. Each time is divided by the eager path's
and by that of the floor in the same run: ``x.sum()`` and ``y.copy_(x)``, two reads and a write of
the map.
"""

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.baselines import OFFICIAL, Bottleneck, Official
from benchmarks.count import saved
from benchmarks.figures import bars, grid, legend, lines, save, spread_of
from benchmarks.harness import (
    Case,
    Row,
    Settings,
    configure,
    double,
    gradients,
    measure,
    parser,
    peak_megabytes,
    progress,
    show,
    spread,
    use_path,
)
from examples.provenance import write_csv
from examples.ser.model.macnn import MACNN
from icasa import CA, CBAM, ECA, ICA, ICASA, SA, SE

LAYERS: dict[str, Any] = {
    "ICA": ICA,
    "SA": SA,
    "ICASA": ICASA,
    "CA": CA,
    "SE": SE,
    "ECA": ECA,
    "CBAM": CBAM,
}
PASSES = ("forward", "forward+backward")
MAIN = ((1, 32, 19, 100), (32, 32, 19, 100), (32, 64, 56, 56))
BATCHES = tuple((n, 32, 19, 100) for n in (1, 2, 4, 8, 16, 32, 64, 128))
SIZES = tuple((8, 64, s, s) for s in (7, 14, 28, 56, 112))
QUICK = {"layer": MAIN[:1], "batch": BATCHES[:4:3], "size": SIZES[:3:2]}
BLOCK = (8, 256, 28, 28)
SEGMENTS = (32, 1, 39, 200)
FILE = "layers.csv"
TITLES = {"forward": "forward", "forward+backward": "training step"}
KEYS = ("experiment", "layer", "variant", "pass", "shape")
RATIOS = ("time / eager", "time / floor")


class Variant(NamedTuple):
    """A module to time and the one that says, in float64, what it should return."""

    module: nn.Module
    reference: nn.Module


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Move every parameter off its initial value: a fresh SA would hide a wrong norm."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return module


def variants(
    name: str, channels: int, settings: Settings, *, baselines: bool
) -> dict[str, Variant]:
    """Return a layer's eager, fused and own path, with `baselines` also the official structure."""
    layer = use_path(randomised(LAYERS[name](channels), settings.seed), fused=False)
    made = {"eager": layer}
    if hasattr(layer, "fused"):
        made["fused"] = use_path(copy.deepcopy(layer), fused=True)
        made["default"] = use_path(copy.deepcopy(layer), fused=None)
    if baselines and name in OFFICIAL:
        made["official style"] = Official(copy.deepcopy(layer))
    return {path: Variant(module.to(settings.device), layer) for path, module in made.items()}


def compiled(made: Mapping[str, Variant]) -> dict[str, Variant]:
    """Put the two paths of a layer under torch.compile, for one shape."""
    torch.compiler.reset()
    return {
        f"compiled {name}": Variant(
            torch.compile(copy.deepcopy(made[name].module), dynamic=False), made[name].reference
        )
        for name in ("eager", "fused")
        if name in made
    }


def case(module: nn.Module, x: Tensor, cotangent: Tensor, expected: Sequence[Tensor]) -> Case:
    """One pass of a module over x, with the backward in training."""
    if not module.training:
        return Case(lambda: (module(x),), expected)
    return Case(lambda: gradients(module, x, cotangent), expected)


def references(
    module: nn.Module, x: Tensor, train: bool, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """Return a cotangent and what a pass gives in float64."""
    exact = double(module).train(train)
    with torch.no_grad():
        y = exact(x.double())
    cotangent = torch.empty_like(y, dtype=x.dtype).copy_(torch.randn(y.shape, generator=generator))
    expected = gradients(exact, x.double(), cotangent.double()) if train else (y,)
    return cotangent, [w.detach() for w in expected]


def floor(x: Tensor) -> Case:
    """Two reads and a write of x: the traffic of statistics first and gates after."""
    y = torch.empty_like(x)
    return Case(lambda: (x.sum(), y.copy_(x)), (x.double().sum(), x))


def compare(
    key: Row,
    made: Mapping[str, Variant],
    shape: Sequence[int],
    settings: Settings,
    *,
    layout: torch.memory_format = torch.contiguous_format,
    whole: bool = False,
) -> Iterator[Row]:
    """Time variants over one input in both passes; a `whole` network has no floor."""
    generator = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(tuple(shape), generator=generator).to(settings.device, memory_format=layout)
    # In a network ReLU and max-pool decide otherwise in float32 where values nearly tie.
    tolerance = 1e-2 if whole else 3e-4
    progress(f"{', '.join(key.values())}, {'x'.join(map(str, shape))}: {', '.join(made)}")
    for name in PASSES:
        train = name != "forward"
        cases, exact = {}, {}
        for variant, (module, reference) in made.items():
            module.train(train)
            if id(reference) not in exact:
                exact[id(reference)] = references(reference, x, train, generator)
            cases[variant] = case(module, x, *exact[id(reference)])
        if not whole:
            cases["floor"] = floor(x)
        with torch.set_grad_enabled(train):
            times = measure(cases, x.device, rounds=settings.rounds, tolerance=tolerance)
            peaks = {variant: peak_megabytes(c.run, x.device) for variant, c in cases.items()}
        for variant, (seconds, error) in times.items():
            row = key | {"variant": variant, "pass": name, "shape": "x".join(map(str, shape))}
            row |= spread("ms", 1e3 * seconds)
            row |= spread(RATIOS[0], seconds / times["eager"].seconds)
            if not whole:
                row |= spread(RATIOS[1], seconds / times["floor"].seconds)
            row["saved / x"] = ""
            if train and variant != "floor":
                size = saved(made[variant].module, x)
                row["saved / x"] = float(f"{size / x.untyped_storage().nbytes():.4g}")
            row["peak memory (MB)"] = peaks[variant]
            yield row | {"error": float(f"{error:.2g}")} | settings.provenance


def alone(settings: Settings, *, compiles: bool) -> Iterator[Row]:
    """Every layer at the main shapes with all its baselines, then over batch and map sizes."""
    shapes = {"layer": MAIN, "batch": BATCHES, "size": SIZES}
    for experiment, chosen in (QUICK if settings.quick else shapes).items():
        for shape in chosen:
            for name in LAYERS:
                made = variants(name, shape[1], settings, baselines=experiment == "layer")
                if compiles and experiment == "layer":
                    made |= compiled(made)
                key = {"experiment": experiment, "layer": name}
                yield from compare(key, made, shape, settings)
    layout = torch.channels_last
    for shape in QUICK["layer"] if settings.quick else MAIN:
        for name in LAYERS:
            made = variants(name, shape[1], settings, baselines=False)
            key = {"experiment": "channels_last", "layer": name}
            yield from compare(key, made, shape, settings, layout=layout)


def inside(settings: Settings) -> Iterator[Row]:
    """ICASA inside a bottleneck and inside MACNN, where each convolution has its share."""

    def bottleneck(attention: nn.Module) -> nn.Module:
        torch.manual_seed(settings.seed)
        return Bottleneck(BLOCK[1], BLOCK[1] // 4, attention)

    def macnn(attention: str) -> nn.Module:
        torch.manual_seed(settings.seed)
        return MACNN(4, attention=attention)

    networks = {
        "bottleneck": (
            BLOCK,
            bottleneck(nn.Identity()),
            bottleneck(ICASA(BLOCK[1], shuffle=False)),
        ),
        "MACNN": (SEGMENTS, macnn("none"), macnn("icasa")),
    }
    for name, (shape, plain, attended) in networks.items():
        for layer in attended.modules():
            if isinstance(layer, ICASA):
                randomised(layer, settings.seed)
        eager = use_path(attended, fused=False)
        fused = use_path(copy.deepcopy(eager), fused=True)
        modules = {"none": plain, "eager": eager, "fused": fused}
        made = {
            k: Variant(m.to(settings.device), plain if k == "none" else eager)
            for k, m in modules.items()
        }
        yield from compare(
            {"experiment": "inside", "layer": name}, made, shape, settings, whole=True
        )


def draw_alone(rows: Sequence[Row], path: Path) -> None:
    """Time over the floor: a panel per shape and pass, a bar per variant."""
    rows = [r for r in rows if r["experiment"] == "layer" and r["variant"] != "floor"]
    shapes, names = (list(dict.fromkeys(r[k] for r in rows)) for k in ("shape", "variant"))
    figure, panels = grid(len(shapes), 2, (4.6, 3.2))
    for line, shape in zip(panels, shapes, strict=True):
        for axes, which in zip(line, PASSES, strict=True):
            found = {
                (r["layer"], r["variant"]): spread_of(r, "time / floor")
                for r in rows
                if (r["shape"], r["pass"]) == (shape, which)
            }
            bars(axes, list(LAYERS), {n: [found.get((g, n)) for g in LAYERS] for n in names})
            axes.set(title=f"{TITLES[which]}, {shape}", ylabel="times the floor", yscale="log")
            axes.set_ylim(bottom=0.5)
            axes.axhline(1, color="black", linewidth=1)
            axes.tick_params(axis="x", labelsize=9)
    legend(figure, panels[0, 0])
    save(figure, path)


def draw_sweeps(rows: Sequence[Row], path: Path) -> None:
    """Milliseconds over batch and map size: eager as lines, fused dashed, the floor in grey."""
    figure, panels = grid(2, 2, (5, 3.6))
    for line, (sweep, axis) in zip(panels, (("batch", 0), ("size", 2)), strict=True):
        for axes, which in zip(line, PASSES, strict=True):
            found: dict[str, tuple[list[int], list[float]]] = {}
            for row in rows:
                if (row["experiment"], row["pass"]) == (sweep, which):
                    name = f"{row['layer']} {row['variant']}"
                    x, y = found.setdefault(name, ([], []))
                    x.append(int(row["shape"].split("x")[axis]))
                    y.append(row["ms"])
            lines(axes, {n: found[f"{n} eager"] for n in LAYERS} | {"floor": found["ICASA floor"]})
            lines(axes, {n: v for n, v in found.items() if n.endswith("fused")}, dash="--")
            rest = next(r["shape"] for r in rows if r["experiment"] == sweep).split("x")
            rest[axis:] = ["N", *rest[1:]] if axis == 0 else ["S", "S"]
            axes.set(title=f"{TITLES[which]}, {'x'.join(rest)}", ylabel="ms")
            axes.set_xlabel("batch N" if axis == 0 else "height and width S")
    legend(figure, panels[0, 0])
    save(figure, path)


def draw_inside(rows: Sequence[Row], path: Path) -> None:
    """Time over eager of whole networks: what the layer costs where it is used."""
    rows = [r for r in rows if r["experiment"] == "inside"]
    groups, names = (list(dict.fromkeys(r[k] for r in rows)) for k in ("layer", "variant"))
    words = {"none": "no attention", "eager": "eager ICASA", "fused": "fast ICASA"}
    figure, panels = grid(1, 2)
    for axes, which in zip(panels[0], PASSES, strict=True):
        found = {(r["layer"], r["variant"]): r for r in rows if r["pass"] == which}
        heights = {
            words[n]: [spread_of(found[g, n], "time / eager") for g in groups] for n in names
        }
        bars(axes, groups, heights, label="%.2f")
        axes.set(title=TITLES[which], ylabel="times eager ICASA")
    legend(figure, panels[0, 0])
    save(figure, path)


def run(settings: Settings, *, compiles: bool = False) -> list[Row]:
    """Measure all of it, saving rows as they come."""
    rows = []
    for part in (alone(settings, compiles=compiles), inside(settings)):
        for row in part:
            rows.append(row)
            write_csv(settings.out / FILE, rows)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows and three plots."""
    argv = sys.argv[1:] if argv is None else argv
    flags = parser(__doc__)
    flags.add_argument("--no-compile", action="store_true", help="leave torch.compile out: minutes")
    args = flags.parse_args(argv)
    settings = configure(args, "layers", argv)
    rows = run(settings, compiles=not args.no_compile)
    draw_alone(rows, settings.out / "layers.png")
    draw_sweeps(rows, settings.out / "layers-sweep.png")
    draw_inside(rows, settings.out / "layers-inside.png")
    show(rows, (*KEYS, "ms", *RATIOS, "saved / x", "error"), settings.out / FILE)


if __name__ == "__main__":
    main()
