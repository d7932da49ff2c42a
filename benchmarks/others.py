"""What other libraries of attention layers do and do not, each answer found by running them.

In an environment with timm, fightingcv-attention 1.0.0 and channel-attention 0.0.1 (the last two
installed with ``--no-deps``), ``python -m benchmarks.others --out benchmarks/results`` writes
others.csv: a row per question, a column per library. "-": the library has no such layer.
"""

import argparse
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import icasa
from examples.provenance import git_commit, provenance, write_csv

Layer = Callable[[int], nn.Module]
FILE = "others.csv"
INSTALLED = ("timm", "fightingcv-attention", "channel-attention")


def fighting(module: str, name: str, *args: Any) -> Layer:
    """Return a layer of fightingcv-attention by its channels."""
    cls = getattr(importlib.import_module(f"fightingcv_attention.attention.{module}"), name)
    return lambda channels: cls(*(channels if arg == "C" else arg for arg in args))


def libraries() -> dict[str, dict[str, Layer]]:
    """Return each library's layers of the kinds that ours has."""
    import channel_attention as ca  # type: ignore[import-not-found,unused-ignore]
    from timm.layers import get_attn

    names = {"SE": "se", "ECA": "eca", "CBAM": "cbam", "CA": "coord"}
    return {
        "icasa": {n: getattr(icasa, n) for n in ("SE", "ECA", "CBAM", "CA", "SA", "ICA", "ICASA")},
        "timm": {name: get_attn(key) for name, key in names.items()},
        "fightingcv-attention": {
            "SE": fighting("SEAttention", "SEAttention", "C"),
            "ECA": fighting("ECAAttention", "ECAAttention"),
            "CBAM": fighting("CBAM", "CBAMBlock", "C"),
            "CA": fighting("CoordAttention", "CoordAtt", "C", "C"),
            "SA": fighting("ShuffleAttention", "ShuffleAttention", "C"),
        },
        "channel-attention": {
            "SE": lambda c: ca.SEAttention(2, c),
            "ECA": lambda c: ca.EfficientChannelAttention(2),
            "CBAM": lambda c: ca.ConvBlockAttention(2, c),
        },
    }


def share(layers: dict[str, Layer], passes: Callable[[Layer], bool]) -> str:
    """Return "4 of 5": how many layers pass, an exception being none."""
    count = 0
    for layer in layers.values():
        try:
            count += bool(passes(layer))
        except Exception:
            continue
    return f"{count} of {len(layers)}"


