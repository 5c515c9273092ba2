"""How far a command is, drawn where somebody looks on."""

import sys
import time

BAR = 30  # characters


class Bar:
    """A bar on the terminal; nothing is drawn into a file or a pipe.

    Args:
        things: what is counted, such as "windows".
    """

    def __init__(self, things: str) -> None:
        self._things = things
        self._started: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        """So many are done, of so many."""
        if not sys.stderr.isatty():
            return
        began, before = self._started = self._started or (time.monotonic(), done)
        left = ""
        if done > before:
            seconds = (time.monotonic() - began) / (done - before) * (total - done)
            left = f", {seconds:.0f} s left"
        full = BAR * done // max(total, 1)
        end = "\n" if done == total else ""
        bar = f"{'#' * full}{'.' * (BAR - full)}"
        sys.stderr.write(f"\r{bar} {done} of {total} {self._things}{left}   {end}")
        sys.stderr.flush()
