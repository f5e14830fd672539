"""The page in a real browser: the main job as a person does it."""

import re

import pytest
from PIL import Image
from playwright.async_api import expect

from nanohook.sandbox.options import Options
from nanohook.web import pages
from tests import rig
from tests.browsing import visiting

_BUDGET_BYTES = 60_000
# Long enough to see the page at work, and to reload it there.
_SLOW = Options(latency_s=2.5, callback_pause_s=0.05)

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
        assert visit.hosts == {visit.service.base.removeprefix("http://")}


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
        await expect(visit.page.get_by_role("heading")).to_have_text("Log in first")
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


async def test_the_first_view_weighs_little(browser, tmp_path):
    async with visiting(browser, tmp_path, window={"locale": "fr"}) as visit:
        await visit.sign_in()
        await expect(visit.page.locator("#keys")).to_contain_text("Entrée lancent la génération")
        weights = await visit.weights()
        assert {"/static/studio.js", "/static/studio.css", "/static/nanohook.js"} <= set(weights)
        assert sum(weights.values()) < _BUDGET_BYTES, weights
        for path in pages.STATIC.iterdir():
            answer = await visit.service.client.get(f"/static/{path.name}")
            assert answer.status_code == 200
