"""One colour for each class, wherever it is shown: pictures, rasters, QGIS, API and page."""

import colorsys
from collections.abc import Sequence

# Of EuroSAT's classes: near to what is used for such land where that can be told apart. In CIELAB
# any two are 35 or more apart, for people without red or without green cones as well, and 25 or
# more for people without blue ones.
_EUROSAT = {
    "AnnualCrop": "#eeff34",
    "Forest": "#2d9470",
    "HerbaceousVegetation": "#a26601",
    "Highway": "#1c001d",
    "Industrial": "#ae1ff8",
    "Pasture": "#c7ffe2",
    "PermanentCrop": "#ffc67c",
    "Residential": "#650a00",
    "River": "#16d5f4",
    "SeaLake": "#17468a",
}
WATER = "#176b9d"  # of River and SeaLake together, where areas are told
_TURN = 0.381966  # of the circle of hues; no two of many such turns meet
_LIGHTNESS = (0.45, 0.7, 0.25)


def palette(labels: Sequence[str]) -> dict[str, str]:
    """A colour such as "#17468a" for each label, different ones, and always the same.

    EuroSAT's classes have their own. Others get what these leave, in order, and then colours that
    are made up: people who are colour-blind may not tell those apart.
    """
    free = [color for name, color in _EUROSAT.items() if name not in labels]
    colors = {label: _EUROSAT[label] for label in labels if label in _EUROSAT}
    others = [label for label in labels if label not in _EUROSAT]
    free += [_made_up(number) for number in range(len(others) - len(free))]
    return {label: colors.get(label) or free.pop(0) for label in labels}


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0..255, of a colour such as "#17468a"."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def _made_up(number: int) -> str:
    parts = colorsys.hls_to_rgb(number * _TURN % 1, _LIGHTNESS[number % len(_LIGHTNESS)], 0.6)
    return "#" + bytes(round(part * 255) for part in parts).hex()
