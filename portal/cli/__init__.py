"""The portal's command line."""

from pathlib import Path

RUN_DIR = Path(__file__).resolve().parents[2] / ".run"  # of `make serve`
