"""Which archive answers on a command line."""

import argparse
from pathlib import Path

from handlers.contract.names import BadName, ModelVersion

MODEL_STORE = Path(__file__).resolve().parents[2] / "model_store"


def find_archive(store: Path, model: str, version: str | None) -> Path:
    """The archive of a version in a model store, or of the model's newest one.

    Raises:
        BadName: there is none.
    """
    names = []
    for path in store.glob("*.mar"):
        try:
            names.append(ModelVersion.of_archive(path.name))
        except BadName:
            continue
    wanted = [name for name in names if name.model == model and version in (None, name.version)]
    if not wanted:
        there = ", ".join(map(str, sorted(names))) or "none"
        raise BadName(
            f"{store} has no archive of {model} {version or ''}".rstrip()
            + f"; it has: {there}. Build one with `make archive`."
        )
    return store / max(wanted).archive


def count(text: str) -> int:
    """The argument of an option that counts processes."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)
