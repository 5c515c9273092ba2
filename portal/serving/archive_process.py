"""Answers bundles of images through the handler of the unpacked archive in the current folder.

Run by ``portal.serving.archive_model`` as a script, never imported: an archive brings a package
``handlers`` of its own. The argument is the number of an open socket. Once the handler is loaded,
an empty message leaves through it; then an answer for each bundle that comes.
"""

import importlib
import json
import shutil
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import yaml


def serve(folder: Path, asker: Connection) -> None:
    """Load the handler and answer until whoever asks has ended, or has enough."""
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]
    module = importlib.import_module(manifest["handler"].removesuffix(".py"))
    context = SimpleNamespace(
        model_yaml_config=yaml.safe_load((folder / manifest["configFile"]).read_text()),
        system_properties={"model_dir": str(folder)},
        manifest={"model": manifest},
        get_request_header=lambda index, name: None,  # noqa: ARG005 - TorchServe's signature
        set_response_status=lambda status, phrase, index: None,  # noqa: ARG005
    )
    handler = module.LandUseHandler()
    handler.initialize(context)
    with suppress(EOFError, ConnectionError):
        asker.send_bytes(b"")
        while True:
            (answer,) = handler.handle([{"body": asker.recv_bytes()}], context)
            asker.send_bytes(answer)


if __name__ == "__main__":
    # This script's own folder is the portal's; the archive must not lean on it.
    sys.path[0] = str(Path.cwd())
    try:
        serve(Path.cwd(), Connection(int(sys.argv[1])))
    finally:
        # whoever asked may have been killed, and removes nothing then
        shutil.rmtree(Path.cwd(), ignore_errors=True)
