"""People's windows on a running service, in a real browser."""

import contextlib
import gzip
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from nanohook.sandbox.options import Options
from nanohook.stores import accounts
from nanohook.web import pages
from tests import needs, rig

# The browser's own errands would be requests to other hosts.
_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_WAIT_MS = 30_000
expect.set_options(timeout=_WAIT_MS)
_CODE = """() => [location.pathname, ...performance.getEntriesByType("resource")
  .map((each) => new URL(each.name).pathname).filter((path) => /[.](js|css)$/.test(path))]"""


@contextlib.asynccontextmanager
async def launched(*args: str) -> AsyncIterator[Browser]:
    """Start a browser; one for all tests of a module, since that takes longer than a test to run."""
    path = needs.program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=[*_ARGS, *args])
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """One person's browser window on a running service."""

    page: Page
    service: rig.Rig
    complaints: list[str] = field(default_factory=list)
    """What the console said at level warning or error, and exceptions."""
    asked: list[str] = field(default_factory=list)
    """Every address that was requested."""

    @property
    def hosts(self) -> set[str]:
        """Whom the pages asked for anything."""
        return {address.split("/")[2] for address in self.asked if address.startswith("http")}

    async def weights(self) -> dict[str, int]:
        """Give the bytes, compressed, of the page that is shown and of its code and styles, by their paths."""
        paths = await self.page.evaluate(_CODE)
        bodies = {path: await (await self.page.request.get(self.service.base + path)).body() for path in paths}
        return {path: len(gzip.compress(body)) for path, body in bodies.items()}

    async def sign_in(self) -> None:
        found = await self.service.parts.database.read(lambda tx: accounts.account(tx, "ada@example.org"))
        assert found is not None
        token = self.service.parts.tokens.sign_purpose(
            pages.LOGIN, f"{found.person.id} {secrets.token_hex(8)}", int(time.time()) + 60
        )
        await self.page.goto(f"{self.service.base}/login?token={token}")
        await expect(self.page.locator("#generate")).to_be_enabled()

    async def choose(self, body: bytes, name: str = "kite.png") -> None:
        await self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": body})

    async def state(self, name: str, *, timeout_ms: int = _WAIT_MS) -> None:
        await expect(self.page.locator("#studio")).to_have_attribute("data-state", name, timeout=timeout_ms)

    async def after(self) -> list[int]:
        return await self.page.evaluate(
            "() => { const i = document.getElementById('after'); return [i.naturalWidth, i.naturalHeight]; }"
        )


@contextlib.asynccontextmanager
async def visiting(
    browser: Browser,
    tmp_path,
    *,
    window: dict[str, Any] | None = None,
    sandbox: Options | None = None,
    **settings,
) -> AsyncIterator[Visit]:
    async with rig.running(tmp_path, sandbox=sandbox, **settings) as service:
        context: BrowserContext = await browser.new_context(
            **{"locale": "en-GB", "reduced_motion": "reduce", **(window or {})}
        )
        page = await context.new_page()
        visit = Visit(page, service)
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on(
            "console",
            lambda said: said.type in {"warning", "error"} and visit.complaints.append(said.text),
        )
        try:
            yield visit
        finally:
            await context.close()
