"""Downloads that go on where they stopped, checked by their md5."""

import hashlib
from pathlib import Path
from types import MappingProxyType

import requests
from tqdm import tqdm

from training.dataset.eurosat import BadData

# As torchvision.datasets.EuroSAT has them.
ZIP_URL = (
    "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
    "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip"
)
ZIP_MD5 = "c8fa014336c82ac7804f0398fcb19387"
# TorchGeo's EuroSATSpatial: 60/20/20 by longitude.
SPATIAL_URL = "https://huggingface.co/datasets/torchgeo/eurosat/resolve/main/"
SPATIAL_MD5 = MappingProxyType(
    {
        "eurosat-spatial-train.txt": "7be3254be39f23ce4d4d144290c93292",
        "eurosat-spatial-val.txt": "acf392290050bb3df790dc8fc0ebf193",
        "eurosat-spatial-test.txt": "5ec1733f9c16116bf0aa2d921fc613ef",
    }
)


def download(url: str, target: Path, md5: str) -> None:
    """Fetch ``url`` into ``target``, continuing where an earlier try stopped.

    Raises:
        BadData: the server cannot be reached or answers with an error, or the file that arrived
            has another md5 (it is deleted then, so that the next try starts anew).
    """
    if target.is_file() and md5_of(target) == md5:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    have = partial.stat().st_size if partial.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=30) as response:
            # With 416 everything has arrived already; the checksum decides.
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                _receive(response, partial, have if resumed else 0)
    except requests.RequestException as error:
        raise BadData(
            f"cannot download {url} ({type(error).__name__}). What arrived is kept: run the "
            f"command again to go on, or put the file at {target} yourself."
        ) from error
    if (found := md5_of(partial)) != md5:
        partial.unlink()
        raise BadData(f"{url}: expected md5 {md5}, found {found}; run the command again")
    partial.replace(target)


def _receive(response: requests.Response, partial: Path, have: int) -> None:
    total = int(response.headers.get("Content-Length", 0)) + have
    with (
        partial.open("ab" if have else "wb") as file,
        tqdm(desc=partial.stem, total=total, initial=have, unit="B", unit_scale=True) as bar,
    ):
        for chunk in response.iter_content(1 << 20):
            file.write(chunk)
            bar.update(len(chunk))


def md5_of(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
