"""A portal whose records have versions that the model server serves."""

import pytest
from flask import Flask

from portal.services import Services
from tests.support.archive_files import write_archive
from tests.support.fake_torchserve import FakeTorchServe, served


@pytest.fixture
def own(app: Flask) -> Services:
    found = app.extensions["portal"]
    assert isinstance(found, Services)
    return found


@pytest.fixture
def kept(own: Services, torchserve: FakeTorchServe) -> Services:
    """Baseline 1.0 and 1.1, the default, are recorded and served."""
    for version in ("1.0", "1.1"):
        write_archive(own.settings.model_store, version)
    torchserve.versions = [served("1.0", default=False), served("1.1")]
    own.reconciler.look()
    return own
