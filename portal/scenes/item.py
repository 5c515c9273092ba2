"""A map's metadata as a STAC item."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rasterio.crs import CRS

from portal.scenes.cogs import NO_CLASS
from portal.scenes.palette import palette
from portal.scenes.places import box, cell_transform, geometry
from portal.scenes.scene import GSD, CellMap, Geo, Inspection, Provenance

_SCHEMAS = "https://stac-extensions.github.io"
EXTENSIONS = [
    f"{_SCHEMAS}/projection/v2.0.0/schema.json",
    f"{_SCHEMAS}/classification/v2.0.0/schema.json",
    f"{_SCHEMAS}/processing/v1.2.0/schema.json",
]
_TAKEN = re.compile(r"(?<!\d)(20\d{6}T\d{6})(?!\d)")  # as Sentinel-2's files are named
_EXPRESSION = "eurosat-landuse-map"  # what processing:expression is written in
_ABOUT = "Land use, a class for each cell, by a model that learned from EuroSAT's tiles."
_UNDATED = f"{_ABOUT} When the scene was taken is not known: datetime is when the map was made."
_ROLES = {
    "class.tif": ["data"],
    "class.tif.aux.xml": ["metadata"],
    "class.qml": ["metadata"],
    "map.png": ["overview"],
    "scene.png": ["thumbnail"],
}


def stac_item(
    cells: CellMap,
    geo: Geo,
    inspection: Inspection,
    provenance: Provenance,
    files: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """The item (STAC 1.1); without a CRS it has neither geometry nor bounding box.

    Args:
        files: those that belong to the map, by name: media type, and a sentence what it is.
    """
    taken = _time_taken(provenance.scene)
    outline = None if geo.crs is None else geometry(geo, [[_outline(geo)]])
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": _identifier(provenance, cells.stride),
        "geometry": outline,
        "bbox": None if outline is None else box(outline),
        "properties": {
            "title": f"Land use in {provenance.scene}",
            "description": _UNDATED if taken is None else _ABOUT,
            "datetime": taken or provenance.created,
            "created": provenance.created,
            **_projection(geo),
            **_processing(cells, inspection, provenance),
        },
        "links": [],
        "assets": {
            name: {"href": f"./{name}", "type": kind, "title": title, "roles": roles(name)}
            | _facts(name, cells, geo)
            for name, (kind, title) in files.items()
        },
    }
    if outline is None:
        del item["bbox"]  # so the specification wants it
    return item


def roles(name: str) -> list[str]:
    """What a file is to a STAC item."""
    return _ROLES.get(name, ["data"])


def _time_taken(name: str) -> str | None:
    found = _TAKEN.search(name)
    if found is None:
        return None
    try:
        taken = datetime.strptime(found[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return taken.isoformat().replace("+00:00", "Z")


def _identifier(provenance: Provenance, stride: int) -> str:
    """Of file, model and stride; the digest keeps scenes of the same name apart."""
    parts = (
        provenance.scene.rsplit(".", 1)[0],
        provenance.model,
        provenance.version,
        str(stride),
        provenance.scene_sha256[:12],
    )
    return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(parts))


def _outline(geo: Geo) -> list[tuple[int, int]]:
    return [(0, 0), (0, geo.height), (geo.width, geo.height), (geo.width, 0), (0, 0)]


def _projection(geo: Geo) -> dict[str, Any]:
    if geo.crs is None:
        return {"proj:code": None}
    crs = CRS.from_wkt(geo.crs)
    known = crs.to_authority(confidence_threshold=100)
    return {
        "proj:code": None if known is None else ":".join(known),
        "proj:wkt2": crs.to_wkt(version="WKT2_2019"),
    }


def _processing(cells: CellMap, inspection: Inspection, provenance: Provenance) -> dict[str, Any]:
    name, _, version = provenance.software.rpartition(" ")
    asked = {
        "model": provenance.model,
        "version": provenance.version,
        "archive_sha256": provenance.archive_sha256 or None,
        "scene": provenance.scene,
        "scene_sha256": provenance.scene_sha256,
        "bands": list(inspection.bands),
        "scale": inspection.scale,
        "look": inspection.look,
        "slope": inspection.slope,
        "intercept": inspection.intercept,
        "stride": cells.stride,
        "assumed": inspection.assumed,
        "warnings": inspection.warnings,
        "options": provenance.options,
    }
    return {
        "processing:level": "L4",
        "processing:datetime": provenance.created,
        "processing:software": {name or version: version if name else "unknown"},
        "processing:lineage": (
            f"{provenance.scene} brought to the look of EuroSAT's tiles (scale {inspection.scale},"
            f" look {inspection.look}) and asked of {provenance.model} {provenance.version} in"
            f" windows of 64 px, one for each {cells.stride} px."
        ),
        "processing:expression": {"format": _EXPRESSION, "expression": asked},
    }


def _facts(name: str, cells: CellMap, geo: Geo) -> dict[str, Any]:
    """What STAC says of an asset, apart from where and what it is."""
    if name.endswith(".png"):
        return {"proj:code": None, "proj:wkt2": None}
    if not name.endswith(".tif"):
        return {}
    rows, columns = cells.state.shape
    facts: dict[str, Any] = {"proj:shape": [rows, columns]}
    if geo.crs is not None:
        facts["proj:transform"] = list(cell_transform(geo, cells.stride))[:6]
        facts["gsd"] = cells.stride * GSD
    if name == "class.tif":
        facts |= {"data_type": "uint8", "nodata": NO_CLASS}
        facts["classification:classes"] = _classes(cells)
    else:
        names = cells.labels if name == "probabilities.tif" else ("confidence",)
        facts |= {"data_type": "float32", "nodata": "nan", "bands": [{"name": n} for n in names]}
    return facts


def _classes(cells: CellMap) -> list[dict[str, Any]]:
    known: list[dict[str, Any]] = [
        {
            "value": number,
            "name": re.sub(r"[^A-Za-z0-9_-]+", "_", label),
            "title": label,
            "color_hint": color[1:].upper(),
        }
        for number, (label, color) in enumerate(palette(cells.labels).items())
    ]
    none = {"value": NO_CLASS, "name": "no_class", "title": "No class", "nodata": True}
    return [*known, none]
