"""Small PNG images, written without an image library."""

import struct
import zlib
from collections.abc import Sequence

# Number of bytes of a pixel -> PNG's number for its colours.
_COLOURS = {3: 2, 4: 6}


def encode(rows: Sequence[bytes], channels: int) -> bytes:
    """A PNG with 8 bits per channel.

    Args:
        rows: from top to bottom, each of the same length, pixel after pixel.
        channels: 3 for red, green and blue, 4 with opacity behind them.
    """
    header = struct.pack(
        ">IIBBBBB", len(rows[0]) // channels, len(rows), 8, _COLOURS[channels], 0, 0, 0
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(b"".join(b"\x00" + row for row in rows)))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
