"""The body that carries one image: its bytes, base64, or its bytes behind what is known of them.

``MAGIC``, then scale and look with a space between and a line's end, then the encoded image. No
image begins as it does.
"""

import base64
import binascii

MAGIC = b"\0image1\n"
# What the values of an image of more than 8 bits may be: handlers.radiometry says what each means.
SCALES = ("auto", "1", "1000", "10000", "10000-offset", "65535", "unit", "255", "high-byte")
LOOKS = ("auto", "eurosat", "l1c", "l2a", "tci", "gain25")
AUTO = "auto"
_IN_BASE64 = (b"/9j/", b"iVBOR", b"R0lGOD", b"SUkq", b"SUkr", b"TU0A", b"UklGR", b"Qk", b"AAAA")


def wrap(image: bytes, scale: str = AUTO, look: str = AUTO) -> bytes:
    """The body for an image of which that is known; the image itself if nothing is."""
    if scale == look == AUTO:
        return image
    return MAGIC + f"{scale} {look}\n".encode("ascii") + image


def unwrap(body: bytes) -> tuple[bytes, str, str]:
    """Image, scale and look.

    Raises:
        ValueError: a scale or look that is none.
    """
    if not body.startswith(MAGIC):
        return body, AUTO, AUTO
    line, _, image = body[len(MAGIC) :].partition(b"\n")
    scale, _, look = line.decode("latin-1").partition(" ")
    if scale not in SCALES or look not in LOOKS:
        raise ValueError(f"found scale {scale!r} and look {look!r}, which are none")
    return image, scale, look


def undo_base64(data: bytes) -> bytes:
    """What stands in base64, with or without the head of a data URL; other bytes as they are."""
    if data.startswith(b"data:"):
        text = data.partition(b",")[2]
    elif data.startswith(_IN_BASE64):
        text = data
    else:
        return data
    try:
        return base64.b64decode(text.translate(None, b" \t\r\n"), validate=True)
    except binascii.Error:
        return data
