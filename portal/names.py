"""How a model and a version may be called; the pair joins run, archive, report and server."""

import re

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
VERSION = re.compile(r"\d+\.\d+(\.\d+)?", re.ASCII)
