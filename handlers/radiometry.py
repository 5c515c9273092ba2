"""From the values of a raster to EuroSAT's look: their scale, and the product that they are of.

EuroSAT's tiles are Sentinel-2 L1C (top of atmosphere): reflectance 0..0.275 as 1..255, and 0 for no
data. Checked on the dataset: the mean digital numbers of its JPEGs are 947.0, 1045.8 and 1121.4,
those published for the original bands 947.6, 1042.9 and 1118.2.

Everything here is one line for each band from a value to a reflectance at the top of the
atmosphere. Which line it is, is told by the values: the one under which they are most likely those
of a tile of EuroSAT. The same values always get the same look, whatever surrounds them; statistics
of a scene are never brought to EuroSAT's, which would paint a sea green.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

WHITE = 0.275  # the reflectance of 255 in EuroSAT
# Those of the true-colour images that Sentinel-2's products carry, and that the many scripts make
# that multiply by 2.5, Sentinel Hub's among them.
TCI_WHITE = 0.3558
GAIN25_WHITE = 0.4
_WHITES = {"tci": TCI_WHITE, "gain25": GAIN25_WHITE}
# From surface (L2A) to top of atmosphere (L1C), for red, green, blue: what the air adds, and what
# share it lets through. Rayleigh scattering and thin aerosol, as textbooks have them; EuroSAT's own
# darkest pixels are 0.024, 0.043 and 0.063.
PATH = np.array([0.018, 0.035, 0.065])
TRANSMITTANCE = np.array([0.92, 0.87, 0.83])

# Of each scale: slope and intercept from a value to a reflectance; of those that are pictures
# already, to the share of white.
REFLECTANCES = {
    "1": (1.0, 0.0),
    "1000": (1e-3, 0.0),
    "10000": (1e-4, 0.0),
    "10000-offset": (1e-4, -0.1),  # Sentinel-2's processing baseline 04.00 and later
    "65535": (1 / 65535, 0.0),
}
PICTURES = {
    "unit": (1.0, 0.0),  # 0..1
    "255": (1 / 255, 0.0),
    "high-byte": (1 / 65535, 0.0),
}
# The largest values of those that a larger one disproves in a scene. In a tile it does not: 0..275,
# reflectance x 1000, makes nearly the same picture read as 0..255, but another one read as x 10000.
_MOST = {"unit": 1.01, "255": 255}
_FLOATS = {"1", "unit"}  # scales that no whole numbers are in
_WIDE = {"65535", "high-byte"}  # scales of uint16 alone

# How likely each is before its values are seen, as natural logarithms; 0 where not named.
_PRIOR = {"255": -6.0, "1000": -12.0, "65535": -1.0, "l2a": -3.0}
_BELOW_ZERO = -5.0  # where a value would be a reflectance below 0

# The logarithms of reflectance + FLOOR at the 1st, 50th and 99th percentile of red, green and blue
# are distributed in 6,000 training tiles of the spatial split as a mixture of three normal
# distributions: of each its weight, the mean, and the Cholesky factor of the inverse of its
# covariance, row by row. By a single one open sea as bright as a field is likelier than as dark as
# it is: of maps of open sea as surface reflectance a tenth was read in a wrong scale.
PERCENTILES = (1, 50, 99)
FLOOR = 0.004
_MIXTURE = (
    (  # most land
        0.40,
        (-3.046, -2.621, -2.440, -2.626, -2.357, -2.279, -1.912, -1.946, -1.928),
        (
            (4.36, -6.63, -2.60, -6.98, 6.27, 4.14, 1.31, 0.85, 0.90),
            (12.26, -4.61, 1.40, -11.67, 6.55, -0.62, -1.83, 0.56),
            (12.28, 0.86, -0.70, -27.17, 0.19, 3.54, -1.68),
            (6.05, -7.45, -6.37, -1.30, 3.79, 0.06),
            (18.18, -7.01, -0.25, -0.28, 7.97),
            (31.52, -3.46, -11.40, -12.41),
            (4.27, -10.67, 2.59),
            (16.18, -23.34),
            (24.78,),
        ),
    ),
    (  # bare and built
        0.39,
        (-2.656, -2.431, -2.340, -1.961, -2.034, -2.023, -1.405, -1.524, -1.570),
        (
            (2.76, -5.92, -0.96, -0.29, 2.76, 0.81, 0.56, -1.77, 0.13),
            (11.81, -10.42, -7.85, -0.04, 9.83, 0.58, -0.54, -1.01),
            (18.93, 3.09, -7.92, -15.98, 0.17, 6.80, 2.31),
            (5.51, -11.18, 3.97, 0.75, 9.72, 1.75),
            (18.63, -27.17, -0.97, -1.83, 14.84),
            (27.88, -5.62, -14.88, -20.71),
            (7.88, -18.01, 7.59),
            (16.89, -34.97),
            (31.13,),
        ),
    ),
    (  # water and woods
        0.21,
        (-3.046, -2.602, -2.361, -2.844, -2.456, -2.284, -2.581, -2.308, -2.188),
        (
            (3.04, -6.70, -1.54, -10.90, 14.84, 7.21, 4.54, 1.93, 0.87),
            (10.52, -4.50, 2.05, -22.19, 9.06, 2.22, -1.52, 2.08),
            (8.14, -0.90, 1.24, -48.34, 4.43, 3.50, -7.11),
            (10.00, -15.14, -8.51, -12.08, 6.94, 4.36),
            (22.27, -10.36, -1.96, -17.80, 8.53),
            (52.98, -5.72, -4.76, -30.04),
            (8.39, -10.89, -7.37),
            (24.51, -11.61),
            (41.68,),
        ),
    ),
)
_MEANS = np.array([mean for _, mean, _ in _MIXTURE])
_WHITEN = np.array([[(0.0,) * (9 - len(row)) + row for row in rows] for _, _, rows in _MIXTURE])
_LOG_WEIGHTS = np.log([weight for weight, _, _ in _MIXTURE]) + np.log(
    np.diagonal(_WHITEN, 0, 1, 2)
).sum(axis=1)
_LOG_WEIGHTS -= _LOG_WEIGHTS.max()

# Two scales tie if their log-likelihoods are as near as this: the odds are below 5 to 3.
TIE = 0.5
# The largest squared distance from the nearest mean, in standard deviations, of values that are
# believed. Of the training tiles 99.9 % are within 70.
FARTHEST = 250.0
# The tiles of a scene bear each other out, but they are alike: together they weigh as much as this
# many. So scale and level were right for 320 of 320 scenes of 60 validation tiles of EuroSAT: in
# five scales, as L1C and as simulated L2A, without clouds and with a tenth of them. By the
# percentiles of all their values at once, which clouds move, five in eight were right.
WITNESSES = 3

_PIECE = 2**18  # pixels that are looked at, or turned, at a time: of a whole image floats are large


class UnknownScale(ValueError):
    """Values that fit no scale, or two of them; the message says what was found and to do."""


@dataclass(frozen=True)
class Reading:
    """How values are read.

    Attributes:
        scale, look: as of ``handlers.contract.image_body``, never "auto", "tci" or
            "gain25".
        slope, intercept: float64 (3,), from a value to a reflectance at the top of the atmosphere.
    """

    scale: str
    look: str
    slope: np.ndarray
    intercept: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Numbers (..., 3), red, green, blue -> uint8 (..., 3) in EuroSAT's look, 1..255."""
        scaled = values * (254 / WHITE * self.slope) + (1 + 254 / WHITE * self.intercept)
        return np.rint(scaled).clip(1, 255).astype(np.uint8)


