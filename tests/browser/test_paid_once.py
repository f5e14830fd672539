"""Whatever happens to answers and pictures on their way, a page buys nothing twice and takes nothing away."""

import contextlib
import re

import pytest
from playwright.async_api import expect

from nanohook import clock
from nanohook.flow import accounts
from nanohook.web import pages
from tests import books, live, relay, rig
from tests.browsing import visiting
from tests.galleries import gallery_of, size_of
from tests.relay import Way
from tests.scripted import Server, http, refused

_WAIT_MS = 15_000
_MEDIA = "**/media/**"
_TRIES = 4
"""As often as the client sends a request to which no answer comes."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def studio(browser, tmp_path, **how):
    """Open the studio through a relay, with a picture and a prompt; at the end the books are right."""
    async with visiting(browser, tmp_path, **how) as visit, relay.before(visit.service.base) as link:
        await visit.sign_in()
        await visit.page.goto(f"{link.base}/generate-images")
        await expect(visit.page.locator("#generate")).to_be_enabled()
        await visit.choose(rig.picture(64, 48))
        await visit.page.locator("#prompt").fill("a kite")
        yield visit, link
        books.check(visit.service.parts.settings.data_dir)


def bought(service):
    return service.upstream.submitted


# An answer that never arrived.


@pytest.mark.parametrize("reloads", [False, True])
async def test_a_click_whose_answer_was_lost_buys_once_however_often_it_is_made(browser, tmp_path, reloads):
    async with studio(browser, tmp_path) as (visit, link):
        page, generate = visit.page, visit.page.locator("#generate")
        await generate.click()
        await visit.state("done")
        await page.locator("#prompt").fill("a boat")
        link.change(lambda line: Way.CUT if "/api/generate-image" in line else Way.PASS)
        await generate.click()
        await expect(page.locator("#notice")).to_contain_text("does not answer", timeout=_WAIT_MS)
        assert link.asked("/api/generate-image") >= 1 + _TRIES
        link.change(lambda _line: Way.PASS)
        if reloads:
            await page.reload()
            await visit.state("done")
        await expect(page.locator("#prompt")).to_have_value("a boat")
        # Another wish has another key, and takes nothing from this one.
        await page.locator("#prompt").fill("a boat at night")
        await generate.click()
        await visit.state("done")
        await page.locator("#prompt").fill("a boat")
        await generate.click()
        await expect(page.locator("#after")).to_have_attribute("alt", "a boat")
        await visit.state("done")
        first, *boats = link.keys("/api/generate-image")
        assert len({*boats[:_TRIES], boats[-1]}) == 1
        assert len({first, boats[0], boats[-2]}) == 3
        assert bought(visit.service) == 3

        # That answer came: the same wish once more is another picture.
        await generate.click()
        await live.until(lambda: bought(visit.service) == 4)
        await visit.state("done")
        assert len(set(link.keys("/api/generate-image"))) == 4


async def test_a_retry_whose_answer_was_lost_is_made_once(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        page = visit.page
        # The second attempt still runs at the second click: the key belongs to one attempt.
        await page.locator("#prompt").fill("a storm [sandbox:fail=400] [sandbox:latency=15]")
        await page.locator("#generate").click()
        await visit.state("failed")
        link.change(lambda line: Way.CUT if line.endswith("/retry") else Way.PASS)
        await page.get_by_role("button", name="Try again").click()
        await expect(page.locator("#notice")).to_contain_text("does not answer", timeout=_WAIT_MS)
        # What was shown before stays: it failed, and says so.
        await visit.state("failed")
        link.change(lambda _line: Way.PASS)
        async with page.expect_response("**/retry") as answered:
            await page.get_by_role("button", name="Try again").click()
        assert (await answered.value).headers["idempotent-replayed"] == "true"
        await visit.state("failed")
        assert len(set(link.keys("/retry"))) == 1
        assert bought(visit.service) == 2


async def test_a_version_whose_answer_was_lost_is_found_again_in_the_gallery(browser, tmp_path):
    async with (
        gallery_of(browser, tmp_path) as gallery,
        relay.before(gallery.visit.service.base) as link,
    ):
        await gallery.finished("a kite")
        await gallery.page.goto(f"{link.base}/dashboard/projects/{gallery.project_id}")
        await gallery.is_there()
        link.change(lambda line: Way.CUT if "/api/generate-image" in line else Way.PASS)
        await gallery.cards.get_by_role("button", name="New version").click()
        await expect(gallery.page.get_by_role("alert")).to_contain_text("does not answer", timeout=_WAIT_MS)
        link.change(lambda _line: Way.PASS)
        await gallery.page.reload()
        await gallery.is_there()
        async with gallery.page.expect_response("**/api/generate-image") as answered:
            await gallery.cards.last.get_by_role("button", name="New version").click()
        assert (await answered.value).headers["idempotent-replayed"] == "true"
        await expect(gallery.of_kind("ready")).to_have_count(2, timeout=_WAIT_MS)
        assert bought(gallery.visit.service) == 2


# A picture that cannot be loaded for a moment.


async def test_a_finished_picture_that_cannot_be_loaded_is_loaded_again_by_itself(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, _):
        page = visit.page
        await page.route(_MEDIA, lambda route: route.abort())
        await page.locator("#generate").click()
        await visit.state("unseen")
        await expect(page.locator("#failure")).to_contain_text("Your picture is ready")
        await expect(page.locator("#failure")).to_contain_text("Nothing is generated or charged again.")
        await page.get_by_role("button", name="Try again").click()
        # The same wish: it is made already.
        await page.locator("#generate").click()
        await page.unroute(_MEDIA)
        await visit.state("done")
        assert await visit.after() == [64, 48]
        assert bought(visit.service) == 1
        assert (await visit.service.client.get("/api/images")).json()["images"][0]["attempt"] == 1


async def test_an_address_that_is_refused_is_replaced_by_a_fresh_one(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        refusals = iter([403, 403])

        async def refuse(route):
            status = next(refusals, None)
            await (route.continue_() if status is None else route.fulfill(status=status))

        await visit.page.route(_MEDIA, refuse)
        await visit.page.locator("#generate").click()
        await visit.state("unseen")
        await visit.state("done")
        assert link.asked("/result") >= 1
        assert bought(visit.service) == 1


async def test_a_half_picture_is_loaded_again_after_a_reload_too(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        await visit.page.locator("#generate").click()
        await visit.state("done")
        link.change(lambda line: Way.HALVE if "/media/results" in line else Way.PASS)
        session = await visit.page.context.new_cdp_session(visit.page)
        await session.send("Network.enable")
        await session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        await visit.page.reload()
        await visit.state("unseen")
        link.change(lambda _line: Way.PASS)
        # The connection is back: there is nothing to wait for.
        await visit.page.evaluate("dispatchEvent(new Event('online'))")
        await visit.state("done")
        assert await visit.after() == [64, 48]
        assert bought(visit.service) == 1


async def test_a_card_and_the_viewer_load_their_picture_again(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await gallery.open()
        page = gallery.page
        await page.route(_MEDIA, lambda route: route.abort())
        await gallery.finished()
        ready = gallery.of_kind("ready")
        await expect(ready).to_have_class(re.compile("bare"))
        await expect(ready.get_by_role("button", name="New version")).to_be_visible()
        await page.unroute(_MEDIA)
        await expect(ready).not_to_have_class(re.compile("bare"), timeout=_WAIT_MS)
        assert await size_of(ready.locator(".fill")) != [0, 0]

        await page.route(_MEDIA, lambda route: route.abort())
        await ready.focus()
        await page.keyboard.press("Enter")
        missed = page.get_by_text("The picture can’t be loaded right now.")
        await expect(missed).to_be_visible()
        await page.unroute(_MEDIA)
        await page.locator("#full").get_by_role("button", name="Try again").click()
        await expect(missed).to_be_hidden()
        assert await size_of(page.locator("#full img")) == [230, 340]
        assert bought(gallery.visit.service) == 1


async def test_an_original_and_a_cover_that_cannot_be_loaded_come_by_themselves(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        page = visit.page
        await expect(page).to_have_url(re.compile("#job="))
        await page.route(_MEDIA, lambda route: route.abort())
        await page.reload()
        await visit.state("ready")
        await expect(page.locator("#before")).to_be_hidden()
        await page.unroute(_MEDIA)
        await expect(page.locator("#before")).to_be_visible(timeout=_WAIT_MS)
        await expect(page.locator("#before-size")).to_have_text("64 × 48")

        files = {"cover": ("x.png", rig.picture(64, 48))}
        await visit.service.client.post("/api/projects", data={"name": "Kites"}, files=files)
        await page.route(_MEDIA, lambda route: route.abort())
        await page.goto(f"{link.base}/dashboard/projects")
        cover = page.locator(".project .fill")
        await expect(cover).to_have_js_property("complete", value=True)
        await expect(cover).to_have_js_property("naturalWidth", value=0)
        await page.unroute(_MEDIA)
        await expect(cover).not_to_have_js_property("naturalWidth", value=0, timeout=_WAIT_MS)


# The key of a click, by what it is answered.


@pytest.mark.parametrize(
    ("answer", "is_definite"),
    [
        (refused(502), False),
        (refused(503, retry_after=60), False),
        (refused(429, retry_after=60), False),
        (refused(401), False),
        (refused(403), False),
        (refused(402), True),
        (refused(409, "job_running"), True),
        (refused(422), True),
    ],
)
async def test_a_key_stays_with_its_click_until_an_answer_decides(browser, answer, is_definite):
    site = Site(answer, http({"job_id": "j1"}, status=202))
    async with live.serve_raw(site.handle) as site.base, await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{site.base}/")
        for _ in range(2):
            await page.evaluate(_CLICK)
            # Over a reload as well.
            await page.reload()
        first, second = [each.headers["idempotency-key"] for each in site.asked]
        assert (first != second) is is_definite
        # That is over: the same once more is another order.
        await page.evaluate(_CLICK)
        assert site.asked[2].headers["idempotency-key"] not in {first, second}


_CLICK = """async () => {
  const [{ generate }, { once }] = await Promise.all([import("/nanohook.js"), import("/idempotency.js")]);
  const wish = { prompt: "a kite" };
  await once(["generate", wish], (idempotencyKey) => generate(wish, { idempotencyKey })).catch(() => {});
}"""


class Site(Server):
    """An empty page, our scripts, and below ``/api`` what a test wrote."""

    def answer_to(self, asked):
        if asked.path.startswith("/api/"):
            return super().answer_to(asked)
        if asked.path.endswith(".js"):
            return http((pages.STATIC / asked.path[1:]).read_bytes(), kind="text/javascript")
        return http(b"<!doctype html><title>empty</title>", kind="text/html")


# A Generate of which nothing came.


@pytest.mark.parametrize("why", ["offline", "limit", "credits", "cut"])
async def test_a_generate_that_fails_leaves_the_picture_before_where_it_was(browser, tmp_path, why):
    # A day, since one in a minute can be one at its end and one at the beginning of the next.
    how = {"rate_write": "1/day"} if why == "limit" else {}
    async with studio(browser, tmp_path, **how) as (visit, link):
        page, notice = visit.page, visit.page.locator("#notice")
        await page.locator("#generate").click()
        await visit.state("done")
        size = await page.locator("#after-size").text_content()
        await page.locator("#prompt").fill("a boat")
        if why == "offline":
            await page.context.set_offline(True)
        elif why == "credits":
            await spend_all(visit.service)
        elif why == "cut":
            link.change(lambda line: Way.CUT if "/api/generate-image" in line else Way.PASS)
        await page.locator("#generate").click()
        said = {"limit": "Try again in", "credits": "too few credits"}.get(why, "does not answer")
        await expect(notice).to_contain_text(said, timeout=_WAIT_MS)
        await visit.state("done")
        await expect(page.locator("#view")).to_be_visible()
        await expect(page.locator("#after-size")).to_have_text(size)
        await expect(page.locator("#download")).to_be_visible()
        await expect(page.locator("#prompt")).to_have_value("a boat")
        assert await visit.after() == [64, 48]


async def test_a_generate_that_is_taken_back_at_once_leaves_the_picture_before_where_it_was(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        page = visit.page
        await page.locator("#generate").click()
        await visit.state("done")
        await page.locator("#prompt").fill("a boat")
        link.change(lambda line: Way.HOLD if "/api/generate-image" in line else Way.PASS)
        await page.locator("#generate").click()
        await visit.state("running")
        await page.get_by_role("button", name="Cancel").click()
        await visit.state("done")
        await expect(page.locator("#view")).to_be_visible()
        link.change(lambda _line: Way.PASS)


async def spend_all(service):
    me = (await service.client.get("/api/auth/me")).json()
    taken = {"user_id": me["id"], "amount": -me["credits"]["available"], "actor": "a test"}
    await service.parts.database.write(lambda tx: accounts.change_credits(tx, **taken, now_us=clock.now_us()))
