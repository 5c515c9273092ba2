"""A map as a picture to print: classes over the scene, a legend with areas, a scale."""

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from portal.scenes.palette import palette, rgb
from portal.scenes.scene import GSD, CellMap, Geo, Provenance, State

_SIDES = (900, 1600)  # px, the least and the most of the map's longer side
_OVER = 0.75  # of what is seen where a class lies over the scene
_HATCH = 10  # px from one line over what is unsure to the next
_INK, _QUIET, _PAPER = (27, 33, 29), (90, 99, 93), (255, 255, 255)
_NO_DATA = (214, 217, 213)
_LENGTHS = tuple(step * 10**power for power in range(1, 6) for step in (1, 2, 5))  # metres
_MARGIN, _LINE, _LEGEND = 28, 32, 430  # px: around all, from line to line, the legend's width
_SWATCH = (36, 22)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_map(
    cells: CellMap,
    geo: Geo,
    provenance: Provenance,
    preview: np.ndarray,
    areas: Sequence[Mapping[str, Any]],
) -> bytes:
    """A PNG of the map with title and legend, and with a scale where it is known.

    Args:
        preview: the whole scene in EuroSAT's look, uint8 (h, w, 3).
        areas: the lines of the legend: class name, hectares or None, share and colour of each.
    """
    chart = _paint(cells, geo, preview)
    height, width = chart.shape[:2]
    lines = list(_legend(cells, geo, areas))
    top = _MARGIN + 2 * _LINE + _MARGIN // 2
    below = max(height + 2 * _LINE, len(lines) * _LINE)
    sheet = Image.new("RGB", (width + _LEGEND + 3 * _MARGIN, top + below + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    room = sheet.width - 2 * _MARGIN
    large, text = ImageFont.load_default(26), ImageFont.load_default(19)
    draw.text((_MARGIN, _MARGIN - 4), _fitting(provenance.scene, large, room), _INK, large)
    about = _fitting(_about(cells, geo, provenance), text, room)
    draw.text((_MARGIN, _MARGIN + _LINE), about, _QUIET, text)
    sheet.paste(Image.fromarray(chart), (_MARGIN, top))
    left = width + 2 * _MARGIN
    for number, (name, amount, share, swatch) in enumerate(lines):
        y = top + number * _LINE
        sheet.paste(Image.fromarray(swatch), (left, y))
        draw.rectangle((left, y, left + _SWATCH[0] - 1, y + _SWATCH[1] - 1), outline=_QUIET)
        draw.text((left + 48, y - 1), _fitting(name, text, 215), _INK, text)
        draw.text((left + 362, y - 1), amount, _INK, text, anchor="ra")
        draw.text((left + _LEGEND, y - 1), share, _INK, text, anchor="ra")
    if geo.crs is not None:
        _scale(draw, (_MARGIN, top + height + 12), width / (geo.width * GSD), width, text)
    return png(np.asarray(sheet))


def png(pixels: np.ndarray) -> bytes:
    """Pixels, uint8 (h, w, 3), as a PNG.

    Runs alone are looked for: the usual way takes four times as long, and saves a tenth of a map
    and nothing of a scene.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def _paint(cells: CellMap, geo: Geo, preview: np.ndarray) -> np.ndarray:
    """The classes over the scene in grey, uint8 (h, w, 3); lines over what is unsure."""
    longer = min(max(*preview.shape[:2], _SIDES[0]), _SIDES[1])
    zoom = longer / max(geo.width, geo.height)
    width, height = (max(1, round(side * zoom)) for side in (geo.width, geo.height))
    picture = Image.fromarray(preview).resize((width, height), Image.Resampling.BILINEAR)
    grey = _stretched(np.asarray(picture.convert("L")))[..., None]
    rows = (np.arange(height) * geo.height // height) // cells.stride
    columns = (np.arange(width) * geo.width // width) // cells.stride
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(cells.labels)] = [rgb(color) for color in palette(cells.labels).values()]
    over = colors[cells.classes][rows][:, columns]
    painted = _mixed(over, grey, _OVER)
    state = cells.state[rows][:, columns]
    bright = state == State.BRIGHT
    painted[bright] = np.asarray(picture)[bright]
    painted[state == State.NO_DATA] = _NO_DATA
    return _hatched(painted, over, state == State.UNSURE)


def _stretched(grey: np.ndarray) -> np.ndarray:
    """With more of a difference between dark and light: it is seen through a colour."""
    darker = np.bincount(grey.ravel(), minlength=256).cumsum()
    low, high = np.searchsorted(darker, (0.02 * grey.size, 0.98 * grey.size))
    shares = (np.arange(256) - low) / max(high - low, 1)
    found: np.ndarray = (shares.clip(0, 1) * 255).astype(np.uint8)[grey]
    return found


def _mixed(over: np.ndarray, under: np.ndarray, share: float) -> np.ndarray:
    part = round(share * 256)
    mixed: np.ndarray = over * np.uint16(part) + under * np.uint16(256 - part)
    found: np.ndarray = (mixed >> 8).astype(np.uint8)
    return found


def _hatched(pixels: np.ndarray, colors: np.ndarray, where: np.ndarray) -> np.ndarray:
    """With lines, light where the colour is dark and dark where it is light."""
    height, width = where.shape
    lines = where & ((np.arange(height)[:, None] + np.arange(width)) % _HATCH < 2)
    ink = np.where(colors[lines].mean(axis=1, keepdims=True) < 128, 255, 0).astype(np.uint8)
    pixels[lines] = _mixed(ink, pixels[lines], 0.75)
    return pixels


def _legend(
    cells: CellMap, geo: Geo, areas: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Name, hectares, share, and a swatch of each line."""
    for area in areas:
        amount, share = _amount(area["hectares"]), f"{area['share']:.1%}"
        yield area["class_name"], amount, share, _swatch(rgb(area["color"]))
    pixels = int(cells.valid.sum(dtype=np.int64))
    for state, name, color in (
        (State.UNSURE, "unsure", (200, 200, 200)),
        (State.BRIGHT, "too bright: no class", (255, 255, 255)),
        (State.NO_DATA, "no data", _NO_DATA),
    ):
        there = cells.state == state
        if not there.any():
            continue
        swatch = _swatch(color)
        if state == State.UNSURE:
            swatch = _hatched(swatch, swatch, np.ones(swatch.shape[:2], bool))
        found = int(cells.valid[there].sum(dtype=np.int64))
        hectares = None if geo.crs is None or found == 0 else found * GSD**2 / 10_000
        yield name, _amount(hectares), f"{found / pixels:.1%}" if found else "", swatch


def _swatch(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((_SWATCH[1], _SWATCH[0], 3), color, np.uint8)


def _amount(hectares: float | None) -> str:
    return "" if hectares is None else f"{hectares:,.0f} ha"


def _about(cells: CellMap, geo: Geo, provenance: Provenance) -> str:
    cell = f"{cells.stride} px" if geo.crs is None else f"{cells.stride * GSD:.0f} m"
    made = provenance.created[:10]
    return f"Land use by {provenance.model} {provenance.version}, cells of {cell}, made {made}"


def _scale(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], zoom: float, width: int, font: Font
) -> None:
    """A bar of a round length, at most a third of the map; ``zoom`` is px a metre."""
    length = max((m for m in _LENGTHS if m * zoom <= width / 3), default=_LENGTHS[0])
    x, y = at
    end = x + round(length * zoom)
    draw.rectangle((x, y, end, y + 6), fill=_INK)
    draw.rectangle(((x + end) // 2, y + 1, end - 1, y + 5), fill=_PAPER)
    told = f"{length // 1000} km" if length >= 1000 else f"{length} m"
    draw.text((end + 10, y - 8), f"{told}, north is up", _INK, font)


def _fitting(text: str, font: Font, room: int) -> str:
    """On one line, shortened to a width in px."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    if font.getlength(line) <= room:
        return line
    while line and font.getlength(f"{line}...") > room:
        line = line[:-1]
    return f"{line}..."
