"""What the portal can be told from outside: the ``PORTAL_*`` environment variables."""

import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, SecretStr, ValidationError

from handlers.contract.names import MODEL_NAME, VERSION
from portal.credentials import PASSWORD_HASH, TOKEN_HASH


class BadSetting(ValueError):
    """A ``PORTAL_*`` variable has a value that cannot be used."""


def _check(expected: str, read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What ``read`` makes of a value, unless it is None or a ValueError; no secret is repeated."""

    def check(value: Any) -> Any:
        with suppress(ValueError):
            if (found := read(value)) is not None:
                return found
        secret = isinstance(value, SecretStr)
        shown = f"something else of {len(value)} characters" if secret else repr(str(value))
        raise ValueError(f"expected {expected}, found {shown}")

    return check


def _form(pattern: str, expected: str) -> AfterValidator:
    def read(value: str | SecretStr) -> str | SecretStr | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return value if re.fullmatch(pattern, text, re.ASCII) else None

    return AfterValidator(_check(expected, read))


def _seconds(most: float) -> BeforeValidator:
    def read(value: Any) -> float | None:
        return seconds if 0 < (seconds := float(value)) <= most else None

    return BeforeValidator(_check(f"seconds, above 0 and up to {most:g}", read))


def _count(value: Any) -> int | None:
    return int(value) if re.fullmatch(r"[0-9]+", str(value)) and int(value) > 0 else None


def _flag(value: Any) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower())


def _url(text: str) -> str | None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        return None
    return text.rstrip("/")


def _parts(separator: str) -> BeforeValidator:
    def split(value: Any) -> Any:
        return list(filter(None, re.split(separator, value))) if isinstance(value, str) else value

    return BeforeValidator(split)


def _tiles(path: Path) -> Path | None:
    path = path.expanduser()
    return path if path.is_dir() or zipfile.is_zipfile(path) else None


def _database(url: SecretStr) -> SecretStr | None:
    scheme, separator, rest = url.get_secret_value().partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"  # the driver that this product is tested with
    if scheme not in ("sqlite", "postgresql+psycopg") or not separator or not rest.strip("/"):
        return None
    return SecretStr(f"{scheme}://{rest}")


DATABASES = "sqlite:////absolute/path/portal.db or postgresql://user:password@host/database"
LAZY = rf"{MODEL_NAME.pattern}(-{VERSION.pattern})?"
HOST = r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]"
HOSTS = "names without scheme and port, such as landuse.example.org, separated by commas"

Url = Annotated[str, AfterValidator(_check("a URL such as http://127.0.0.1:8080", _url))]
Seconds = Annotated[float, _seconds(600)]
PositiveCount = Annotated[int, BeforeValidator(_check("a whole number above 0", _count))]
Flag = Annotated[bool, BeforeValidator(_check("true or false", _flag))]
Model = Annotated[
    str, _form(MODEL_NAME.pattern, f"a model name such as baseline ({MODEL_NAME.pattern})")
]
Host = Annotated[str, _form(HOST, HOSTS)]
Lazy = Annotated[str, _form(LAZY, "models or versions such as resnet18,vit-1.0")]
PasswordHash = Annotated[
    SecretStr,
    _form(PASSWORD_HASH.pattern, "the scrypt hash of a password, as `make password` writes it"),
]
TokenHash = Annotated[
    SecretStr, _form(TOKEN_HASH.pattern, "the SHA-256 of a token, as `make token` writes it")
]
SecretKey = Annotated[SecretStr, _form(".{32,}", "32 or more random characters")]
Tiles = Annotated[Path, AfterValidator(_check("a folder or a zip of tiles", _tiles))]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check(DATABASES, _database))]


class Settings(
    BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
):
    """The portal's settings; each is told by the variable ``PORTAL_<NAME OF THE FIELD>``."""

    torchserve_inference: Url = "http://127.0.0.1:8080"
    """URL of TorchServe's inference API."""
    torchserve_management: Url = "http://127.0.0.1:8081"
    """URL of TorchServe's management API."""
    torchserve_metrics: Url = "http://127.0.0.1:8082"
    """URL of TorchServe's metrics API."""
    torchserve_key_file: Path = Path("key_file.json")
    """File in which TorchServe writes its keys at each start."""
    torchserve_model_log: Path | None = None
    """Log of TorchServe's handlers: why a deploy failed; none: it is only said that they crash."""
    predict_timeout: Seconds = 10
    """Seconds a prediction may take in all, a retry included."""
    max_upload_bytes: PositiveCount = 5 * 1024 * 1024
    """Largest image that is taken; TorchServe itself takes 6,553,500 bytes."""
    max_in_flight: PositiveCount = 256  # fewer than gunicorn's threads: health answers meanwhile
    """Predictions that wait or are under way at the same time; more are refused."""
    max_batch_bytes: PositiveCount = 32 * 1024 * 1024
    """Largest body of a batch, all its images together."""
    batch_timeout: Seconds = 60
    """Seconds a whole batch may take."""
    default_model: Model = "baseline"
    """Model that is asked when a request names none."""
    reports_dir: Path = Path("training/releases")
    """Folder of the released models, each with its report."""
    tiles_dir: Tiles | None = None
    """The tiles of reports: a folder with (2750/)<Class>/<file>, or the zip; none: names only."""
    password_hash: PasswordHash | None = None
    """Scrypt hash of the operator's password, as werkzeug writes it."""
    password_file: Path | None = None
    """File with that hash, read where there is no password_hash."""
    token_hash: TokenHash | None = None
    """SHA-256 of the token for scripts, 64 hexadecimal digits."""
    token_file: Path | None = None
    """File with that hash, read where there is no token_hash."""
    secret_key: SecretKey | None = None
    """Signs the sessions; none: a new key at each start, so that a start ends them."""
    cookie_secure: Flag = False
    """Whether the session's cookie travels over HTTPS only."""
    public: Flag = True
    """Whether reading and predicting need no login."""
    allowed_hosts: Annotated[tuple[Host, ...], _parts(r"[,\s]+")] = ()
    """Names of the portal beside those of the loopback, .example.org with all below; none: IPs."""
    database_url: DatabaseUrl = SecretStr("sqlite:///.run/portal.db")
    """Where deployments and the audit are kept: sqlite:///<file> or postgresql://..."""
    model_store: Path = Path("model_store")
    """TorchServe's folder of archives; uploads go there."""
    max_archive_bytes: PositiveCount = 512 * 1024 * 1024
    """Largest archive that is taken."""
    lazy: Annotated[frozenset[Lazy], _parts(r"\s*,\s*")] = frozenset()
    """Models, or versions as <model>-<version>, that have workers only while somebody asks them."""
    lazy_idle: Annotated[float, _seconds(7 * 24 * 3600)] = 600
    """Seconds without a prediction after which such a version loses its workers."""
    scenes_dir: Path = Path(".run/scenes")
    """Folder of the scenes that were sent, and of their maps."""
    max_scene_bytes: PositiveCount = 1024 * 1024 * 1024
    """Largest scene that is taken."""
    scenes_kept_bytes: PositiveCount = 5 * 1024 * 1024 * 1024
    """Largest size of that folder; the oldest scenes that have ended make room."""
    scenes_kept_days: PositiveCount = 7
    """Days after which a scene that has ended is forgotten."""
    scenes_public: Flag = False
    """Whether everybody sees every scene, and not only those that were sent by the same browser."""
    max_scenes_queued: PositiveCount = 20
    """Scenes that wait for their turn; more are refused."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the ``PORTAL_*`` variables; one that is absent or empty keeps its default.

        Raises:
            BadSetting: with the variable's name, what was found and what was expected.
        """
        texts = {
            name: text
            for name in cls.model_fields
            if (text := environment.get(f"PORTAL_{name.upper()}", "").strip())
        }
        try:
            return cls.model_validate(texts)
        except ValidationError as refused:
            error = refused.errors()[0]
        raise BadSetting(f"PORTAL_{str(error['loc'][0]).upper()}: {error['ctx']['error']}")
