"""Links that are dead without a sign, relays that hold streams back, frozen pages: all is seen in the end."""

import contextlib

import pytest
from playwright.async_api import expect

from nanohook.sandbox.options import Options
from tests import live, relay, rig
from tests.browsing import visiting
from tests.galleries import gallery_of
from tests.relay import Way

_WAIT_MS = 15_000
# Long enough to do something to the link while a job is at work.
_SLOW = Options(latency_s=1.5, callback_pause_s=0.05)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def studio(browser, tmp_path, **how):
    """Open the studio through a relay."""
    async with (
        visiting(browser, tmp_path, sandbox=_SLOW, **how) as visit,
        relay.before(visit.service.base) as link,
    ):
        await visit.sign_in()
        await visit.page.clock.install()
        await visit.page.goto(f"{link.base}/generate-images")
        await expect(visit.page.locator("#generate")).to_be_enabled()
        async with visit.page.expect_response("**/api/images") as uploaded:
            await visit.choose(rig.picture(64, 48))
        # No connection that goes dead has it on its way.
        await (await uploaded.value).finished()
        await visit.page.locator("#prompt").fill("a kite")
        yield visit, link


async def running(visit):
    """Press Generate, and wait until the stream has told that the job runs; return its id."""
    await visit.page.locator("#generate").click()
    await expect(visit.page.locator("[data-step=generating]")).to_have_class("current", timeout=_WAIT_MS)
    await expect(visit.page.locator("#link")).to_have_attribute("data-link", "live")
    return (await visit.service.client.get("/api/images?limit=1")).json()["images"][0]["job_id"]


