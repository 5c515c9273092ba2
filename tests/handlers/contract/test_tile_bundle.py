import struct

import pytest

from handlers.contract.tile_bundle import (
    LARGEST_BUNDLE,
    MAGIC,
    BadTileBundle,
    pack,
    unpack,
)
from handlers.reading import UnsupportedImage, read


def framed(count: int, lengths: list[int], rest: bytes) -> bytes:
    return MAGIC + struct.pack(f"!{len(lengths) + 1}I", count, *lengths) + rest


def test_a_bundle_has_its_tiles_in_their_order() -> None:
    body = framed(3, [2, 0, 3], b"abxyz")
    assert body.startswith(MAGIC)
    assert unpack(body) == [b"ab", b"", b"xyz"]
    assert len(unpack(framed(LARGEST_BUNDLE, [0] * LARGEST_BUNDLE, b""))) == LARGEST_BUNDLE


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (MAGIC, "before it says how many"),
        (MAGIC + b"\0\0\0", "before it says how many"),
        (framed(0, [], b""), "0 tiles"),
        (framed(LARGEST_BUNDLE + 1, [0] * (LARGEST_BUNDLE + 1), b""), "expected 1 to 128"),
        (framed(2**32 - 1, [], b""), "4294967295 tiles"),
        (framed(2, [1], b""), "within the lengths"),
        (framed(2, [1, 2], b"ab"), "has 2 bytes of tiles, but says that it has 3"),
        (framed(2, [1, 2], b"abcd"), "has 4 bytes"),
        (framed(2, [1, 2**32 - 1], b"abcd"), "says that it has 4294967296"),
    ],
)
def test_what_is_cut_off_or_lies_is_no_bundle(body: bytes, words: str) -> None:
    assert body.startswith(MAGIC)
    with pytest.raises(BadTileBundle, match=words):
        unpack(body)


def test_no_image_is_taken_for_a_bundle() -> None:
    with pytest.raises(UnsupportedImage):
        read(framed(1, [3], b"abc"))


def test_what_is_packed_can_be_unpacked() -> None:
    images = [b"", b"one", bytes(range(256)) * 99, MAGIC]
    body = pack(images)
    assert body.startswith(MAGIC)
    assert unpack(body) == images
    assert unpack(pack([b"x"])) == [b"x"]
