"""A model card's Markdown as blocks that a template can show.

Only what ``training/card.py`` writes is understood: headings, paragraphs with `code`, tables and
fenced code. Anything else stays text, and the template escapes all of it.
"""

import re
from dataclasses import dataclass
from typing import Literal

_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_HEADING = re.compile(r"(#{1,6}) +(.+)")


@dataclass(frozen=True)
class Block:
    """One block of the card; ``kind`` decides which of the others is used."""

    kind: Literal["heading", "paragraph", "code", "table"]
    level: int = 0  # of a heading, 1..6
    text: str = ""  # of a heading or of code
    spans: tuple[tuple[str, bool], ...] = ()  # of a paragraph: texts, each with whether it is code
    rows: tuple[tuple[str, ...], ...] = ()  # of a table; the first one is its head


def parse_card(markdown: str) -> list[Block]:
    """The blocks of a card; images are left out, as the page draws the same figures itself."""
    blocks = []
    for number, part in enumerate(re.split(r"^```.*$", markdown, flags=re.MULTILINE)):
        if number % 2:  # every second part stands between fences
            blocks.append(Block("code", text=part.strip("\n")))
        else:
            texts = map(str.strip, re.split(r"\n\s*\n", part))
            blocks += [_block(text) for text in texts if text and not _IMAGE.fullmatch(text)]
    return blocks


def _block(text: str) -> Block:
    if heading := _HEADING.fullmatch(text):
        return Block("heading", level=len(heading[1]), text=heading[2])
    lines = text.splitlines()
    if len(lines) >= 2 and all(line.startswith("|") for line in lines):
        return Block("table", rows=(_row(lines[0]), *(_row(line) for line in lines[2:])))
    pieces = text.split("`")
    return Block("paragraph", spans=tuple((piece, i % 2 == 1) for i, piece in enumerate(pieces)))


def _row(line: str) -> tuple[str, ...]:
    cells = line.strip().removeprefix("|").removesuffix("|").split("|")
    return tuple(map(str.strip, cells))
