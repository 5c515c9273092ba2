import pytest

from portal.web.uploads import media_type
from tests.support.paths import SAMPLES


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF87a", "image/gif"),
        (b"GIF89a", "image/gif"),
        (b"II*\x00", "image/tiff"),
        (b"MM\x00*", "image/tiff"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"BM", "image/bmp"),
        (b"", None),
        (b"\x89PNG", None),
        (b"RIFF\x10\x00\x00\x00AVI ", None),
        (b"\x00\x00\x01\x00", None),
    ],
)
def test_the_signature_decides(start: bytes, kind: str | None) -> None:
    assert media_type(start) == kind


def test_every_sample_is_a_jpeg() -> None:
    samples = SAMPLES
    found = sorted(samples.iterdir())
    assert len(found) == 10
    assert {media_type(path.read_bytes()) for path in found} == {"image/jpeg"}
