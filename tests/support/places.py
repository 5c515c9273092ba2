"""Lists of where tiles lie."""

from collections.abc import Mapping
from pathlib import Path

from rasterio.warp import transform

from training.dataset.neighbours import PITCH, PLACES


def write_places(folder: Path, places: Mapping[str, tuple[float, float]]) -> Path:
    """A list of tiles in UTM zone 32, by their steps of 650 m to the right and down."""
    xs = [400_000 + PITCH * right for right, _ in places.values()]
    ys = [5_400_000 - PITCH * down for _, down in places.values()]
    longitudes, latitudes = transform("EPSG:32632", "EPSG:4326", xs, ys)
    path = folder / PLACES
    lines = ["name,class,latitude,longitude"]
    for name, longitude, latitude in zip(places, longitudes, latitudes, strict=True):
        stem = name.removesuffix(".jpg")
        lines.append(f"{stem},{stem.rpartition('_')[0]},{latitude},{longitude}")
    path.write_text("\n".join(lines) + "\n")
    return path
