"""A map as rasters that are read in parts (COG), and what lies beside them for GDAL and QGIS."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rasterio.io import MemoryFile

from portal.scenes.palette import palette, rgb
from portal.scenes.places import cell_transform
from portal.scenes.scene import CellMap, Geo

NO_CLASS = 255
_BLOCK = 256  # px a side
# GDAL's numbers for what a column of an attribute table holds, and what it is for.
_INTEGER, _STRING = 0, 2
_COLUMNS = (
    ("Value", _INTEGER, 5),
    ("Class", _STRING, 2),
    ("Red", _INTEGER, 6),
    ("Green", _INTEGER, 7),
    ("Blue", _INTEGER, 8),
    ("Alpha", _INTEGER, 9),
)


def class_cog(cells: CellMap, geo: Geo) -> bytes:
    """One band of uint8 with a palette; 255: no class. The same map gives the same bytes."""
    colors = {n: (*rgb(color), 255) for n, color in enumerate(palette(cells.labels).values())}
    return _cog(
        cells.classes[None], geo, cells.stride, ["class"], NO_CLASS, "MODE", colormap=colors
    )


def confidence_cog(cells: CellMap, geo: Geo) -> bytes:
    """One band of float32, the probability of a cell's class; NaN: no class."""
    values = np.where(cells.classless, np.float32(np.nan), cells.confidence)
    return _cog(values[None], geo, cells.stride, ["confidence"], math.nan, "AVERAGE")


def probability_cog(cells: CellMap, geo: Geo) -> bytes:
    """A band of float32 for each class, by its name; NaN: no class."""
    values = np.where(cells.classless[..., None], np.float32(np.nan), cells.probabilities)
    bands = values.transpose(2, 0, 1)
    return _cog(bands, geo, cells.stride, cells.labels, math.nan, "AVERAGE")


def category_names(labels: Sequence[str]) -> bytes:
    """GDAL's .aux.xml of the classes' raster: their names, alone and with colours in a table."""
    root = ET.Element("PAMDataset")
    band = ET.SubElement(root, "PAMRasterBand", band="1")
    names = ET.SubElement(band, "CategoryNames")
    for label in labels:
        ET.SubElement(names, "Category").text = label
    table = ET.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for number, (name, kind, usage) in enumerate(_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(number))
        ET.SubElement(column, "Name").text = name
        ET.SubElement(column, "Type").text = str(kind)
        ET.SubElement(column, "Usage").text = str(usage)
    for number, (label, color) in enumerate(palette(labels).items()):
        row = ET.SubElement(table, "Row", index=str(number))
        for value in (number, label, *rgb(color), 255):
            ET.SubElement(row, "F").text = str(value)
    return _xml(root)


def qgis_style(labels: Sequence[str]) -> bytes:
    """QGIS's .qml of the classes' raster: names and colours in its legend."""
    root = ET.Element("qgis", version="3.22.0", styleCategories="Symbology")
    pipe = ET.SubElement(root, "pipe")
    renderer = ET.SubElement(
        pipe,
        "rasterrenderer",
        type="paletted",
        band="1",
        alphaBand="-1",
        opacity="1",
        nodataColor="",
    )
    ET.SubElement(renderer, "rasterTransparency")
    entries = ET.SubElement(renderer, "colorPalette")
    for number, (label, color) in enumerate(palette(labels).items()):
        ET.SubElement(
            entries, "paletteEntry", value=str(number), label=label, color=color, alpha="255"
        )
    ET.SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    ET.SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    ET.SubElement(pipe, "rasterresampler", maxOversampling="2")
    ET.SubElement(root, "blendMode").text = "0"
    return b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + _xml(root)


def _xml(root: ET.Element) -> bytes:
    ET.indent(root)
    return ET.tostring(root, encoding="unicode").encode() + b"\n"


def _cog(
    values: np.ndarray,
    geo: Geo,
    stride: int,
    names: Sequence[str],
    nodata: float,
    resampling: str,
    colormap: Mapping[int, tuple[int, int, int, int]] | None = None,
) -> bytes:
    """Made in memory: a full disk is then told by who writes, not half by GDAL.

    Args:
        values: (bands, rows, columns).
        names: of the bands.
        resampling: how the overviews are made.
    """
    options: dict[str, Any] = {
        "driver": "COG",
        "width": values.shape[2],
        "height": values.shape[1],
        "count": values.shape[0],
        "dtype": values.dtype,
        "crs": geo.crs,
        "transform": cell_transform(geo, stride),
        "nodata": nodata,
        "compress": "DEFLATE",
        "predictor": "YES" if values.dtype == np.float32 else "NO",
        "blocksize": _BLOCK,
        "overview_count": _overviews(max(values.shape[1:])),
        "overview_resampling": resampling,
    }
    with MemoryFile() as memory:
        with memory.open(**options) as raster:
            raster.write(values)
            if colormap is not None:
                raster.write_colormap(1, colormap)
            for number, name in enumerate(names, 1):
                raster.set_band_description(number, name)
        return bytes(memory.getbuffer())


def _overviews(side: int) -> int:
    """How many: until one fits a block, and one even where the map itself does."""
    if side == 1:
        return 0
    return max(1, math.ceil(math.log2(side / _BLOCK)))
