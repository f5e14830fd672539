"""Programs that a test needs: without one it skips, or fails where it was promised."""

import os
import shutil

import pytest

REQUIRED = "NANOHOOK_TEST_REQUIRE"
_NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome")}


def program(name: str) -> str:
    """
    Find the path of *name*, or of what it is called elsewhere.

    Skips the test where it is missing, and fails it where the environment's ``NANOHOOK_TEST_REQUIRE``, a
    comma-separated list, names it: CI must not pass by skipping.
    """
    # Read per call: the list belongs to whoever runs the tests, not to the import.
    found = next(filter(None, map(shutil.which, _NAMES.get(name, (name,)))), None)
    if found is not None:
        return found
    if name in {part.strip() for part in os.environ.get(REQUIRED, "").split(",")}:
        pytest.fail(f"{REQUIRED} names {name}, and it is not on the PATH", pytrace=False)
    pytest.skip(f"{name} is not on the PATH")
