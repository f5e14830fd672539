"""What every test of a page begins with."""

from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser

from tests import browsing


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="browser")
async def _browser() -> AsyncIterator[Browser]:
    """One for a module: it takes longer to start than a test to run. Each test has a profile of its own."""
    async with browsing.launched() as browser:
        yield browser
