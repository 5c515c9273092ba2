"""What the portal can be told from outside: the ``PORTAL_*`` environment variables."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from portal.names import MODEL_NAME


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
        max_in_flight: predictions at the same time. It must stay below the number of gunicorn
            threads, so that health is answered while predictions wait.
        default_model: model that is asked when a request names none.
    """

    torchserve_inference: str = "http://127.0.0.1:8080"
    torchserve_management: str = "http://127.0.0.1:8081"
    torchserve_key_file: Path = Path("key_file.json")
    predict_timeout: float = 10.0
    max_upload_bytes: int = 5 * 1024 * 1024
    max_in_flight: int = 12
    default_model: str = "baseline"

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
            torchserve_key_file=Path(value("TORCHSERVE_KEY_FILE", cls.torchserve_key_file)),
            predict_timeout=_seconds(
                "PREDICT_TIMEOUT", value("PREDICT_TIMEOUT", cls.predict_timeout)
            ),
            max_upload_bytes=_count(
                "MAX_UPLOAD_BYTES", value("MAX_UPLOAD_BYTES", cls.max_upload_bytes)
            ),
            max_in_flight=_count("MAX_IN_FLIGHT", value("MAX_IN_FLIGHT", cls.max_in_flight)),
            default_model=_model("DEFAULT_MODEL", value("DEFAULT_MODEL", cls.default_model)),
        )


def _url(name: str, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadSetting(
            f"PORTAL_{name}: expected a URL such as http://127.0.0.1:8080, found {text!r}"
        )
    return text.rstrip("/")


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 600:
        raise BadSetting(f"PORTAL_{name}: expected seconds, above 0 and up to 600, found {text!r}")
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
