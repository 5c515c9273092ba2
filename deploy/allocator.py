"""Finds jemalloc, with which TorchServe is faster than with the C library's own allocator.

glibc takes the memory of large activations from the kernel and gives it back with every batch;
jemalloc keeps it, if it is told to: by default it gives back so much of what ResNet-18 needs in
fp32 that a tile takes 20 ms instead of 9 (one thread, 2-core virtual machine). In int8, a tile of a
batch of 16 takes 0.93 ms with it and 1.05 without. Where it is missing, nothing changes but that.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

PLACES = (
    *Path("/usr/lib").glob("*-linux-gnu/libjemalloc.so.2"),  # Debian and its kin
    Path("/usr/lib64/libjemalloc.so.2"),
    Path("/usr/lib/libjemalloc.so.2"),
)


OPTIONS = "dirty_decay_ms:-1"  # never give back what was free for a while


def preload(environ: Mapping[str, str], places: Iterable[Path] = PLACES) -> dict[str, str]:
    """The variables that make a program start with jemalloc, beside what is preloaded already.

    Options in ``MALLOC_CONF`` remain as they are.

    Returns:
        Nothing where it is not installed, or ``environ`` names an allocator with jemalloc in it.
    """
    given = environ.get("LD_PRELOAD", "")
    found = next((place for place in places if place.exists()), None)
    if found is None or "jemalloc" in given:
        return {}
    options = environ.get("MALLOC_CONF", OPTIONS)
    return {"LD_PRELOAD": f"{found} {given}".strip(), "MALLOC_CONF": options}
