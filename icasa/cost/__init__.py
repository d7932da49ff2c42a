"""The cost of each attention layer in a model: parameters, MACs, memory, latency."""

from icasa.cost.count import macs, saved_bytes
from icasa.cost.latency import Latency
from icasa.cost.measure import Cost, compare, default_layers
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