def keeps_dtype(layer: Layer) -> bool:
    """Whether bfloat16 in gives bfloat16 out under autocast."""
    x = torch.randn(2, 64, 9, 11, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(64)(x).dtype == x.dtype


def keeps_format(layer: Layer) -> bool:
    """Whether channels_last in gives channels_last out."""
    x = torch.randn(2, 64, 9, 11).to(memory_format=torch.channels_last)
    return layer(64)(x).is_contiguous(memory_format=torch.channels_last)


def keeps_input(layer: Layer) -> bool:
    """Whether the input is as it was."""
    x = torch.randn(2, 64, 9, 11)
    before = x.clone()
    layer(64)(x)
    return torch.equal(x, before)


def exports(layer: Layer) -> bool:
    """Whether torch.export takes it with every size dynamic, and it is right at another size."""
    dims = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    module, x, other = layer(64).eval(), torch.randn(2, 64, 9, 11), torch.randn(3, 64, 12, 17)
    program = torch.export.export(module, (x,), dynamic_shapes=(dims,))
    return torch.allclose(program.module()(other), module(other), atol=1e-5)


def takes_narrow(layer: Layer) -> bool:
    """Whether 8 channels, by its defaults, give a gate that depends on the input."""
    module = layer(8).eval()
    for p in module.parameters():
        nn.init.normal_(p)
    a, b = torch.rand(1, 8, 5, 5) + 0.1, torch.rand(1, 8, 5, 5) + 3
    return not torch.allclose(module(a) / a, module(b) / b, atol=1e-4)


def axes_of(library: str) -> str:
    """Name the numbers of spatial axes that a library's SE can be built for."""
    import channel_attention as ca

    build: dict[str, Callable[[int], nn.Module]] = {
        "icasa": lambda n: icasa.SE(64, ndim=n),
        "channel-attention": lambda n: ca.SEAttention(n, 64),
    }
    plain = libraries()[library]["SE"]
    found = []
    for n in (1, 2, 3):
        x = torch.randn(2, 64, *(5,) * n)
        try:
            y = build.get(library, lambda _: plain(64))(n)(x)
        except Exception:
            continue
        found += [str(n)] * (y.shape == x.shape)
    return ", ".join(found)


def families() -> dict[str, int]:
    """Count the attention layers: classes of a library, or names that build one."""
    import channel_attention
    import fightingcv_attention.attention as fighting_package
    from timm.layers import get_attn

    text = inspect.getsource(get_attn)  # one branch for each name
    modules = [m.name for m in pkgutil.iter_modules(fighting_package.__path__)]
    return {
        "icasa": len(icasa.attention.__all__),
        "timm": text.count("attn_type == '"),
        "fightingcv-attention": len(modules),
        "channel-attention": len(channel_attention.__all__),
    }


def imports() -> dict[str, str]:
    """Say what a bare install needs: the requirements of each package."""
    found = {}
    for library in ("icasa", *INSTALLED):
        try:
            needs = importlib.metadata.requires(library) or []
        except importlib.metadata.PackageNotFoundError:
            needs = ["torch", "numpy"]  # a checkout that is not installed
        names = [n.split(";")[0].split(">")[0].split("=")[0].strip() for n in needs
                 if "extra ==" not in n]  # fmt: skip
        found[library] = ", ".join(sorted(names)) or "none declared"
    return found


def inserts() -> tuple[str, str]:
    """Try both ways into a network: into a trained one, and by an option when it is built."""
    import timm

    model, x = timm.create_model("resnet18").eval(), torch.randn(1, 3, 64, 64)
    before = model(x)
    layer = partial(icasa.ICASA, shuffle=False)
    places = icasa.insert_attention(model, layer, where="residual", identity=True)
    assert len(places) == 8
    assert torch.equal(model(x), before)
    built = timm.create_model("resnet18", block_args={"attn_layer": "se"})
    assert any("SEModule" in type(module).__name__ for module in built.modules())
    return (
        "any network, also a trained one; its output does not change at first",
        "only its own networks, when they are built",
    )


def names_insertion(library: str) -> str:
    """Say whether a library has a function that by its name puts layers into a network."""
    files = importlib.metadata.files(library) or []
    code = "".join(f.read_text() for f in files if f.name.endswith(".py"))
    return (
        "yes" if re.search(r"def (insert|attach|inject)_(attention|layer|module)", code) else "no"
    )


def takes_lengths(layers: dict[str, Layer]) -> str:
    """Say whether the layers' forward takes the lengths of a padded batch."""
    found = [inspect.signature(layer(64).forward).parameters for layer in layers.values()]
    return "yes" if all("lengths" in names for names in found) else "no"


def questions() -> list[dict[str, str]]:
    """Ask every library everything."""
    import timm

    have, needs, all_of = families(), imports(), libraries()
    said = {
        "attention layers": [str(have[library]) for library in all_of],
        "pretrained models": ["none", f"{len(timm.list_pretrained()):,}", "none", "none"],
        "which of SE, ECA, CBAM, CA, SA, ICA, ICASA": [", ".join(v) for v in all_of.values()],
        "packages that it installs": [needs[library] for library in all_of],
        "puts layers into a network": [*inserts(), *map(names_insertion, INSTALLED[1:])],
        "can keep padding out of the gates (`lengths`)": [
            takes_lengths(v) for v in all_of.values()
        ],
    }
    rows = [{"question": q} | dict(zip(all_of, a, strict=True)) for q, a in said.items()]
    tests = {
        "bfloat16 in, bfloat16 out under autocast": keeps_dtype,
        "channels_last in, channels_last out": keeps_format,
        "does not change its input": keeps_input,
        "torch.export: correct at other sizes": exports,
        "works with 8 channels": takes_narrow,
    }
    for question, test in tests.items():
        rows.append({"question": question} | {k: share(v, test) for k, v in all_of.items()})
    rows.append({"question": "spatial axes of SE"} | {k: axes_of(k) for k in all_of})
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write the rows."""
    argv = sys.argv[1:] if argv is None else list(argv)
    flags = argparse.ArgumentParser(prog="python -m benchmarks.others", description=__doc__)
    flags.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    args = flags.parse_args(argv)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    facts = {"commit": git_commit()}
    facts |= provenance("benchmarks.others", argv, 0, torch.device("cpu"))
    facts |= {f"{name} version": importlib.metadata.version(name) for name in INSTALLED}
    args.out.mkdir(parents=True, exist_ok=True)
    rows = questions()
    write_csv(args.out / FILE, [row | facts for row in rows])
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
