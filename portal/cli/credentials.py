"""Sets what proves that someone may manage: ``python -m portal.cli.credentials password|token``.

Only a hash is kept, in a file of the run folder that its owner alone may read; the portal reads it
again when it changes.
"""

import argparse
import getpass
import os
import secrets
import sys
from pathlib import Path

from portal.cli import RUN_DIR
from portal.credentials import password_hash, token_hash

SHORTEST = 10  # characters of a password


class BadPassword(ValueError):
    """A password that cannot be set; the message is for the one who typed it."""


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m portal.cli.credentials", description=__doc__)
    parser.add_argument("what", choices=["password", "token"])
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, help="for the hash")
    given = parser.parse_args()
    variable = f"PORTAL_{given.what.upper()}_FILE"
    path = Path(os.environ.get(variable) or given.run_dir / f"{given.what}_hash")
    try:
        if given.what == "password":
            write_secret(path, password_hash(ask_password()))
            told = f"The password is set; its hash is in {path}. Log in at /login."
        else:
            token = secrets.token_urlsafe(32)
            write_secret(path, token_hash(token))
            told = f"The token, shown only now; its hash is in {path}:\n{token}"
    except BadPassword as error:
        return _refuse(str(error))
    except (EOFError, KeyboardInterrupt):
        return _refuse("\nNothing was changed.")
    except OSError as error:
        return _refuse(f"Cannot write {path}: {error.strerror}.")
    sys.stdout.write(f"{told}\n")
    if os.environ.get(f"PORTAL_{given.what.upper()}_HASH"):
        sys.stdout.write(f"PORTAL_{given.what.upper()}_HASH is set too, and wins over the file.\n")
    return 0


def ask_password() -> str:
    """The password, typed twice without being shown.

    Raises:
        BadPassword: it is too short, or the two differ.
    """
    password = getpass.getpass("Password: ")
    if len(password) < SHORTEST:
        raise BadPassword(
            f"The password has {len(password)} characters, but at least {SHORTEST} are needed: a "
            "few words will do. Nothing was changed."
        )
    if getpass.getpass("Once more: ") != password:
        raise BadPassword("The two differ. Nothing was changed; try again.")
    return password


def write_secret(path: Path, text: str) -> None:
    """Write a line into a file of mode 0600, as a whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
    fresh.replace(path)


def _refuse(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
