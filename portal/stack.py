"""Many images in one request to the model server, as ``handlers/stack.py`` reads it."""

import struct
from collections.abc import Sequence

MAGIC = b"\0tiles1\n"
MOST_TILES = 64  # in one stack, as many as the handler takes
LEAST_TILES = 8  # fewer are not shared out: stacks leave 4 ms apart (portal/pace.py)
# Of a tile that shares a stack, so that a full one stays far below what TorchServe takes in one
# request. A tile has 3 KB as JPEG and 12 as PNG; whatever is larger is sent alone.
MOST_BYTES = 64 * 1024


def pack(images: Sequence[bytes]) -> bytes:
    """The body that carries these images, at least one."""
    lengths = struct.pack(f"!{len(images) + 1}I", len(images), *map(len, images))
    return b"".join((MAGIC, lengths, *images))


def split(images: Sequence[bytes], shares: int) -> list[list[int]]:
    """Places of the images, those of one stack together; the large ones are alone.

    Args:
        shares: how many stacks there are to be at least, so that all workers have some; fewer
            where these would have fewer images than ``LEAST_TILES``.
    """
    small = [place for place, image in enumerate(images) if len(image) <= MOST_BYTES]
    size = min(MOST_TILES, max(LEAST_TILES, -(-len(small) // shares)))
    stacks = [small[start : start + size] for start in range(0, len(small), size)]
    return stacks + [[place] for place, image in enumerate(images) if len(image) > MOST_BYTES]
