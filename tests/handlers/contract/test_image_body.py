import base64

import pytest

from handlers.contract.image_body import LOOKS, MAGIC, SCALES, undo_base64, unwrap, wrap


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("look", LOOKS)
def test_what_is_known_travels_with_the_image(scale: str, look: str) -> None:
    image = b"\xff\xd8 any\n bytes \0"
    assert unwrap(wrap(image, scale, look)) == (image, scale, look)


def test_an_image_of_which_nothing_is_known_travels_alone() -> None:
    """Older versions know no other body."""
    assert wrap(b"image") == b"image"
    assert unwrap(b"image") == (b"image", "auto", "auto")


@pytest.mark.parametrize(
    "line", [b"", b"10000", b"10000 l2a", b"2 l2a\n", b"auto eurosat2\n", b"\xff \xff\n", b"\n"]
)
def test_a_line_that_names_no_scale_and_look_is_refused(line: bytes) -> None:
    if line == b"10000 l2a":  # without an image behind it
        assert unwrap(MAGIC + line) == (b"", "10000", "l2a")
        return
    with pytest.raises(ValueError, match="found scale"):
        unwrap(MAGIC + line)


@pytest.mark.parametrize("start", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n", b"II*\0", b"GIF89a"])
def test_base64_is_undone_and_other_bytes_are_not(start: bytes) -> None:
    image = start + bytes(range(256))
    text = base64.b64encode(image)
    assert undo_base64(text) == image
    assert undo_base64(b"data:image/png;base64," + text) == image
    assert undo_base64(b"\r\n ".join((text[:40], text[40:99], text[99:]))) == image
    assert undo_base64(image) == image
    assert undo_base64(text[:-3]) == text[:-3]
