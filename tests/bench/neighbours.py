"""EuroSAT's tiles that lie side by side: pieces of scenes of which the truth is known."""

from training.dataset.neighbours import Zone

Quad = tuple[str, str, str, str]  # upper left, upper right, lower left, lower right
Group = dict[tuple[int, int], str]  # from row and column in the grid, both from 0, to a tile


def quads(zones: list[Zone]) -> list[Quad]:
    """All four tiles that meet in a corner."""
    found = []
    for zone in zones:
        for tile in range(len(zone.names)):
            places = [zone.at(tile, down, right) for down in (0, 1) for right in (0, 1)]
            if None not in places:
                found.append(tuple(zone.names[place] for place in places if place is not None))
    return found  # type: ignore[return-value]


def groups(zones: list[Zone]) -> list[Group]:
    """All tiles, with those that hang together by their sides in one group."""
    found = []
    for zone in zones:
        left = set(range(len(zone.names)))
        while left:
            first = min(left)
            left.remove(first)
            places, todo = {(0, 0): first}, [(0, 0)]
            while todo:
                row, column = todo.pop()
                for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    near = zone.at(places[row, column], down, right)
                    if near in left:
                        left.remove(near)
                        places[row + down, column + right] = near
                        todo.append((row + down, column + right))
            top, start = (min(ends) for ends in zip(*places, strict=True))
            found.append(
                {(row - top, col - start): zone.names[one] for (row, col), one in places.items()}
            )
    return found
