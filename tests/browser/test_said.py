"""What a page says of money and of waiting: why nothing goes on, at which place, and what is kept."""

import orjson
import pytest
from playwright.async_api import expect

from nanohook.sandbox.options import Options
from tests import live, rig
from tests.browsing import visiting
from tests.galleries import gallery_of

_WAIT_MS = 15_000
_NEVER = "a kite [sandbox:latency=600]"
_KEPT = "NanoBanana had already started: the picture will be kept for you."
_GARDEE = "NanoBanana avait déjà commencé\N{NO-BREAK SPACE}: l’image sera gardée pour vous."

pytestmark = pytest.mark.asyncio(loop_scope="module")


def refusing(code):
    """A NanoBanana that refuses the account, whatever it is asked."""

    async def answer(scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": orjson.dumps({"code": code, "msg": "no"})})

    return answer


@pytest.mark.parametrize(
    ("code", "locale", "said"),
    [
        (402, "en-GB", "Waiting: the NanoBanana account has no credit left"),
        (401, "fr-FR", "En attente : NanoBanana n'accepte pas la clé en ce moment"),
    ],
)
async def test_while_the_account_is_refused_the_studio_says_why_and_at_which_place(
    browser, tmp_path, code, locale, said
):
    async with (
        live.serve(refusing(code)) as upstream,
        visiting(browser, tmp_path, window={"locale": locale}, nanobanana_url=upstream) as visit,
    ):
        page = visit.page
        await visit.sign_in()
        # Somebody's job that waits in front of theirs.
        await visit.service.generate("a boat")
        await visit.choose(rig.picture(64, 48))
        await page.locator("#prompt").fill("a kite")
        await page.locator("#generate").click()
        in_line = "place 2 in line" if locale == "en-GB" else "place 2 dans la file"
        await expect(page.locator("#stage")).to_have_text(f"{said} · {in_line}", timeout=_WAIT_MS)
        # A reload says the same, at once.
        await page.reload()
        await expect(page.locator("#stage")).to_contain_text(said)
        # And in the other language, although the job is told in that of who made it.
        await page.locator(".languages a:not([aria-current])").click()
        other = "En attente : le compte" if locale == "en-GB" else "Waiting: NanoBanana does not accept the key"
        await expect(page.locator("#stage")).to_contain_text(other)
        events = await visit.service.client.get(page.url.partition("job=")[2].join(["/api/images/", "/history"]))
        assert [event["stage"] for event in events.json()["events"]].count("queued") == 1


async def test_while_the_account_is_refused_every_card_says_why(browser, tmp_path):
    async with (
        live.serve(refusing(402)) as upstream,
        gallery_of(browser, tmp_path, nanobanana_url=upstream) as gallery,
    ):
        for number in range(3):
            job_id = await gallery.upload()
            await gallery.visit.service.generate(f"a kite {number}", imageId=job_id)
        await gallery.open()
        said = "Waiting: the NanoBanana account has no credit left"
        await expect(gallery.cards.locator(".fault", has_text=said)).to_have_count(3)
        places = [f"Waiting · place {place} in line" for place in (3, 2, 1)]
        await expect(gallery.cards.locator(".doing")).to_have_text(places, timeout=20_000)


async def test_who_waits_for_others_alone_is_told_the_place(browser, tmp_path):
    async with visiting(browser, tmp_path, open_tasks=1) as visit:
        await visit.sign_in()
        await visit.service.generate(_NEVER)
        await visit.choose(rig.picture(64, 48))
        await visit.page.locator("#prompt").fill("a kite")
        await visit.page.locator("#generate").click()
        said = "Waiting for its turn · place 1 in line"
        await expect(visit.page.locator("#stage")).to_have_text(said, timeout=_WAIT_MS)


@pytest.mark.parametrize(("locale", "kept"), [("en-GB", _KEPT), ("fr-FR", _GARDEE)])
async def test_a_cancel_after_the_submit_says_that_the_picture_is_kept(browser, tmp_path, locale, kept):
    async with visiting(browser, tmp_path, window={"locale": locale}) as visit:
        page = visit.page
        await visit.sign_in()
        await visit.choose(rig.picture(64, 48))
        await page.locator("#prompt").fill(_NEVER)
        await page.locator("#generate").click()
        await expect(page.locator("[data-step=generating]")).to_have_class("current", timeout=_WAIT_MS)
        await page.locator("#cancel").click()
        await visit.state("canceled")
        await expect(page.locator("#failure-advice")).to_have_text(kept)
        # Told by its tasks, to who comes later.
        await page.reload()
        await visit.state("canceled")
        await expect(page.locator("#failure-advice")).to_have_text(kept)


async def test_a_cancel_before_the_submit_says_nothing_of_the_kind(browser, tmp_path):
    async with visiting(browser, tmp_path, open_tasks=1) as visit:
        page = visit.page
        await visit.sign_in()
        await visit.service.generate(_NEVER)
        await visit.choose(rig.picture(64, 48))
        await page.locator("#prompt").fill("a kite")
        await page.locator("#generate").click()
        await expect(page.locator("#stage")).to_contain_text("place 1 in line", timeout=_WAIT_MS)
        await page.locator("#cancel").click()
        await visit.state("canceled")
        await expect(page.locator("#failure-advice")).to_be_empty()


@pytest.mark.parametrize("act", ["Cancel generation", "Delete"])
async def test_a_running_card_that_is_stopped_or_deleted_says_that_its_picture_is_kept(browser, tmp_path, act):
    async with gallery_of(browser, tmp_path, sandbox=Options(latency_s=600)) as gallery:
        for _ in range(2):
            await gallery.visit.service.generate("a kite", imageId=await gallery.upload())
        await gallery.open()
        running = gallery.cards.locator(".doing", has_text="Generating")
        await expect(running).to_have_count(2, timeout=_WAIT_MS)
        await gallery.cards.first.get_by_role("button", name=act).click()
        toast = gallery.page.locator("#toasts [role=status]")
        await expect(toast).to_contain_text(_KEPT)
        if act == "Delete":
            await expect(toast).to_contain_text(f"Picture deleted. {_KEPT}")
        # A picture that was not begun has nothing to be kept.
        await gallery.upload()
        await gallery.page.reload()
        await gallery.is_there()
        await gallery.of_kind("new").get_by_role("button", name="Delete").click()
        await expect(toast.filter(has_text="Picture deleted")).to_be_visible()
        await expect(toast.filter(has_text=_KEPT)).to_have_count(0)
