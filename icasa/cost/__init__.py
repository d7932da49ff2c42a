"""The cost of each attention layer in a model: parameters, MACs, memory, latency."""

from icasa.cost.measure import Cost, Latency, compare, default_layers, macs, saved_bytes
from icasa.cost.table import align, rows, table

__all__ = [
    "Cost",
    "Latency",
    "align",
    "compare",
    "default_layers",
    "macs",
    "rows",
    "saved_bytes",
    "table",
]
