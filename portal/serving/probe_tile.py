"""The tile that models are asked about when no real one is at hand."""

from portal import png


def _synthetic_tile() -> bytes:
    """A 64 x 64 px RGB PNG with a gradient: no land, only a picture of the right form."""
    side = 64
    rows = [
        bytes(value for x in range(side) for value in (60 + x, 80 + y, 70)) for y in range(side)
    ]
    return png.encode(rows, 3)


PROBE_TILE = _synthetic_tile()
