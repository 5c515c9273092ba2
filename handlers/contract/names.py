"""How a model, a version and a class may be called: names that join training, server and portal."""

import re
from dataclasses import dataclass

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
VERSION = re.compile(r"\d{1,9}\.\d{1,9}(\.\d{1,9})?", re.ASCII)
# Of a class, and of a folder of its tiles: letters of any script. Nothing that a path, a table, a
# terminal or the direction of a text would take for more than a name.
_NO_NAME = r"\x00-\x1f\x7f-\x9f/\\\u2028-\u202e\u2066-\u2069\ud800-\udfff"
LABEL = re.compile(
    rf"[^{_NO_NAME}\x20-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e\xa0]"
    rf"([^{_NO_NAME}]{{0,62}}[^{_NO_NAME}\x20\xa0])?"
)
MOST_LABELS = 100
# Of a tile: <Class>_<n>.jpg in EuroSAT and its lists, <Class>/<file> anywhere else.
TILE = re.compile(rf"({LABEL.pattern}/)?[^{_NO_NAME}.][^{_NO_NAME}]{{0,254}}")
# Where class folders lie, by the name of the folder around them; an earlier name is preferred.
LAYOUTS = ("2750", "EuroSAT_RGB", "EuroSAT", "train")
ZIPS = ("EuroSAT.zip", "EuroSAT_RGB.zip")  # as EuroSAT is downloaded
_SLUG = re.compile(rf"(?P<model>{MODEL_NAME.pattern})-(?P<version>{VERSION.pattern})", re.ASCII)


class BadName(ValueError):
    """A text that names no version of a model."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model: ordered by model, then by the numbers of the version (1.10 > 1.9).

    A model server may have versions of any name, hence only its class methods look at it: they
    raise BadName, with what was expected.
    """

    model: str
    version: str

    @classmethod
    def checked(cls, model: str, version: str) -> "ModelVersion":
        """The value, if both names are possible."""
        found = cls(model, version)
        if not MODEL_NAME.fullmatch(model):
            raise BadName("The model's name is not one that a model can have, such as baseline.")
        if not found.possible:
            raise BadName("The version is not one that a model can have, such as 1.0.")
        return found

    @classmethod
    def parse(cls, text: str) -> "ModelVersion":
        """Read the name of a run or a release: ``baseline-1.2``."""
        found = _SLUG.fullmatch(text)
        if found is None:
            raise BadName(f"expected <model>-<version>, such as baseline-1.0, found {text[:100]!r}")
        return cls(found["model"], found["version"])

    @classmethod
    def of_archive(cls, file: str) -> "ModelVersion":
        """Read the file name of an archive: ``baseline-1.2.mar``."""
        if not file.endswith(".mar"):
            raise BadName(
                f"expected <model>-<version>.mar, such as baseline-1.0.mar, found {file[:100]!r}"
            )
        return cls.parse(file.removesuffix(".mar"))

    @property
    def possible(self) -> bool:
        """Whether both names are such as a model and a version may have."""
        return bool(MODEL_NAME.fullmatch(self.model) and VERSION.fullmatch(self.version))

    @property
    def slug(self) -> str:
        """Name of its run and its release: ``baseline-1.2``."""
        return f"{self.model}-{self.version}"

    @property
    def archive(self) -> str:
        """File name of its archive: ``baseline-1.2.mar``."""
        return f"{self.slug}.mar"

    def __str__(self) -> str:
        return f"{self.model} {self.version}"

    def __lt__(self, other: "ModelVersion") -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[str, tuple[int, ...], str]:
        """A version that is no numbers comes before all that are."""
        numbers = self.version.split(".") if VERSION.fullmatch(self.version) else []
        return self.model, tuple(map(int, numbers)), self.version
