"""Answer images through the handler of the unpacked archive in the current folder.

Run by ``training.archive`` as a script, never imported: stdin is a JSON list of base64 images,
stdout the JSON list of the handler's answers.
"""

import base64
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import yaml

# What TorchServe does: folder on the path, initialize, handle.
folder = Path.cwd()
# This script's own folder is the repository's; the archive must not lean on it.
sys.path[0] = str(folder)
manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
module = importlib.import_module(manifest["model"]["handler"].removesuffix(".py"))
config = yaml.safe_load((folder / manifest["model"]["configFile"]).read_text())
context = SimpleNamespace(
    model_yaml_config=config,
    system_properties={"model_dir": str(folder)},
    manifest=manifest,
    get_request_header=lambda index, name: None,  # noqa: ARG005 - TorchServe's signature
    set_response_status=lambda status, phrase, index: None,  # noqa: ARG005
)
handler = module.LandUseHandler()
handler.initialize(context)
images = [base64.b64decode(image) for image in json.load(sys.stdin)]
answers = handler.handle([{"body": image} for image in images], context) if images else []
json.dump([json.loads(answer) for answer in answers], sys.stdout)