def read_values(
    values: np.ndarray, valid: np.ndarray | None, scale: str = "auto", look: str = "auto"
) -> tuple[np.ndarray, Reading | None]:
    """Bring an image's values to EuroSAT's look.

    Args:
        values: (H, W, 3), red, green, blue, whole or floating numbers, finite where valid.
        valid: bool (H, W), at least one pixel; None: all.
        scale, look: what is known of the values. 8 bits of which nothing is known stay as they are.

    Returns:
        uint8 (H, W, 3), 0 where not valid, and how the values were read; None: as they are.

    Raises:
        UnknownScale: with the type, the range and what was expected.
    """
    if values.dtype == np.uint8 and scale in ("auto", "255") and look in ("auto", "eurosat"):
        return values if valid is None else np.where(valid[..., None], values, 0), None
    reading = find_reading(_sample(values, valid), scale, look)
    pixels = np.empty(values.shape, np.uint8)
    rows = max(_PIECE // values.shape[1], 1)
    for part in (slice(top, top + rows) for top in range(0, len(values), rows)):
        if valid is None:
            pixels[part] = reading.apply(values[part])
        else:
            seen = valid[part][..., None]
            pixels[part] = np.where(seen, reading.apply(np.where(seen, values[part], 0)), 0)
    return pixels, reading


def _sample(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Valid values, (N, 3): of a large image every second pixel, third, and so on."""
    step = isqrt((values.shape[0] * values.shape[1] - 1) // _PIECE) + 1
    some = values[::step, ::step]
    if valid is None:
        return some.reshape(-1, 3)
    found = some[valid[::step, ::step]]
    return found if len(found) else values[valid][:_PIECE]


def find_reading(values: np.ndarray, scale: str = "auto", look: str = "auto") -> Reading:
    """Which reading of values is the likeliest.

    Args:
        values: (N, 3), red, green, blue, N at least 1.
        scale, look: as of ``read_values``.

    Raises:
        UnknownScale: as of ``read_values``.
    """
    return find_common_reading([values], scale, look)


def find_common_reading(
    tiles: Sequence[np.ndarray], scale: str = "auto", look: str = "auto"
) -> Reading:
    """Which reading of the values of many tiles of one scene is the likeliest.

    The tile in the middle decides, so that clouds and water in less than half of them do not.

    Args:
        tiles: at least one, each as the values of ``find_reading``, all of one type.
        scale, look: as of ``read_values``.

    Raises:
        UnknownScale: as of ``read_values``.
    """
    least = min(tile.min() for tile in tiles)
    most = max(tile.max() for tile in tiles)
    found = f"{tiles[0].dtype} values from {least:.6g} to {most:.6g}"
    candidates = [
        candidate
        for candidate in _candidates(tiles[0].dtype, scale, look)
        if scale != "auto" or len(tiles) == 1 or most <= _MOST.get(candidate.scale, most)
    ]
    if not candidates:
        raise UnknownScale(
            f"found {found}, which scale={scale} with look={look} cannot have; leave one out"
        )
    if len(candidates) == 1:
        return candidates[0]
    quantiles = np.array([np.percentile(tile, PERCENTILES, axis=0) for tile in tiles])
    minima = np.array([tile.min(axis=0) for tile in tiles])
    scores = []
    for candidate in candidates:
        each = [_log_likelihood(candidate, *one) for one in zip(quantiles, minima, strict=True)]
        likelihood, distance = np.median(each, axis=0)
        scores.append((_prior(candidate) + min(len(tiles), WITNESSES) * likelihood, distance))
    best = int(np.argmax([score for score, _ in scores]))
    chosen = candidates[best]
    if scale == "auto" and scores[best][1] > FARTHEST:
        raise UnknownScale(
            f"found {found}, which are no reflectance in a scale that is known and no picture of "
            "0 to 255; name what they are with scale= and look="
        )
    typical = np.median(quantiles, axis=0)
    for candidate, (score, _) in zip(candidates, scores, strict=True):
        near = scores[best][0] - score < TIE
        if candidate.scale != chosen.scale and near and _differ(candidate, chosen, typical):
            raise UnknownScale(
                f"found {found}, which may as well be in scale {chosen.scale} ({chosen.look}) as "
                f"in {candidate.scale} ({candidate.look}); name the right one with scale="
            )
    return chosen


def _candidates(dtype: np.dtype, scale: str, look: str) -> list[Reading]:
    """All readings that values of a type can have, as far as they are not known."""
    found = []
    bits8 = dtype == np.uint8
    for name, (slope, intercept) in (REFLECTANCES | PICTURES).items():
        if scale not in ("auto", name):
            continue
        if scale == "auto" and (
            (name in _FLOATS and dtype.kind != "f")
            or (name in _WIDE and dtype != np.uint16)
            or (bits8 and name != "255")
        ):
            continue
        picture = name in PICTURES
        if picture and look in ("auto", "eurosat"):
            # 1..255 of 255, not 0..255
            found.append(_reading(name, "eurosat", slope * WHITE * 255 / 254, -WHITE / 254))
        elif picture and (look in _WHITES or bits8 or scale == name):
            white = _WHITES.get(look, TCI_WHITE)
            found += [
                _reading(name, level, slope * white, 0.0)
                for level in ("l1c", "l2a")
                if look in _WHITES or look == level
            ]
        elif not picture and look in ("auto", "l1c", "l2a"):
            found += [
                _reading(name, level, slope, intercept)
                for level in ("l1c", "l2a")
                if look in ("auto", level)
            ]
    return found


def _reading(scale: str, look: str, slope: float, intercept: float) -> Reading:
    if look == "l2a":
        return Reading(scale, look, slope * TRANSMITTANCE, PATH + intercept * TRANSMITTANCE)
    return Reading(scale, look, np.full(3, slope), np.full(3, intercept))


def _log_likelihood(
    reading: Reading, quantiles: np.ndarray, least: np.ndarray
) -> tuple[float, float]:
    """How likely values with these percentiles, (3, 3), and minima, (3,), are; and how far out.

    What is known before they are seen, ``_prior``, comes on top.

    It is the density of the values themselves, not of what they are turned into: else the reading
    that makes any values the same, nearly the air's own light, would always be the likeliest.
    """
    reflectance = np.maximum(quantiles * reading.slope + reading.intercept, 1e-4) + FLOOR
    apart = (np.log(reflectance).ravel() - _MEANS)[:, None] @ _WHITEN
    distances = np.square(apart).sum(axis=(1, 2))
    darkest = PATH if reading.look == "l2a" else 0.0
    below = 0.0
    if (least * reading.slope + reading.intercept < darkest - 0.002).any():
        below += _BELOW_ZERO
    likelihood = float(np.logaddexp.reduce(_LOG_WEIGHTS - distances / 2))
    return (
        below + likelihood + float(np.log(reading.slope / reflectance).sum()),
        float(distances.min()),
    )


def _prior(reading: Reading) -> float:
    return _PRIOR.get(reading.scale, 0.0) + _PRIOR.get(reading.look, 0.0)


def _differ(one: Reading, other: Reading, quantiles: np.ndarray) -> bool:
    """Whether two readings make different pictures, by more than a tenth of the range."""
    looks = one.apply(quantiles).astype(int), other.apply(quantiles).astype(int)
    return int(abs(looks[0] - looks[1]).max()) > 25
