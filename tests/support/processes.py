"""The processes that tests have started."""

import psutil


def running_children() -> list[psutil.Process]:
    """Of this process, and theirs; not those that have ended and were not waited for.

    Such a zombie, which any test before may have left, can be asked for nothing.
    """
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE
    ]
