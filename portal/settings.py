"""What the portal can be told from outside: the ``PORTAL_*`` environment variables."""

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from handlers.contract.names import MODEL_NAME, VERSION
from portal.credentials import PASSWORD_HASH, TOKEN_HASH

SECRET_KEY = re.compile(r".{32,}")
HOST = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]", re.ASCII)


class BadSetting(ValueError):
    """A ``PORTAL_*`` variable has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """The portal's settings.

    Attributes:
        torchserve_inference: URL of TorchServe's inference API.
        torchserve_management: URL of TorchServe's management API.
        torchserve_key_file: file in which TorchServe writes its keys at each start.
        predict_timeout: seconds a prediction may take in all, a retry included.
        max_upload_bytes: largest image accepted; TorchServe itself accepts 6,553,500 bytes.
        max_in_flight: predictions that wait or are under way at the same time; more are refused.
            It must stay below the number of gunicorn threads, so that health is answered while
            predictions wait.
        max_batch_bytes: largest body of a batch, all its images together.
        batch_timeout: seconds a whole batch may take.
        default_model: model that is asked when a request names none.
        reports_dir: folder of the released models, each with its report.
        tiles: the EuroSAT tiles that reports name: a folder with ``2750/<Class>/<file>``, or the
            zip with the same inside. None: reports show file names only.
        torchserve_metrics: URL of TorchServe's metrics API.
        torchserve_model_log: the log of TorchServe's handlers, read when a deploy fails. None: its
            reason then only says that the worker crashes.
        password_hash: scrypt hash of the operator's password, as werkzeug writes it.
        password_file: file with that hash, read where password_hash is None.
        token_hash: SHA-256 of the token for scripts, 64 hexadecimal digits.
        token_file: file with that hash, read where token_hash is None.
        secret_key: signs the sessions. None: a new key at each start, so that a start ends them.
        cookie_secure: the session's cookie travels over HTTPS only.
        public: reading and predicting need no login.
        allowed_hosts: names under which browsers reach the portal, beside those of the loopback;
            ".example.org" means its subdomains too. Empty: IP addresses as well.
        database_url: where deployments and the audit are kept: ``sqlite:///<file>`` or
            ``postgresql://...``. It may hold a password and is never shown.
        model_store: TorchServe's folder of archives; uploads go there.
        max_archive_bytes: largest archive that is taken.
        lazy: models, or versions as ``<model>-<version>``, that have workers only while somebody
            asks them.
        lazy_idle: seconds without a prediction after which such a version loses its workers.
    """

    torchserve_inference: str = "http://127.0.0.1:8080"
    torchserve_management: str = "http://127.0.0.1:8081"
    torchserve_key_file: Path = Path("key_file.json")
    predict_timeout: float = 10.0
    max_upload_bytes: int = 5 * 1024 * 1024
    max_in_flight: int = 256
    max_batch_bytes: int = 32 * 1024 * 1024
    batch_timeout: float = 60.0
    default_model: str = "baseline"
    reports_dir: Path = Path("training/releases")
    tiles: Path | None = None
    torchserve_metrics: str = "http://127.0.0.1:8082"
    torchserve_model_log: Path | None = None
    password_hash: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    token_hash: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    secret_key: str | None = field(default=None, repr=False)
    cookie_secure: bool = False
    public: bool = True
    allowed_hosts: tuple[str, ...] = ()
    database_url: str = field(default="sqlite:///.run/portal.db", repr=False)
    model_store: Path = Path("model_store")
    max_archive_bytes: int = 512 * 1024 * 1024
    lazy: frozenset[str] = frozenset()
    lazy_idle: float = 600.0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the ``PORTAL_*`` variables; one that is absent or empty keeps its default.

        Raises:
            BadSetting: with the variable's name, what was found and what was expected.
        """

        def value(name: str, default: object) -> str:
            return environment.get(f"PORTAL_{name}", "").strip() or str(default)

        return cls(
            torchserve_inference=_url(
                "TORCHSERVE_INFERENCE", value("TORCHSERVE_INFERENCE", cls.torchserve_inference)
            ),
            torchserve_management=_url(
                "TORCHSERVE_MANAGEMENT", value("TORCHSERVE_MANAGEMENT", cls.torchserve_management)
            ),
            torchserve_metrics=_url(
                "TORCHSERVE_METRICS", value("TORCHSERVE_METRICS", cls.torchserve_metrics)
            ),
            torchserve_key_file=Path(value("TORCHSERVE_KEY_FILE", cls.torchserve_key_file)),
            torchserve_model_log=_file(value("TORCHSERVE_MODEL_LOG", "")),
            predict_timeout=_seconds(
                "PREDICT_TIMEOUT", value("PREDICT_TIMEOUT", cls.predict_timeout)
            ),
            max_upload_bytes=_count(
                "MAX_UPLOAD_BYTES", value("MAX_UPLOAD_BYTES", cls.max_upload_bytes)
            ),
            max_in_flight=_count("MAX_IN_FLIGHT", value("MAX_IN_FLIGHT", cls.max_in_flight)),
            max_batch_bytes=_count(
                "MAX_BATCH_BYTES", value("MAX_BATCH_BYTES", cls.max_batch_bytes)
            ),
            batch_timeout=_seconds("BATCH_TIMEOUT", value("BATCH_TIMEOUT", cls.batch_timeout)),
            default_model=_model("DEFAULT_MODEL", value("DEFAULT_MODEL", cls.default_model)),
            reports_dir=Path(value("REPORTS_DIR", cls.reports_dir)),
            tiles=_tiles("TILES_DIR", value("TILES_DIR", "")),
            password_hash=_secret(
                "PASSWORD_HASH",
                value("PASSWORD_HASH", ""),
                PASSWORD_HASH,
                "the scrypt hash of a password, as `make password` writes it",
            ),
            password_file=_file(value("PASSWORD_FILE", "")),
            token_hash=_secret(
                "TOKEN_HASH",
                value("TOKEN_HASH", ""),
                TOKEN_HASH,
                "the SHA-256 of a token, as `make token` writes it",
            ),
            token_file=_file(value("TOKEN_FILE", "")),
            secret_key=_secret(
                "SECRET_KEY", value("SECRET_KEY", ""), SECRET_KEY, "32 or more random characters"
            ),
            cookie_secure=_flag("COOKIE_SECURE", value("COOKIE_SECURE", "false")),
            public=_flag("PUBLIC", value("PUBLIC", "true")),
            allowed_hosts=_hosts("ALLOWED_HOSTS", value("ALLOWED_HOSTS", "")),
            database_url=_database("DATABASE_URL", value("DATABASE_URL", cls().database_url)),
            model_store=Path(value("MODEL_STORE", cls.model_store)),
            max_archive_bytes=_count(
                "MAX_ARCHIVE_BYTES", value("MAX_ARCHIVE_BYTES", cls.max_archive_bytes)
            ),
            lazy=_lazy("LAZY", value("LAZY", "")),
            lazy_idle=_seconds("LAZY_IDLE", value("LAZY_IDLE", cls.lazy_idle), 7 * 24 * 3600),
        )


