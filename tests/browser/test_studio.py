"""The page in a real browser: the main job as a person does it."""

import contextlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image
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
_WAIT_MS = 10_000
_BUDGET_BYTES = 60_000
# Long enough to see the page at work, and to reload it there.
_SLOW = Options(latency_s=1.4, callback_pause_s=0.05)


@dataclass
class Visit:
    """One person's browser window on a running service."""

    page: Page
    service: rig.Rig
    complaints: list[str] = field(default_factory=list)
    """What the console said at level warning or error, and exceptions."""
    asked: list[str] = field(default_factory=list)
    """Every address that was requested."""

    async def sign_in(self) -> None:
        person = await self.service.parts.database.read(lambda tx: accounts.account(tx, "ada@example.org"))
        assert person is not None
        token = self.service.parts.tokens.sign_purpose(
            pages.LOGIN, f"{person.id} {secrets.token_hex(8)}", int(time.time()) + 60
        )
        await self.page.goto(f"{self.service.base}/login?token={token}")
        await expect(self.page.locator("#generate")).to_be_enabled()

    async def choose(self, body: bytes, name: str = "kite.png") -> None:
        await self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": body})

    async def state(self, name: str) -> None:
        await expect(self.page.locator("#studio")).to_have_attribute("data-state", name, timeout=_WAIT_MS)

    async def after(self) -> list[int]:
        return await self.page.evaluate(
            "() => { const i = document.getElementById('after'); return [i.naturalWidth, i.naturalHeight]; }"
        )


