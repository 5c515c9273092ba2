"""What the supervisor asks of the records before TorchServe starts: what is to be loaded.

Both functions raise StateUnavailable when the portal's database cannot be used.
"""

import hashlib
from contextlib import closing
from pathlib import Path

from portal.deployments.records import Audit, Records
from portal.storage.database import Database


def note_archives(database_url: str, model_store: Path) -> None:
    """Record the archives that were built anew since they were deployed: they are loaded now."""
    with closing(Database(database_url)) as database:
        records = Records(database)
        for row in records.deployments():
            path = model_store / row.archive
            if row.wanted != "served" or not path.is_file():
                continue
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 == row.sha256:
                continue
            records.change(row.name, sha256=sha256, size_bytes=path.stat().st_size)
            former = row.sha256[:12] or "unknown"
            said = f"Its archive was built anew: sha256 {sha256[:12]}, before {former}."
            records.record(Audit("portal", "restore", row.model, row.version, "done", said))


def models_to_load(database_url: str, archives: list[str]) -> list[str]:
    """The archives that TorchServe loads when it starts, the default version of each model first.

    Those that were retired, refused by their deploy, or only uploaded are left out; as the portal
    would unregister them again.

    Args:
        archives: file names in the model store, the newest version of each model first.
    """
    with closing(Database(database_url)) as database:
        records = Records(database)
        withdrawn = {row.archive for row in records.deployments() if row.wanted != "served"}
        defaults = {row.name.archive for row in records.defaults().values()}
    names = [name for name in archives if name not in withdrawn]
    return sorted(names, key=lambda name: name not in defaults) or ["none"]
