"""What proves that someone may manage: the hash of a password, the hash of a token.

Both stand in the environment or in a file that ``make password`` and ``make token`` write. Neither
the password nor the token is kept anywhere.
"""

import hashlib
import hmac
import logging
import re
import threading
from pathlib import Path

from werkzeug.security import check_password_hash

from portal.settings import PASSWORD_HASH, TOKEN_HASH, Settings

log = logging.getLogger("portal.credentials")


class Credentials:
    """The hashes as they are now: a file is read again when it has changed."""

    def __init__(self, settings: Settings) -> None:
        self._password = _Hash(settings.password_hash, settings.password_file, PASSWORD_HASH)
        self._token = _Hash(settings.token_hash, settings.token_file, TOKEN_HASH)
        self._one_at_a_time = threading.Lock()

    @property
    def any(self) -> bool:
        """Whether anyone can prove that they may manage; without it management is off."""
        return self.has_password or self._token.value is not None

    @property
    def has_password(self) -> bool:
        """Whether there is a login."""
        return self._password.value is not None

    @property
    def password_mark(self) -> str:
        """Changes with the password, so that a new one ends the sessions of the old; no secret."""
        return hashlib.sha256((self._password.value or "").encode()).hexdigest()[:16]

    def is_password(self, offered: str) -> bool:
        """Whether this is the password; takes about 60 ms, and one caller at a time.

        A guess costs 32 MB of memory: many at once must not starve the predictions.
        """
        known = self._password.value
        if known is None:
            return False
        with self._one_at_a_time:
            return check_password_hash(known, offered)

    def is_token(self, offered: str) -> bool:
        """Whether this is the token."""
        known = self._token.value
        return known is not None and hmac.compare_digest(token_hash(offered), known)


def token_hash(token: str) -> str:
    """The hash of a token, in hexadecimal digits.

    A token is 256 random bits, which nobody can guess; so its hash may be fast, unlike a password's
    that every call of a script would wait for.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class _Hash:
    """A hash from a setting or, without one, the content of a file."""

    def __init__(self, fixed: str | None, path: Path | None, form: re.Pattern[str]) -> None:
        self._value = fixed
        self._path = path if fixed is None else None
        self._form = form
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None

    @property
    def value(self) -> str | None:
        """The hash; None without one, or without one that can be used."""
        if self._path is None:
            return self._value
        with self._lock:
            try:
                status = self._path.stat()
            except OSError:
                self._value = self._stamp = None
                return None
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                self._value, self._stamp = self._read(self._path), stamp
            return self._value

    def _read(self, path: Path) -> str | None:
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read: %s", path, type(error).__name__)
            return None
        if not self._form.fullmatch(text):
            log.warning("%s holds no hash as `make password` and `make token` write them", path)
            return None
        return text
