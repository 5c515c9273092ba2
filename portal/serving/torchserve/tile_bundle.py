"""Many images in one request to the model server, as ``handlers/stack.py`` reads it."""

import struct
from collections.abc import Sequence

MAGIC = b"\0tiles1\n"
MOST_TILES = 128  # in one stack, as many as the handler takes; those of older archives take 64
LEAST_TILES = 8  # fewer are not shared out: stacks leave 4 ms apart (portal/serving/pace.py)
# Of a tile that shares a stack: one has 3 KB as JPEG, 12 as PNG; whatever is larger is sent alone.
MOST_BYTES = 64 * 1024
STACK_BYTES = 4 * 1024 * 1024  # of all tiles of a stack, far below what TorchServe takes (6.5 MB)


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
    stacks: list[list[int]] = []
    room = 0
    for place in small:
        if not stacks or len(stacks[-1]) == size or len(images[place]) > room:
            stacks.append([])
            room = STACK_BYTES
        stacks[-1].append(place)
        room -= len(images[place])
    return stacks + [[place] for place, image in enumerate(images) if len(image) > MOST_BYTES]
