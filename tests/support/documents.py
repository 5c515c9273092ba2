"""The READMEs of the product, and what becomes of each shell command in them when it is tested."""

import re
from dataclasses import dataclass
from enum import Enum

from tests.support.paths import ROOT

# Each with the most lines that it may have.
DOCUMENTS = {
    "README.md": 150,
    "deploy/README.md": 190,
    "portal/README.md": 220,
    "training/README.md": 251,
    "tests/bench/README.md": 120,
    "training/releases/README.md": 40,
}
URL = "http://127.0.0.1:8000"  # of the portal, in the commands


class Way(Enum):
    """How a documented command is tested."""

    PRODUCT = "against the running product, each by itself"
    MANAGED = "against a product whose models are managed, one after the other"
    BY_HAND = "with a TorchServe that the commands themselves start and end"
    OFFLINE = "in a copy of the checkout, one after the other"
    NOT_RUN = "cannot run in a test; its options are checked"


# The first rule that finds its pattern at the beginning of a command says how it is tested.
_RULES = (
    (r"make (serve|stop|password|token|deploy|rollback)\b", Way.MANAGED),
    (r"export PORTAL_TOKEN=|curl .*\$PORTAL_TOKEN\b", Way.MANAGED),
    (r"export JAVA_HOME=|\.venv/bin/torchserve |key\(\) \{|curl .*\$\(key \w+\)", Way.BY_HAND),
    (rf"curl .*{re.escape(URL)}/", Way.PRODUCT),
    (r"make (archive|predict|release)\b|\.venv/bin/python -m training\.archive\b", Way.OFFLINE),
)
# What no rule finds must stand here, with the reason.
NOT_RUN = {
    r"make test$": "runs this very test",
    r"make (data|train|export|evaluate)\b": "needs all 27,000 tiles, and up to hours",
    r"\.venv/bin/python -m training\.(average|requantize|scenes)\b": "needs all tiles and runs",
    r"\.venv/bin/python -m training\.mining\b": "needs all tiles and a trained run",
    r"\.venv/bin/python -m training\.(pretrain|probe)\b": "needs all tiles, and up to hours",
    r"\.venv/bin/torchrun\b": "needs all 27,000 tiles; tests/training/test_distributed.py runs it",
    r"\.venv/bin/python -m training\.latency$": "measures; needs a machine that does nothing else",
    r"\.venv/bin/tensorboard\b": "shows curves until it is ended",
    r"make bench\b": "measures for ten minutes; needs all tiles, and an idle machine",
    r"\.venv/bin/python -m tests\.bench\.scenes\b": "measures for ten minutes as well",
    r"\.venv/bin/python -m tests\.bench\.mosaics\b": "needs all tiles, and half an hour",
    r"make image$": "needs a container engine, and downloads gigabytes",
    r"make scenes\b": "needs a folder of scenes",
    r"\.venv/bin/python -m dask\b": "is a cluster until it is ended",
    r"docker run\b": "needs a container engine and the image",
}


@dataclass(frozen=True)
class Command:
    """One command of a README, its lines joined, without its comment."""

    document: str
    text: str

    @property
    def way(self) -> Way:
        """How it is tested; ValueError where nobody said that."""
        for pattern, way in _RULES:
            if re.match(pattern, self.text):
                return way
        if any(re.match(pattern, self.text) for pattern in NOT_RUN):
            return Way.NOT_RUN
        raise ValueError(
            f"{self.document}: no rule runs `{self.text}`, and NOT_RUN gives no reason why not"
        )

    def __str__(self) -> str:
        return f"{self.document}: {self.text}"


def read(document: str) -> str:
    """A README's text."""
    return (ROOT / document).read_text()


def fenced(markdown: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    found: list[str] = re.findall(
        rf"^```{language}\n(.*?)^```", markdown, flags=re.MULTILINE | re.DOTALL
    )
    return found


def commands_in(document: str, markdown: str) -> list[Command]:
    """The commands of a README's ``sh`` blocks, in order."""
    lines = "".join(fenced(markdown, "sh")).replace("\\\n", " ").splitlines()
    texts = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [Command(document, re.sub(r"\s+", " ", text)) for text in texts if text]


COMMANDS = [command for name in DOCUMENTS for command in commands_in(name, read(name))]


def commands_to(way: Way) -> list[Command]:
    """The commands tested in a way, in order."""
    return [command for command in COMMANDS if command.way is way]
