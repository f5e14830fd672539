"""What the tests of the flow without HTTP begin with."""

import shutil

import pytest

from nanohook import migrations
from tests.flow_world import World


@pytest.fixture(scope="session")
def empty(tmp_path_factory):
    """A database of the newest schema with nothing in it, to be copied."""
    path = tmp_path_factory.mktemp("empty") / "nanohook.db"
    migrations.upgrade(path)
    return path


@pytest.fixture
def world(empty, tmp_path):
    """One person and a NanoBanana; at the end the books and every invariant are checked."""
    made = World(shutil.copy(empty, tmp_path / "nanohook.db"))
    yield made
    made.check()
    made.close()
