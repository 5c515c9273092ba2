"""What proves that someone may manage: the hash of a password, the hash of a token.

Both stand in the environment or in a file that ``make password`` and ``make token`` write. Neither
the password nor the token is kept anywhere.
"""

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from portal.files import StampedFile

log = logging.getLogger("portal.credentials")


PASSWORD_HASH = re.compile(r"scrypt:\d+:\d+:\d+\$[A-Za-z0-9]+\$[0-9a-f]{128}", re.ASCII)
COST, BLOCK_SIZE = 2**15, 8  # of scrypt: 32 MB and 60 ms for one guess
TOKEN_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Credentials:
    """The hashes as they are now: one that is not given is in its file, if there is one.

    A file is read again when it has changed.
    """

    def __init__(
        self,
        password_hash: str | None = None,
        password_file: Path | None = None,
        token_hash: str | None = None,
        token_file: Path | None = None,
    ) -> None:
        self._password = _hash(password_hash, password_file, PASSWORD_HASH)
        self._token = _hash(token_hash, token_file, TOKEN_HASH)
        self._one_at_a_time = threading.Lock()

    @property
    def any(self) -> bool:
        """Whether anyone can prove that they may manage; without it management is off."""
        return self.has_password or self._token() is not None

    @property
    def has_password(self) -> bool:
        """Whether there is a login."""
        return self._password() is not None

    @property
    def password_mark(self) -> str:
        """Changes with the password, so that a new one ends the sessions of the old; no secret."""
        return hashlib.sha256((self._password() or "").encode()).hexdigest()[:16]

    def is_password(self, offered: str) -> bool:
        """Whether this is the password; takes about 60 ms, and one caller at a time.

        A guess costs 32 MB of memory: many at once must not starve the predictions.
        """
        known = self._password()
        if known is None:
            return False
        with self._one_at_a_time:
            method, salt, digest = known.split("$")
            cost, block, threads = map(int, method.split(":")[1:])
            return hmac.compare_digest(_scrypt(offered, salt, cost, block, threads), digest)

    def is_token(self, offered: str) -> bool:
        """Whether this is the token."""
        known = self._token()
        return known is not None and hmac.compare_digest(token_hash(offered), known)


def password_hash(password: str) -> str:
    """The hash of a password with a salt of its own, in the form of Werkzeug's.

    Werkzeug is not asked for it: to import it takes twice as long as to hash.
    """
    salt = secrets.token_hex(8)
    return f"scrypt:{COST}:{BLOCK_SIZE}:1${salt}${_scrypt(password, salt, COST, BLOCK_SIZE, 1)}"


def _scrypt(password: str, salt: str, cost: int, block_size: int, threads: int) -> str:
    memory = 132 * cost * block_size * threads  # bytes; OpenSSL asks for a little more than 128
    return hashlib.scrypt(
        password.encode(), salt=salt.encode(), n=cost, r=block_size, p=threads, maxmem=memory
    ).hex()


def token_hash(token: str) -> str:
    """The hash of a token, in hexadecimal digits.

    A token is 256 random bits, which nobody can guess; so its hash may be fast, unlike a password's
    that every call of a script would wait for.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _hash(fixed: str | None, path: Path | None, form: re.Pattern[str]) -> Callable[[], str | None]:
    """Tells the hash of a setting or, without one, that in a file; None where there is none."""
    if fixed is not None or path is None:
        return lambda: fixed
    return StampedFile(lambda: _read(path, form), path).get


def _read(path: Path, form: re.Pattern[str]) -> str | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None  # nobody has set it yet
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, type(error).__name__)
        return None
    if not form.fullmatch(text):
        log.warning("%s holds no hash as `make password` and `make token` write them", path)
        return None
    return text
