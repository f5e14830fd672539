"""What the tests of the flow without HTTP begin with."""

import asyncio
import shutil

import pytest
import uvloop

from nanohook import migrations
from tests.flow_world import World


def pytest_asyncio_loop_factories(config, item):
    """The server's wire is tested on both event loops: they differ in when they write, and in what they tell."""
    loops = {"asyncio": asyncio.new_event_loop}
    if item.module.__name__.rpartition(".")[2].startswith("test_http1"):
        loops["uvloop"] = uvloop.new_event_loop
    return loops


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
