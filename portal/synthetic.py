"""The tile that models are asked about when no real one is at hand."""

import struct
import zlib


def _synthetic_tile() -> bytes:
    """A 64 x 64 px RGB PNG with a gradient: no land, only a picture of the right form."""
    side = 64
    rows = b"".join(
        b"\x00" + bytes(value for x in range(side) for value in (60 + x, 80 + y, 70))
        for y in range(side)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)  # 8 bits per channel, colour
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


SYNTHETIC_TILE = _synthetic_tile()