def _url(name: str, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadSetting(
            f"PORTAL_{name}: expected a URL such as http://127.0.0.1:8080, found {text!r}"
        )
    return text.rstrip("/")


def _seconds(name: str, text: str, most: float = 600) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= most:
        raise BadSetting(
            f"PORTAL_{name}: expected seconds, above 0 and up to {most:g}, found {text!r}"
        )
    return seconds


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise BadSetting(f"PORTAL_{name}: expected a whole number above 0, found {text!r}")
    return int(text)


def _model(name: str, text: str) -> str:
    if not MODEL_NAME.fullmatch(text):
        raise BadSetting(
            f"PORTAL_{name}: expected a model name such as baseline "
            f"({MODEL_NAME.pattern}), found {text!r}"
        )
    return text


def _tiles(name: str, text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    if not (path.is_dir() or zipfile.is_zipfile(path)):
        raise BadSetting(f"PORTAL_{name}: expected a folder or a zip of tiles, found {text!r}")
    return path


def _secret(name: str, text: str, form: re.Pattern[str], expected: str) -> str | None:
    """A secret, which no message may repeat."""
    if not text:
        return None
    if not form.fullmatch(text):
        raise BadSetting(
            f"PORTAL_{name}: expected {expected}, found something else of {len(text)} characters"
        )
    return text


def _file(text: str) -> Path | None:
    return Path(text) if text else None


def _flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadSetting(f"PORTAL_{name}: expected true or false, found {text!r}")
    return text.lower() == "true"


def _hosts(name: str, text: str) -> tuple[str, ...]:
    hosts = tuple(text.replace(",", " ").split())
    for host in hosts:
        if not HOST.fullmatch(host):
            raise BadSetting(
                f"PORTAL_{name}: expected names without scheme and port, such as "
                f"landuse.example.org, separated by commas, found {host!r}"
            )
    return hosts


def _database(name: str, text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"  # the driver that this product is tested with
    if scheme not in ("sqlite", "postgresql+psycopg") or not separator or not rest.strip("/"):
        # the value itself may hold a password
        raise BadSetting(
            f"PORTAL_{name}: expected sqlite:////absolute/path/portal.db or "
            f"postgresql://user:password@host/database, found another one ({len(text)} characters)"
        )
    return f"{scheme}://{rest}"


def _lazy(name: str, text: str) -> frozenset[str]:
    entries = frozenset(entry.strip() for entry in text.split(",") if entry.strip())
    for entry in entries:
        model, _, version = entry.rpartition("-")
        whole = MODEL_NAME.fullmatch(model) and VERSION.fullmatch(version)
        if not whole and not MODEL_NAME.fullmatch(entry):
            raise BadSetting(
                f"PORTAL_{name}: expected models or versions such as resnet18,vit-1.0, "
                f"found {entry!r}"
            )
    return entries
