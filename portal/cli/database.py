"""The portal's database, while no portal runs on it: ``python -m portal.cli.database downgrade``.

``downgrade`` makes its tables those of the release before, which can then use it again. What that
release kept stays: deployments, defaults and the audit. ``PORTAL_DATABASE_URL`` names it, as for
the portal; without it, it is the one of `make serve`.

The way up needs no command: a portal brings the tables up to date when it starts.
"""

import argparse
import os
import sys

from portal.cli import RUN_DIR
from portal.errors import StateUnavailable
from portal.settings import BadSetting, Settings
from portal.storage.database import Database


def main() -> int | str:
    """Run the command line; return the exit status, or a sentence for the user about a failure."""
    parser = argparse.ArgumentParser(prog="python -m portal.cli.database", description=__doc__)
    parser.add_argument("what", choices=["downgrade"])
    parser.parse_args()
    given = os.environ.get("PORTAL_DATABASE_URL", "").strip()
    url = given or f"sqlite:///{RUN_DIR / 'portal.db'}"
    try:
        settings = Settings.from_environment({"PORTAL_DATABASE_URL": url})
        revision = Database(settings.database_url.get_secret_value()).downgrade()
    except (BadSetting, StateUnavailable) as error:
        return str(error)
    sys.stdout.write(
        f"The tables are those of revision {revision}. Start the release before this one now; "
        "this one would bring them up to date again.\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
