"""Many encoded images as the body of one request: how it is packed, and how it is read.

TorchServe takes any number of form fields too, but its Java part then parses the form and passes on
each field by itself; one body that it does not look into costs the same for one tile and for many.

A bundle is ``MAGIC``, the number of its images and the length in bytes of each, as unsigned 32-bit
integers in network order, and then the images, one behind the other. No image begins as it does.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise

MAGIC = b"\0tiles1\n"
LARGEST_BUNDLE = 128  # tiles; the handlers of older archives take 64
# Of a tile in a bundle: a worker may find several requests with a bundle each (the portal has 3
# under way at most), and must be through with them before TorchServe takes it for dead. Larger
# images are welcome alone.
LARGEST_TILE_PIXELS = 1_000_000


class BadTileBundle(Exception):
    """A body that begins as a bundle, but is none; its sender gets ``status`` and ``code``."""

    status = 400
    code = "bad_tile_bundle"


def pack(images: Sequence[bytes]) -> bytes:
    """The body that carries these images, at least one."""
    lengths = struct.pack(f"!{len(images) + 1}I", len(images), *map(len, images))
    return b"".join((MAGIC, lengths, *images))


def unpack(body: bytes) -> list[bytes]:
    """The images of a bundle, in their order; 1 to ``LARGEST_BUNDLE``.

    Raises:
        BadTileBundle: it holds none or too many, or has more or fewer bytes than it says.
    """
    start = len(MAGIC) + 4
    if len(body) < start:
        raise BadTileBundle(
            f"the bundle ends after {len(body)} bytes, before it says how many tiles"
        )
    (count,) = struct.unpack_from("!I", body, len(MAGIC))
    if not 1 <= count <= LARGEST_BUNDLE:
        raise BadTileBundle(f"found a bundle of {count} tiles, expected 1 to {LARGEST_BUNDLE}")
    if len(body) < start + 4 * count:
        raise BadTileBundle(f"the bundle ends within the lengths of its {count} tiles")
    lengths = struct.unpack_from(f"!{count}I", body, start)
    start += 4 * count
    if len(body) != start + sum(lengths):
        raise BadTileBundle(
            f"the bundle has {len(body) - start} bytes of tiles, but says that it has "
            f"{sum(lengths)}"
        )
    return [body[first:end] for first, end in pairwise(accumulate(lengths, initial=start))]
