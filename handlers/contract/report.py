"""What a report promises, to whoever reads it and to whoever serves what it is about."""

from types import MappingProxyType
from typing import Literal

SCHEMA_VERSION = 1  # of report.json, the newest that is understood

Precision = Literal["fp32", "int8"]

# Largest difference of a probability between a report and what serves it, across CPUs: 8-bit sums
# that fall on the other side of a rounding move a probability much further than those of floats.
PROBABILITY: MappingProxyType[Precision, float] = MappingProxyType({"fp32": 1e-3, "int8": 2e-2})
