"""What `icasa.cost` prints and writes: a table for people, flat rows for files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from icasa.cost.latency import Latency
from icasa.cost.measure import Cost

COLUMNS = ("layer", "places", "parameters", "MACs", "saved", "forward ms", "x plain")
STEP = ("step ms", "x plain")


def rows(costs: Sequence[Cost], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return flat rows for a file; each also has ``facts``, such as versions and command."""
    made = []
    for cost in costs:
        row: dict[str, Any] = {
            "layer": cost.layer,
            "device": cost.device,
            "batch size": cost.batch_size,
            "places": cost.places,
            "parameters": cost.parameters,
            "MACs": cost.macs,
            "saved for backward, bytes": "" if cost.step is None else cost.saved,
        }
        for call, latency in (("forward", cost.forward), ("step", cost.step)):
            names = [
                f"{call} {what}{p}" for what in ("ms", "/ plain") for p in ("", " p20", " p80")
            ]
            values = [""] * 6 if latency is None else [float(f"{v:.4g}") for v in latency[:6]]
            row |= dict(zip(names, values, strict=True))
            row[f"{call} rounds"] = "" if latency is None else latency.rounds
        made.append({**row, **facts})
    return made


def digits(value: float) -> str:
    """Write a number with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def scaled(value: float, unit: str = "") -> str:
    """Write 25557032 as "25.6 M", with bytes as unit "25.6 MB"."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{digits(value / size)} {prefix}{unit}"
    return f"{value:.0f} {unit}".strip()


def latency_cells(latency: Latency) -> list[str]:
    """Milliseconds, then the ratio to the plain model, each with 20th and 80th percentile."""
    return [
        f"{digits(middle)} ({digits(low)}-{digits(high)})"
        for middle, low, high in (latency[:3], latency[3:6])
    ]


def table(costs: Sequence[Cost]) -> str:
    """Return the costs as text, one aligned table for each device and batch size."""
    blocks = []
    for device, size in dict.fromkeys((cost.device, cost.batch_size) for cost in costs):
        chosen = [cost for cost in costs if (cost.device, cost.batch_size) == (device, size)]
        lines = [[*COLUMNS, *(STEP if chosen[0].step else ())]]
        for cost in chosen:
            saved = scaled(cost.saved, "B") if cost.step else "-"
            line = [cost.layer, str(cost.places), scaled(cost.parameters), scaled(cost.macs), saved]
            line += latency_cells(cost.forward)
            lines.append(line + (latency_cells(cost.step) if cost.step else []))
        step = f", {chosen[0].step.rounds} steps" if chosen[0].step else ""
        calls = f"{chosen[0].forward.rounds} forwards{step}"
        blocks.append(f"{device}, batch size {size}: {calls}\n{align(lines)}")
    return "\n\n".join(blocks)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Return lines with aligned columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )
