from portal.stack import MOST_BYTES, MOST_TILES, split


def test_a_few_images_are_shared_out() -> None:
    assert split([b"x"] * 8, 4) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert split([b"x"] * 5, 4) == [[0, 1], [2, 3], [4]]
    assert split([b"x"], 4) == [[0]]
    assert split([], 4) == []


def test_many_images_fill_their_stacks() -> None:
    stacks = split([b"x"] * 200, 4)
    assert [len(stack) for stack in stacks] == [MOST_TILES] * 6 + [8]
    assert [place for stack in stacks for place in stack] == list(range(200))


def test_large_images_are_alone() -> None:
    large = bytes(MOST_BYTES + 1)
    assert split([b"x", large, b"y", large, b"z"], 1) == [[0, 2, 4], [1], [3]]
    assert split([bytes(MOST_BYTES)] * 2, 1) == [[0, 1]]
