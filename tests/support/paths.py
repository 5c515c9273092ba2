"""Where the checkout is."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "portal" / "web" / "static" / "samples"  # one JPEG for each class
