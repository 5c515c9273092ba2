"""What may be asked of a scene on a command line."""

import argparse

from handlers.contract.image_body import AUTO, LOOKS, SCALES
from portal.scenes.terms import STRIDES, Options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Let a command line take what ``options_of`` reads."""
    parser.add_argument("--stride", type=int, choices=STRIDES, help="px from window to window")
    parser.add_argument("--bands", type=_bands, metavar="R,G,B", help="such as 4,3,2, from 1")
    parser.add_argument("--scale", choices=SCALES, default=AUTO, help="of its values")
    parser.add_argument("--look", choices=LOOKS, default=AUTO, help="product that it is")
    parser.add_argument("--force", action="store_true", help="take pixels of 2 to 60 m")


def options_of(given: argparse.Namespace, model: str, version: str | None) -> Options:
    """What the command line says, for this version of a model."""
    return Options(model, version, given.stride, given.bands, given.scale, given.look, given.force)


def _bands(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected three numbers such as 4,3,2, found {text!r}"
        ) from None
    if min(red, green, blue) < 1:
        raise argparse.ArgumentTypeError("bands are counted from 1")
    return red, green, blue