async def test_a_link_that_is_dead_without_a_sign_is_noticed_by_its_silence(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        job_id = await running(visit)
        link.freeze()
        await visit.service.ended(job_id)
        await visit.state("running")
        streams = link.asked("/events?")
        await visit.page.clock.fast_forward(30_000)
        assert link.asked("/events?") == streams
        await visit.page.clock.fast_forward(12_000)
        await visit.state("done")
        assert link.asked("/events?") > streams
        assert visit.complaints == []


@pytest.mark.parametrize(
    "sign",
    [
        "document.dispatchEvent(new Event('visibilitychange'))",
        "dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))",
        "dispatchEvent(new Event('online'))",
        # Of a page that was frozen; Chromium freezes none that is seen.
        "document.dispatchEvent(new Event('resume'))",
    ],
)
async def test_who_comes_back_to_the_page_sees_at_once_how_it_stands(browser, tmp_path, sign):
    async with studio(browser, tmp_path) as (visit, link):
        job_id = await running(visit)
        link.freeze()
        await visit.service.ended(job_id)
        await visit.state("running")
        await visit.page.evaluate(sign)
        await visit.state("done")


async def test_an_order_over_connections_that_are_dead_without_a_sign_arrives_once(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        # Those that loaded the page are kept for what is asked next.
        link.freeze()
        await visit.page.locator("#generate").click()
        # The first try has five seconds, what clears the dead connections as many.
        await visit.state("done", timeout_ms=60_000)
        keys = link.keys("/api/generate-image")
        assert len(keys) > 1
        assert len(set(keys)) == 1
        assert visit.service.upstream.submitted == 1
        assert visit.complaints == []


async def test_a_write_without_a_key_is_not_sent_twice_and_its_silence_is_told(browser, tmp_path):
    async with studio(browser, tmp_path) as (visit, link):
        link.freeze()
        await visit.page.evaluate(
            """import("/static/nanohook.js").then(({ request }) =>
                request("POST", "/api/projects", { name: "twice?" }).then(
                    () => (window.told = "done"),
                    ({ status, code }) => (window.told = [status, code]),
                ),
            ) && null"""
        )
        await live.until(lambda: link.asked("POST /api/projects"))
        await visit.page.clock.fast_forward(60_000)
        await visit.page.wait_for_function("window.told")
        assert await visit.page.evaluate("window.told") == [0, "network"]
        assert link.asked("POST /api/projects") == 1


@pytest.mark.parametrize("way", [Way.HOLD, Way.HOLD_BODY])
async def test_where_streams_are_held_back_the_state_is_asked_for_until_they_flow_again(browser, tmp_path, way):
    async with studio(browser, tmp_path) as (visit, link):
        link.change(lambda line: way if "/events" in line else Way.PASS)
        await visit.page.locator("#generate").click()
        await visit.state("done")
        # Once in five seconds: the budget of one person has room for several such pages.
        assert 1 <= link.asked("/status") <= 4

        await visit.page.locator("#prompt").fill("a kite [sandbox:latency=600]")
        await visit.page.locator("#generate").click()
        await expect(visit.page.locator("[data-step=generating]")).to_have_class("current", timeout=_WAIT_MS)
        await expect(visit.page.locator("#link")).not_to_have_attribute("data-link", "live")
        link.change(lambda _line: Way.PASS)
        await expect(visit.page.locator("#link")).to_have_attribute("data-link", "live", timeout=_WAIT_MS)
        # It asks once more, since what was held back may be older; from then on the stream tells.
        await live.until(lambda: link.asked("/status"))
        asked = link.asked("/status")
        await visit.page.clock.run_for(11_000)
        assert link.asked("/status") <= asked + 1
        newest = (await visit.service.client.get("/api/images?limit=1")).json()["images"][0]
        await visit.service.client.post(f"/api/images/{newest['job_id']}/cancel")
        await visit.state("canceled")


async def test_a_person_with_too_many_streams_still_sees_the_picture(browser, tmp_path):
    async with studio(browser, tmp_path, streams_per_user=1) as (visit, link):
        async with visit.service.client.stream("GET", "/api/events"):
            await visit.page.locator("#generate").click()
            await visit.state("done")
        assert link.asked("/status") <= 4


async def test_a_gallery_whose_stream_is_held_back_or_dead_goes_on(browser, tmp_path):
    async with (
        gallery_of(browser, tmp_path, sandbox=_SLOW) as gallery,
        relay.before(gallery.visit.service.base) as link,
    ):
        service, page = gallery.visit.service, gallery.page
        job_id = await gallery.upload()
        await page.clock.install()
        link.change(lambda line: Way.HOLD_BODY if "/api/events" in line else Way.PASS)
        await page.goto(f"{link.base}/dashboard/projects/{gallery.project_id}")
        await service.generate("a kite", imageId=job_id)
        await service.ended(job_id)
        await expect(gallery.of_kind("ready")).to_have_count(1, timeout=_WAIT_MS)
        await expect(page.get_by_text("A picture is ready")).to_be_visible()
        # What another program makes comes as well.
        other = await gallery.upload()
        await expect(gallery.cards).to_have_count(2, timeout=_WAIT_MS)

        link.change(lambda _line: Way.PASS)
        await expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=_WAIT_MS)
        link.freeze()
        await service.generate("a kite", imageId=other)
        await service.ended(other)
        await expect(gallery.of_kind("new")).to_have_count(1)
        await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await expect(gallery.of_kind("ready")).to_have_count(2, timeout=_WAIT_MS)


async def test_what_is_read_over_connections_that_are_dead_without_a_sign_comes_by_a_second_try(browser, tmp_path):
    async with (
        gallery_of(browser, tmp_path) as gallery,
        relay.before(gallery.visit.service.base) as link,
    ):
        page = gallery.page
        await gallery.upload()
        await page.goto(f"{link.base}/dashboard/projects/{gallery.project_id}")
        await gallery.is_there()
        await expect(gallery.of_kind("new")).to_have_count(1)
        link.freeze()
        await page.locator("#search").fill("nothing is named so")
        await expect(gallery.of_kind("new")).to_have_count(0, timeout=_WAIT_MS)
        assert link.asked("nothing") == 2
        # Over the dead ones nothing else is asked.
        asked = link.asked("/healthz")
        await page.locator("#search").fill("")
        await expect(gallery.of_kind("new")).to_have_count(1, timeout=_WAIT_MS)
        assert link.asked("/healthz") == asked
