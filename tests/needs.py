"""Programs and packages that a test needs: without one it skips, or fails where it was promised."""

import importlib
import os
import pathlib
import shutil
import subprocess
from types import ModuleType
from typing import NoReturn

import pytest

REQUIRED = "NANOHOOK_TEST_REQUIRE"
_NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome")}
_INSTALL_S = 300.0


def program(name: str) -> str:
    """
    Find the path of *name*, or of what it is called elsewhere.

    Skips the test where it is missing, and fails it where the environment's ``NANOHOOK_TEST_REQUIRE``, a
    comma-separated list, names it: CI must not pass by skipping.
    """
    found = find(name)
    return found if found is not None else lack(name, f"{name} is not on the PATH")


def module(name: str) -> ModuleType:
    """Import a library of the ``test`` extra; skips or fails as ``program`` does."""
    try:
        return importlib.import_module(name)
    except ImportError:
        lack(name, f"{name} is not installed")


def find(name: str) -> str | None:
    """Find the path of *name*, or of what it is called elsewhere."""
    # Servers are installed where only root's PATH leads to.
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    return next((found for each in _NAMES.get(name, (name,)) if (found := shutil.which(each, path=path))), None)


def npm_install(folder: pathlib.Path, *packages: str) -> str | None:
    """Install *packages* into *folder*; why not, if they could not be."""
    npm = find("npm")
    if npm is None:
        return "npm is not on the PATH"
    (folder / "package.json").write_text("{}")
    # What packages would like to run when they are installed has no place in a test.
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *packages]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        return f"npm has not installed in {_INSTALL_S:g} s"
    return None if done.returncode == 0 else f"npm could not install: {done.stderr[-300:]}"


def lack(name: str, reason: str) -> NoReturn:
    """Skip for want of *name*, or fail where it is required."""
    # Read per call: the list belongs to whoever runs the tests, not to the import.
    if name in {part.strip() for part in os.environ.get(REQUIRED, "").split(",")}:
        pytest.fail(f"{REQUIRED} names {name}: {reason}", pytrace=False)
    pytest.skip(reason)
