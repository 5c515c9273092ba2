from portal.web.rendering.model_card import Block, parse_card
from tests.support.report_content import CARD


def test_a_card_becomes_blocks() -> None:
    assert parse_card(CARD) == [
        Block("heading", level=1, text="baseline 1.0"),
        Block(
            "paragraph",
            spans=(
                ("Ten classes, sha256 ", False),
                ("abc<b>", True),
                (". <script>alert(1)</script>", False),
            ),
        ),
        Block("heading", level=3, text="Classes"),
        Block("table", rows=(("class", "F1"), ("River", "66.67 %"))),
        Block("code", text="lr: 0.003\n\nepochs: 2"),
    ]


def test_a_table_keeps_its_empty_cells() -> None:
    assert parse_card("| | a |\n| --- | --- |\n| b | |")[0].rows == (("", "a"), ("b", ""))


def test_anything_is_a_card() -> None:
    assert parse_card("") == []
    assert parse_card("```\nnever closed") == [Block("code", text="never closed")]
    assert parse_card("|\n|") == [Block("table", rows=(("",),))]
