"""The portal packs stacks, the handler unpacks them: two files that may not import each other."""

from handlers import stack as read
from portal.serving.torchserve import tile_bundle as written


def test_what_the_portal_packs_the_handler_unpacks() -> None:
    images = [b"", b"one", bytes(range(256)) * 99, written.MAGIC]
    body = written.pack(images)
    assert read.is_stack(body)
    assert read.unpack(body) == images
    assert read.unpack(written.pack([b"x"])) == [b"x"]


def test_the_largest_stack_of_the_portal_is_taken() -> None:
    assert len(read.unpack(written.pack([b"x"] * written.MOST_TILES))) == written.MOST_TILES
    heavy = [bytes(written.MOST_BYTES)] * written.MOST_TILES
    largest = [heavy[place] for place in written.split(heavy, 1)[0]]
    assert 4_000_000 < len(written.pack(largest)) < 6_553_500  # TorchServe's max_request_size