# One browser for all: it takes longer to start than a test to run. Each test has a profile of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="browser")
async def _browser() -> AsyncIterator[Browser]:
    path = needs.program("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_ARGS)
        try:
            yield browser
        finally:
            await browser.close()


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


@pytest.mark.parametrize(
    ("locale", "generate", "busy"),
    [("en-GB", "Generate", "Generating…"), ("fr-FR", "Générer", "Génération...")],
)
async def test_the_finished_picture_appears_by_itself_in_exactly_the_original_size(
    browser, tmp_path, locale, generate, busy
):
    async with visiting(browser, tmp_path, window={"locale": locale}, sandbox=_SLOW) as visit:
        await visit.sign_in()
        page, button = visit.page, visit.page.get_by_role("button", name=generate)
        await visit.choose(rig.picture(401, 263))
        await page.locator("#prompt").fill("a kite at night")
        # A reload would take this mark away.
        await page.evaluate("window.isTheSamePage = true")

        assert (
            await button.evaluate(
                "async (button) => { button.click(); await null; return button.innerText.trim(); }"
            )
            == busy
        )
        await expect(page.locator("#generate")).to_have_attribute("aria-disabled", "true")
        await expect(page.locator("#link")).to_have_attribute("data-link", "live")
        await expect(page.locator("[data-step=generating]")).to_have_class("current")
        await expect(page.locator("#elapsed")).to_have_text(re.compile(r"^\d+ s · .*30"))

        await visit.state("done")
        assert await visit.after() == [401, 263]
        assert await page.evaluate("window.isTheSamePage")
        await expect(page.locator("#generate-text")).to_have_text(generate)
        async with page.expect_download() as downloading:
            await page.locator("#download").click()
        download = await downloading.value
        assert download.suggested_filename.startswith("kite-nanohook.")
        with Image.open(await download.path()) as saved:
            assert saved.size == (401, 263)
        assert visit.complaints == []
        assert {address.split("/")[2] for address in visit.asked if address.startswith("http")} == {
            visit.service.base.removeprefix("http://")
        }


async def test_a_reload_in_the_middle_goes_on_and_one_after_the_end_shows_it_again(browser, tmp_path):
    async with visiting(browser, tmp_path, sandbox=_SLOW) as visit:
        await visit.sign_in()
        await visit.choose(rig.picture(230, 340))
        await visit.page.locator("#prompt").fill("a harbour")
        await visit.page.locator("#prompt").press("Control+Enter")
        await expect(visit.page.locator("[data-step=generating]")).to_have_class("current")

        await visit.page.reload()
        await visit.state("running")
        await visit.state("done")
        assert await visit.after() == [230, 340]

        await visit.page.reload()
        await visit.state("done")
        assert await visit.after() == [230, 340]
        await expect(visit.page.locator("#before-size")).to_have_text("230 × 340")
        await expect(visit.page.locator("#prompt")).to_have_value("a harbour")
        assert visit.complaints == []
        assert sum(address.endswith("/api/generate-image") for address in visit.asked) == 1


async def test_a_failure_is_told_in_words_and_can_be_tried_again(browser, tmp_path):
    async with visiting(browser, tmp_path) as visit:
        await visit.sign_in()
        page = visit.page
        await visit.choose(rig.picture())
        await page.locator("#prompt").fill("a storm [sandbox:fail=400]")
        await page.locator("#generate").click()

        await visit.state("failed")
        alert = page.locator("#failure [role=alert]")
        await expect(alert).to_contain_text("NanoBanana refused the prompt or picture")
        await expect(alert).to_contain_text("Change the prompt or the picture.")
        await expect(page.locator("#prompt")).to_have_value("a storm [sandbox:fail=400]")
        async with page.expect_request(lambda request: request.url.endswith("/retry")):
            await page.get_by_role("button", name="Try again").click()
        await visit.state("failed")

        # Another wish for the same picture is another job, and needs no other upload.
        await page.locator("#prompt").fill("a calm sea")
        await page.get_by_role("button", name="Try again").click()
        await visit.state("done")
        assert visit.complaints == []
        assert sum(address.endswith("/api/images") for address in visit.asked) == 1


async def test_cancel_ends_it_and_generate_starts_it_again(browser, tmp_path):
    # The next attempt asks what became of the canceled task before it would buy another.
    async with visiting(browser, tmp_path, sandbox=_SLOW, reconcile_every_s=0.2) as visit:
        await visit.sign_in()
        await visit.choose(rig.picture())
        await visit.page.locator("#prompt").fill("a kite")
        await visit.page.locator("#generate").click()
        await expect(visit.page.locator("[data-step=generating]")).to_have_class("current")
        await visit.page.get_by_role("button", name="Cancel").click()
        await visit.state("canceled")
        # The keyboard's place was on a button that is gone.
        await expect(visit.page.locator("#generate")).to_be_focused()
        await visit.page.locator("#generate").click()
        await visit.state("done")
        assert visit.complaints == []


async def test_what_cannot_be_used_is_refused_in_words_and_takes_nothing_away(browser, tmp_path):
    async with visiting(browser, tmp_path, max_upload_bytes=2**20) as visit:
        await visit.sign_in()
        page, notice = visit.page, visit.page.get_by_role("alert")
        await page.locator("#generate").click()
        await expect(notice).to_have_text("Choose a picture first.")
        await visit.choose(rig.picture(120, 90))
        await expect(page).to_have_url(re.compile("#job="))
        await page.locator("#generate").click()
        await expect(notice).to_have_text("Say what shall change.")
        await page.locator("#prompt").fill("a kite")

        await visit.choose(b"no picture", "notes.txt")
        await expect(notice).to_contain_text("not a picture that can be used")
        await expect(page.locator("#before-size")).to_have_text("120 × 90")
        await visit.choose(rig.picture(1200, 800)[:-200])
        await expect(notice).to_contain_text("not complete")
        await expect(page.locator("#before-size")).to_have_text("120 × 90")
        await visit.choose(b"x" * (2**20 + 1))
        await expect(notice).to_contain_text("more than 1 MB")

        await page.context.set_offline(True)
        await page.locator("#generate").click()
        await expect(notice).to_contain_text("does not answer")
        await expect(page.locator("#prompt")).to_have_value("a kite")
        await page.context.set_offline(False)
        await page.locator("#generate").click()
        await visit.state("done")
        assert await visit.after() == [120, 90]


async def test_a_refused_stream_is_tried_again_until_the_picture_is_there(browser, tmp_path):
    async with visiting(browser, tmp_path) as visit:
        await visit.sign_in()
        refusals = iter([503])

        async def refuse_once(route):
            status = next(refusals, None)
            await (route.continue_() if status is None else route.fulfill(status=status))

        # Any status but 200 stops the platform's own event source for good.
        await visit.page.route("**/events*", refuse_once)
        await visit.choose(rig.picture(64, 48))
        await visit.page.locator("#prompt").fill("a kite")
        await visit.page.locator("#generate").click()
        await visit.state("done")
        assert await visit.after() == [64, 48]
        # Other pages of the service import the same client.
        assert await visit.page.evaluate(_FOLLOW_NOTHING) == "deleted"


_FOLLOW_NOTHING = """async () => {
  const nanohook = await import("/static/nanohook.js");
  return new Promise((resolve) => {
    nanohook.follow("no/such?job", { deleted: () => resolve("deleted"), status: () => resolve("status") });
  });
}"""


async def test_a_stranger_is_told_how_to_sign_in_and_a_used_link_says_so(browser, tmp_path):
    async with visiting(browser, tmp_path, window={"locale": "fr"}) as visit:
        answer = await visit.page.goto(f"{visit.service.base}/generate-images")
        assert answer is not None
        assert answer.status == 401
        await expect(visit.page.get_by_role("heading")).to_have_text("Connectez-vous d'abord")
        await visit.page.get_by_role("link", name="English").click()
        await expect(visit.page.get_by_role("heading")).to_have_text("Sign in first")
        answer = await visit.page.goto(f"{visit.service.base}/login?token=none")
        assert answer is not None
        assert answer.status == 401
        await expect(visit.page.get_by_role("heading")).to_have_text("This link no longer works")


async def test_a_phone_has_one_column_and_generate_within_reach(browser, tmp_path):
    window = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    async with visiting(browser, tmp_path, window=window) as visit:
        await visit.sign_in()
        await visit.choose(rig.picture(300, 900))
        await visit.page.locator("#prompt").fill("a kite")
        widths = "() => [document.documentElement.scrollWidth, innerWidth]"
        assert await visit.page.evaluate(widths) == [390, 390]
        box = await visit.page.locator("#generate").bounding_box()
        assert box is not None
        assert box["y"] > 740
        await visit.page.locator("#generate").tap()
        await visit.state("done")
        await expect(visit.page.locator("#after")).to_be_in_viewport()
        assert await visit.page.evaluate(widths) == [390, 390]
        small = await visit.page.evaluate(_TOO_SMALL)
        assert small == []
        assert visit.complaints == []


_TOO_SMALL = """() => [...document.querySelectorAll("a, button, label.button, textarea")]
  .filter((each) => each.checkVisibility())
  .map((each) => [each.id || each.className, each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name)"""


async def test_the_first_view_weighs_little(tmp_path):
    async with rig.running(tmp_path) as service:
        assert sum(path.stat().st_size for path in _own_files()) < _BUDGET_BYTES
        for path in pages.STATIC.iterdir():
            answer = await service.client.get(f"/static/{path.name}")
            assert answer.status_code == 200


def _own_files() -> Iterator:
    yield from pages.STATIC.iterdir()
    yield from (pages.STATIC.parent / "templates").iterdir()
