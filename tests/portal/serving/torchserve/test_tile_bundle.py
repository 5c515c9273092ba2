from portal.serving.torchserve.tile_bundle import (
    LEAST_TILES,
    MOST_BYTES,
    MOST_TILES,
    STACK_BYTES,
    split,
)


def test_a_few_images_stay_together() -> None:
    assert split([b"x"] * 8, 4) == [list(range(8))]
    assert split([b"x"], 4) == [[0]]
    assert split([], 4) == []
    assert [len(stack) for stack in split([b"x"] * 20, 4)] == [LEAST_TILES, LEAST_TILES, 4]


def test_more_are_shared_out() -> None:
    stacks = split([b"x"] * 129, 4)
    assert [len(stack) for stack in stacks] == [33, 33, 33, 30]
    assert [place for stack in stacks for place in stack] == list(range(129))


def test_many_images_fill_their_stacks() -> None:
    stacks = split([b"x"] * 300, 2)
    assert [len(stack) for stack in stacks] == [MOST_TILES] * 2 + [300 - 2 * MOST_TILES]
    assert [place for stack in stacks for place in stack] == list(range(300))


def test_a_stack_of_heavy_images_has_fewer() -> None:
    heavy = bytes(MOST_BYTES)
    together = STACK_BYTES // MOST_BYTES
    stacks = split([heavy] * 100, 1)
    assert [len(stack) for stack in stacks] == [together, 100 - together]
    assert [place for stack in stacks for place in stack] == list(range(100))


def test_large_images_are_alone() -> None:
    large = bytes(MOST_BYTES + 1)
    assert split([b"x", large, b"y", large, b"z"], 1) == [[0, 2, 4], [1], [3]]
    assert split([bytes(MOST_BYTES)] * 2, 1) == [[0, 1]]
