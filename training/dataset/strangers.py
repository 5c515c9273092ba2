"""Pictures that are no tile of EuroSAT, by kind, for measuring whether a model notices.

Far ones are drawn, or cut from the photographs that scikit-learn and matplotlib bring with them;
near ones are test tiles that were changed beyond what the model can know. The same seed gives the
same pictures.
"""

import random
from collections.abc import Callable, Iterator
from types import MappingProxyType

import numpy as np
from matplotlib import cbook
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

SIDE = 64  # px
EACH = 60  # pictures of a far kind

Pictures = np.ndarray  # uint8 (N, SIDE, SIDE, 3)


def photos(dice: random.Random) -> Iterator[Image.Image]:
    """Whole photographs, and parts of 64 to 384 px of them."""
    found = [Image.fromarray(image) for image in load_sample_images().images]
    portrait = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    found.append(Image.open(portrait).convert("RGB"))
    yield from found
    for number in range(EACH - len(found)):
        photo = found[number % len(found)]
        side = dice.choice((64, 128, 256, 384))
        left, top = dice.randrange(photo.width - side), dice.randrange(photo.height - side)
        yield photo.crop((left, top, left + side, top + side))


def screens(dice: random.Random) -> Iterator[Image.Image]:
    """Pages of text with a bar above, whole and in part."""
    for number in range(EACH):
        paper, ink = dice.choice((("white", "#222"), ("#202020", "#ddd"), ("#eef2f6", "#036")))
        page = Image.new("RGB", (800, 600), paper)
        draw = ImageDraw.Draw(page)
        for top in range(50, 590, 18):
            words = (
                "".join(dice.choices("etaoinshrdlu", k=dice.randrange(2, 9))) for _ in range(12)
            )
            draw.text((20, top), " ".join(words)[: dice.randrange(20, 100)], fill=ink)
        draw.rectangle((0, 0, 800, 40), fill=dice.choice(("#369", "#ccc", "#811")))
        yield page if number % 2 else page.crop((60, 20, 260, 220))


def plots(dice: random.Random) -> Iterator[Image.Image]:
    """Diagrams: lines, bars, dots and maps of numbers."""
    values = np.random.default_rng(dice.randrange(2**32))
    for number in range(EACH):
        figure = Figure(figsize=(4, 4))
        canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
        if number % 4 == 0:
            axes.plot(values.normal(size=(50, 3)).cumsum(axis=0))
        elif number % 4 == 1:
            axes.bar(range(8), values.random(8))
        elif number % 4 == 2:
            across, up = values.normal(size=(2, 200))
            axes.scatter(across, up, c=values.random(200))
        else:
            axes.imshow(values.normal(size=(20, 20)).cumsum(axis=0).cumsum(axis=1))
        canvas.draw()  # type: ignore[no-untyped-call]
        drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        yield Image.fromarray(drawn[..., :3])


def noise(dice: random.Random) -> Iterator[Image.Image]:
    """Noise of all colours, of grey, and around one colour."""
    values = np.random.default_rng(dice.randrange(2**32))
    for number in range(EACH):
        channels = 1 if number % 3 == 1 else 3
        if number % 3 == 2:
            spread = values.normal(0, dice.choice((5, 15, 30)), (SIDE, SIDE, 3))
            drawn = (values.integers(30, 226, 3) + spread).clip(0, 255)
        else:
            drawn = values.integers(0, 256, (SIDE, SIDE, channels)).repeat(4 - channels, axis=2)[
                ..., :3
            ]
        yield Image.fromarray(drawn.astype(np.uint8))


def gradients(dice: random.Random) -> Iterator[Image.Image]:
    """From one colour to another, in any direction, and nearly one colour."""
    values = np.random.default_rng(dice.randrange(2**32))
    down, across = np.mgrid[0:1:64j, 0:1:64j]
    for number in range(EACH):
        one, other = values.integers(0, 256, (2, 3))
        if number % 3 == 2:
            other = one + values.integers(-6, 7, 3)
        angle = values.random() * 2 * np.pi
        share = (np.cos(angle) * across + np.sin(angle) * down)[..., None]
        share = (share - share.min()) / (share.max() - share.min())
        yield Image.fromarray((one + share * (other - one)).clip(0, 255).astype(np.uint8))


FAR: MappingProxyType[str, Callable[[random.Random], Iterator[Image.Image]]] = MappingProxyType(
    {"photos": photos, "screens": screens, "plots": plots, "noise": noise, "gradients": gradients}
)


def draw(kind: str, seed: int = 0) -> Pictures:
    """The pictures of a far kind as the model sees them: squeezed to uint8 (N, 64, 64, 3)."""
    pictures = FAR[kind](random.Random(f"{kind}-{seed}"))
    small = (picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for picture in pictures)
    return np.stack([np.asarray(picture) for picture in small])


def clouded(tiles: Pictures) -> Pictures:
    """Thin cloud: towards white by 20 to 60 %, in soft patches."""
    dice = np.random.default_rng(0)
    out = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        coarse = Image.fromarray((dice.random((6, 6)) * 255).astype(np.uint8))
        soft = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) / 255
        share = (0.2 + 0.4 * soft)[..., None]
        out[number] = tile * (1 - share) + 240 * share
    return out


def grey(tiles: Pictures) -> Pictures:
    """One band in place of three."""
    return tiles.mean(axis=3, keepdims=True).astype(np.uint8).repeat(3, axis=3)


def swapped(tiles: Pictures) -> Pictures:
    """Blue, green, red."""
    return np.ascontiguousarray(tiles[..., ::-1])


def coarse(tiles: Pictures) -> Pictures:
    """20 m instead of 10: four tiles in one, halved."""
    four = [np.roll(tiles, shift, axis=0) for shift in range(4)]
    rows = np.concatenate(four[:2], axis=2), np.concatenate(four[2:], axis=2)
    whole = np.concatenate(rows, axis=1).astype(np.uint16)
    return (whole.reshape(len(tiles), SIDE, 2, SIDE, 2, 3).sum(axis=(2, 4)) // 4).astype(np.uint8)


def half_empty(tiles: Pictures) -> Pictures:
    """No data in two fifths, at one side."""
    out = tiles.copy()
    out[:, :, : 2 * SIDE // 5] = 0
    return out


NEAR: MappingProxyType[str, Callable[[Pictures], Pictures]] = MappingProxyType(
    {
        "thin cloud": clouded,
        "grey": grey,
        "bands swapped": swapped,
        "20 m": coarse,
        "two fifths empty": half_empty,
    }
)
