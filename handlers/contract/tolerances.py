"""How far an answer may differ from the one that was measured."""

from types import MappingProxyType
from typing import Literal

Precision = Literal["fp32", "int8"]

# Largest difference of a probability between a report and what serves it, across CPUs: 8-bit sums
# that fall on the other side of a rounding move a probability much further than those of floats.
PROBABILITY: MappingProxyType[Precision, float] = MappingProxyType({"fp32": 1e-3, "int8": 2e-2})
