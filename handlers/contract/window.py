"""A window of a scene as a file: the lossless format that is cheapest to write and to read.

A TIFF without compression, of 64 x 64 px in 8 bits, whose head is always the same: handlers of
older archives read it as they read any TIFF.
"""

import struct

SIDE = 64  # px, as of EuroSAT's tiles
SIZE = 3 * SIDE * SIDE  # bytes of its pixels: row by row from the top, red, green, blue

_SHORT, _LONG = 3, 4
_TAGS = {  # TIFF 6.0, section 6: RGB
    256: (_SHORT, 1, SIDE),  # ImageWidth
    257: (_SHORT, 1, SIDE),  # ImageLength
    258: (_SHORT, 3, 134),  # BitsPerSample, and where they stand
    259: (_SHORT, 1, 1),  # Compression: none
    262: (_SHORT, 1, 2),  # PhotometricInterpretation: RGB
    273: (_LONG, 1, 140),  # StripOffsets
    277: (_SHORT, 1, 3),  # SamplesPerPixel
    278: (_SHORT, 1, SIDE),  # RowsPerStrip
    279: (_LONG, 1, SIZE),  # StripByteCounts
    284: (_SHORT, 1, 1),  # PlanarConfiguration: interleaved
}
HEAD = b"".join(
    (
        struct.pack("<2sHIH", b"II", 42, 8, len(_TAGS)),
        *(struct.pack("<HHII", tag, *entry) for tag, entry in _TAGS.items()),
        struct.pack("<I3H", 0, 8, 8, 8),  # no other picture; the bits
    )
)


def pixels_of(data: bytes) -> bytes | None:
    """The pixels of such a file; None: it is another one."""
    if len(data) != len(HEAD) + SIZE or not data.startswith(HEAD):
        return None
    return data[len(HEAD) :]
