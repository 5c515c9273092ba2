import io

import pytest
from PIL import Image

from portal.png import encode


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (4, "RGBA")])
def test_what_is_written_can_be_read(channels: int, mode: str) -> None:
    rows = [bytes(range(i, i + 5 * channels)) for i in (0, 100)]
    with Image.open(io.BytesIO(encode(rows, channels))) as image:
        assert (image.size, image.mode) == ((5, 2), mode)
        assert image.tobytes() == b"".join(rows)
