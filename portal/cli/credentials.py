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


def main() -> int | str:
    """Run the command line; return the exit status, or a sentence for the user about a failure."""
    parser = argparse.ArgumentParser(prog="python -m portal.cli.credentials", description=__doc__)
    parser.add_argument("what", choices=["password", "token"])
    parser.add_argument("--run-dir", type=Path, default=RUN_DIR, help="for the hash")
    given = parser.parse_args()
    variable = f"PORTAL_{given.what.upper()}"
    path = Path(os.environ.get(f"{variable}_FILE") or given.run_dir / f"{given.what}_hash")
    try:
        if given.what == "password":
            write_secret(path, password_hash(ask_password()))
            told = f"The password is set; its hash is in {path}. Log in at /login."
        else:
            token = secrets.token_urlsafe(32)
            write_secret(path, token_hash(token))
            told = f"The token, shown only now; its hash is in {path}:\n{token}"
    except (EOFError, KeyboardInterrupt):
        return "\nNothing was changed."
    except OSError as error:
        return f"Cannot write {path}: {error.strerror}."
    sys.stdout.write(f"{told}\n")
    if os.environ.get(f"{variable}_HASH"):
        sys.stdout.write(f"{variable}_HASH is set too, and wins over the file.\n")
    return 0


def ask_password() -> str:
    """The password, typed twice unseen; SystemExit with a sentence if it cannot be set."""
    password = getpass.getpass("Password: ")
    if len(password) < SHORTEST:
        sys.exit(
            f"The password has {len(password)} characters, but at least {SHORTEST} are needed: a "
            "few words will do. Nothing was changed."
        )
    if getpass.getpass("Once more: ") != password:
        sys.exit("The two differ. Nothing was changed; try again.")
    return password


def write_secret(path: Path, text: str) -> None:
    """Write a line into a file of mode 0600, as a whole or, with an OSError, not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{text}\n")
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
