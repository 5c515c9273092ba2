"""Many encoded images as the body of one request, and how such a body is read.

TorchServe takes any number of form fields too, but its Java part then parses the form and passes on
each field by itself; one body that it does not look into costs the same for one tile and for many.

A stack is ``MAGIC``, the number of its images and the length in bytes of each, as unsigned 32-bit
integers in network order, and then the images, one behind the other. No image begins as it does.
"""

import struct

MAGIC = b"\0tiles1\n"
MOST_TILES = 128  # in one stack
# Of a tile in a stack: a worker may find several requests with a stack each (the portal has 3 under
# way at most), and must be through with them before TorchServe takes it for dead. Larger images are
# welcome alone.
MOST_PIXELS = 1_000_000


class BadStack(Exception):
    """A body that begins as a stack, but is none; ``status`` and ``code`` are what its sender gets.

    It is the fault of a program, never of an image in it.
    """

    status = 400
    code = "bad_stack"


def is_stack(body: bytes) -> bool:
    """Whether a body is meant as a stack."""
    return body.startswith(MAGIC)


def unpack(body: bytes) -> list[bytes]:
    """The images of a stack, in their order; 1 to ``MOST_TILES``.

    Raises:
        BadStack: it holds none or too many, or has more or fewer bytes than it says.
    """
    start = len(MAGIC) + 4
    if len(body) < start:
        raise BadStack(f"the stack ends after {len(body)} bytes, before it says how many tiles")
    (count,) = struct.unpack_from("!I", body, len(MAGIC))
    if not 1 <= count <= MOST_TILES:
        raise BadStack(f"found a stack of {count} tiles, expected 1 to {MOST_TILES}")
    if len(body) < start + 4 * count:
        raise BadStack(f"the stack ends within the lengths of its {count} tiles")
    lengths = struct.unpack_from(f"!{count}I", body, start)
    start += 4 * count
    if len(body) != start + sum(lengths):
        raise BadStack(
            f"the stack has {len(body) - start} bytes of tiles, but says that it has {sum(lengths)}"
        )
    tiles = []
    for length in lengths:
        tiles.append(body[start : start + length])
        start += length
    return tiles
