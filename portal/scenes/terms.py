"""What was asked of a scene, what was found in it, and how its map came about.

All that the portal's web process knows of scenes; numpy is not needed for it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Self

GSD = 10.0  # metres on the ground that a pixel has once a scene is read
STRIDES = (64, 32, 16)  # px from one window to the next
SMALL_SCENE = 2000  # px; scenes with a longer side are mapped with the largest stride
MOST_CLASSES = 255  # of a map: a byte for each cell, and one of its values for none
WATER = ("River", "SeaLake")  # summed once more where areas are told


class State(IntEnum):
    """What a cell's class is worth."""

    SURE = 0
    UNSURE = 1
    BRIGHT = 2  # cloud, snow, bare rock: it gets no class
    NO_DATA = 3  # it gets no class
    EDGE = 4  # of a window that was moved inwards or filled, and else sure


@dataclass(frozen=True)
class Options:
    """What is asked of a scene.

    Attributes:
        version: None for the model's default one.
        stride: one of ``STRIDES``; None: 32 where no side is longer than ``SMALL_SCENE``, else 64.
        bands: numbers of red, green and blue, from 1; None: as they are named.
        scale, look: of ``handlers.contract.image_body``; "auto": the values decide, and 8 bits are
            taken for a true-colour image (tci).
        force: take pixels of 2..60 m instead of 5..20 m.
    """

    model: str
    version: str | None = None
    stride: int | None = None
    bands: tuple[int, int, int] | None = None
    scale: str = "auto"
    look: str = "auto"
    force: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave, by way of JSON."""
        return cls(**{**given, "bands": tuple(given["bands"]) if given["bands"] else None})


@dataclass(frozen=True)
class Geo:
    """Where the pixels of a scene as it is mapped lie: north up, ``GSD`` metres each.

    Attributes:
        width, height: px.
        crs: WKT; None: it is not known where the scene lies.
        origin: x and y of the outer corner of the first pixel, in the CRS; 0, 0 without one.
    """

    width: int
    height: int
    crs: str | None
    origin: tuple[float, float]


@dataclass(frozen=True)
class Inspection:
    """What was found in a file, before anything is mapped.

    Attributes:
        found: format, width, height (px of the file), bands, dtype, crs (a name such as
            "EPSG:32630", or None), pixel (metres or None), minimum, maximum, valid (share of px
            with data), bytes; the three before the last as a sample of the scene has them.
        assumed: what could be otherwise, by topic (bands, scale, look, pixel, alpha, ...).
        warnings: code and sentence.
        geo: of the scene as it is mapped.
        bands: red, green, blue, from 1.
        scale, look: as decided, see ``handlers.radiometry.Reading``; "255" and "eurosat" for pixels
            that stay as they are.
        slope, intercept: of ``handlers.radiometry.Reading``; None: pixels stay as they are.
        stride: as decided.
        windows: that the model will be asked about, at most.
        mask: number of the band that says where there is data, 0: none; and the value above which
            it says so.
        resampled: the pixels of the map are not those of the file.
    """

    found: dict[str, Any]
    assumed: dict[str, str]
    warnings: dict[str, str]
    geo: Geo
    bands: tuple[int, int, int]
    scale: str
    look: str
    slope: tuple[float, float, float] | None
    intercept: tuple[float, float, float] | None
    stride: int
    windows: int
    mask: tuple[int, int] = (0, 0)
    resampled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave, by way of JSON."""
        geo = Geo(**{**given["geo"], "origin": tuple(given["geo"]["origin"])})
        names = ("bands", "slope", "intercept", "mask")
        tuples = {name: tuple(given[name]) if given[name] else None for name in names}
        return cls(**{**given, "geo": geo, **tuples})


@dataclass(frozen=True)
class Provenance:
    """How a map came about, for its metadata.

    Attributes:
        model, version: that answered.
        archive_sha256: of the archive; "" if it is not known.
        scene: the name of the file.
        scene_sha256: of the file.
        software: name and version of the product.
        created: ISO 8601, UTC.
    """

    model: str
    version: str
    archive_sha256: str
    scene: str
    scene_sha256: str
    software: str
    created: str
    options: dict[str, Any] = field(default_factory=dict)
