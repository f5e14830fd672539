"""The gallery of a project in a real browser: what can be done with its pictures."""

import io
import re
import zipfile

import pytest
from PIL import Image
from playwright.async_api import expect

from nanohook.sandbox.options import Options
from tests import live, rig
from tests.galleries import gallery_of, new_project

_WAIT_MS = 20_000
# Long enough to see a job at work, and to reload the page there.
_SLOW = Options(latency_s=5, callback_pause_s=0.05)
_NEVER = "a kite [sandbox:latency=600]"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_delete_is_taken_back_by_a_button_or_a_key(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        kept = await gallery.finished()
        await gallery.open()
        page = gallery.page
        await gallery.of_kind("ready").get_by_role("button", name="Delete").click()
        await expect(gallery.cards).to_have_count(0)
        await expect(page.get_by_role("heading", name="No pictures yet")).to_be_visible()
        await page.get_by_role("button", name="Undo").click()
        await expect(gallery.of_kind("ready")).to_have_count(1)
        assert await gallery.visit.service.job(kept)

        await gallery.cards.focus()
        async with page.expect_response("**/api/images/delete"):
            await page.keyboard.press("Delete")
        await expect(gallery.cards).to_have_count(0)
        await page.keyboard.press("Control+z")
        await expect(gallery.of_kind("ready")).to_have_count(1)

        # Somebody else's deletion shows by itself.
        await gallery.visit.service.client.delete(f"/api/images/{kept}")
        await expect(gallery.cards).to_have_count(0)
        assert gallery.visit.complaints == []


async def test_filter_and_search_show_what_fits_and_survive_a_reload(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await gallery.finished("a red boat")
        await gallery.finished("a storm [sandbox:fail=400]")
        await gallery.upload()
        await gallery.open()
        page = gallery.page
        await expect(gallery.cards).to_have_count(3)
        await expect(page.locator("[data-show=all] b")).to_have_text("3")
        await page.get_by_role("button", name="Failed 1").click()
        await expect(gallery.cards).to_have_count(1)
        await expect(gallery.of_kind("failed")).to_have_count(1)
        await page.reload()
        await gallery.is_there()
        await expect(gallery.cards).to_have_count(1)
        await expect(page.get_by_role("button", name="Failed 1")).to_have_attribute("aria-pressed", "true")

        await page.get_by_role("button", name="All 3").click()
        await page.keyboard.press("/")
        await expect(page.locator("#search")).to_be_focused()
        await page.keyboard.type("BOAT")
        await expect(gallery.cards).to_have_count(1)
        await page.locator("#search").fill("nothing like this")
        await expect(page.get_by_role("heading", name="No picture matches")).to_be_visible()
        await page.get_by_role("button", name="Show all pictures").click()
        await expect(gallery.cards).to_have_count(3)
        await expect(page.locator("#search")).to_have_value("")
        assert gallery.visit.complaints == []


async def test_a_search_goes_on_past_pages_on_which_nothing_is_found(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await gallery.finished("a red boat")
        await gallery.open()

        async def nothing_yet(route):
            if "cursor=" in route.request.url:
                await route.continue_()
            else:
                await route.fulfill(json={"images": [], "next_cursor": "ffffffff-ffff-7fff-bfff-ffffffffffff"})

        await gallery.page.route("**/api/images?*q=boat*", nothing_yet)
        await gallery.page.locator("#search").fill("boat")
        await expect(gallery.page.locator("#said")).to_have_text("1 picture")
        await expect(gallery.cards).to_have_count(1)


async def test_more_come_a_page_at_a_time_newest_first(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        names = [await gallery.upload() for _ in range(26)]
        await gallery.open()
        await expect(gallery.cards).to_have_count(24)
        await gallery.page.get_by_role("button", name="Load more").click()
        await expect(gallery.cards).to_have_count(26)
        await expect(gallery.page.get_by_role("button", name="Load more")).to_be_hidden()
        pictures = await gallery.page.locator("#grid .fill").evaluate_all("(all) => all.map((i) => i.dataset.url)")
        originals = [(await gallery.visit.service.job(name))["original"] for name in reversed(names)]
        assert pictures == [original["thumbnail_url"] for original in originals]


async def test_chosen_pictures_come_as_a_zip_that_opens(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        names = {await gallery.finished(), await gallery.finished()}
        await gallery.upload()
        await gallery.open()
        page = gallery.page
        await page.get_by_role("checkbox", name="Select").first.check()
        await page.get_by_role("button", name="Download ZIP").click()
        await expect(page.get_by_role("alert")).to_have_text("None of the selected pictures is ready yet.")
        await page.get_by_role("button", name="Select all").click()
        await expect(page.locator("#number")).to_have_text("3 selected")
        async with page.expect_download() as downloading:
            await page.get_by_role("button", name="Download ZIP").click()
        with zipfile.ZipFile(await (await downloading.value).path()) as archive:
            assert archive.testzip() is None
            assert {name.partition(".")[0] for name in archive.namelist()} == names
            with Image.open(io.BytesIO(archive.read(archive.namelist()[0]))) as saved:
                assert saved.size == (230, 340)

        await page.locator("#bin").click()
        await expect(gallery.cards).to_have_count(0)
        await expect(page.get_by_text("3 pictures deleted")).to_be_visible()
        await page.get_by_role("button", name="Undo").click()
        await expect(gallery.cards).to_have_count(3)
        assert gallery.visit.complaints == []


async def test_a_reload_in_the_middle_goes_on_and_what_ended_meanwhile_is_told(browser, tmp_path):
    async with gallery_of(browser, tmp_path, sandbox=_SLOW) as gallery:
        job_id = await gallery.upload()
        await gallery.open()
        page = gallery.page
        await gallery.cards.get_by_role("textbox").fill("a harbour")
        await page.keyboard.press("Control+Enter")
        await expect(gallery.cards.locator(".doing")).to_have_text(re.compile("Generating… "), timeout=_WAIT_MS)
        await page.reload()
        await expect(gallery.of_kind("running")).to_have_count(1)
        await expect(gallery.cards.locator(".go")).to_have_text("Generating…")
        await expect(gallery.of_kind("ready")).to_have_count(1, timeout=_WAIT_MS)
        await expect(gallery.cards.get_by_role("textbox")).to_have_value("a harbour")

        # Another version is a picture of its own; it ends while nobody looks.
        await gallery.cards.get_by_role("button", name="New version").click()
        await expect(gallery.of_kind("running")).to_have_count(1)
        await page.goto("about:blank")
        newest = (await gallery.visit.service.client.get("/api/images?limit=1")).json()["images"][0]
        assert newest["source_job_id"] == job_id
        await gallery.visit.service.ended(newest["job_id"])
        await gallery.open()
        await expect(gallery.of_kind("ready")).to_have_count(2)
        await expect(page.get_by_text("finished while you were away")).to_be_visible()
        assert gallery.visit.complaints == []


async def test_what_fails_says_why_and_can_be_retried_and_canceled(browser, tmp_path):
    async with gallery_of(browser, tmp_path, reconcile_every_s=0.2) as gallery:
        await gallery.open()
        # Made by another program: it appears by itself.
        await gallery.finished("a storm [sandbox:fail=400]")
        card = gallery.of_kind("failed")
        await expect(card).to_contain_text("NanoBanana refused the prompt or picture")
        await expect(card).to_contain_text("Change the prompt or the picture.")
        await card.focus()
        async with gallery.page.expect_request(lambda request: request.url.endswith("/retry")):
            await gallery.page.keyboard.press("r")
        await expect(card).to_have_count(1)

        await card.get_by_role("textbox").fill(_NEVER)
        await card.get_by_role("button", name="Generate").click()
        running = gallery.of_kind("running")
        await expect(running).to_be_focused()
        await expect(card.get_by_role("textbox")).to_have_value("a storm [sandbox:fail=400]")
        await running.get_by_role("button", name="Cancel generation").click()
        await expect(gallery.of_kind("canceled")).to_have_count(1)
        await expect(gallery.of_kind("canceled").get_by_role("button", name="Retry")).to_be_visible()
        assert gallery.visit.complaints == []


async def test_uploads_come_a_few_at_a_time_and_what_is_no_picture_is_refused_in_words(browser, tmp_path):
    async with gallery_of(browser, tmp_path, max_upload_bytes=2**20) as gallery:
        await gallery.open()
        page = gallery.page
        on_their_way, most, statuses = set(), 0, []

        def sent(request):
            nonlocal most
            if request.method == "POST" and request.url.endswith("/api/images"):
                on_their_way.add(request)
                most = max(most, len(on_their_way))

        def answered(answer):
            if answer.request in on_their_way:
                on_their_way.remove(answer.request)
                statuses.append(answer.status)

        page.on("request", sent)
        page.on("response", answered)
        pictures = {f"p{number}": rig.picture(900, 700 + number) for number in range(9)}
        await gallery.choose(**pictures, notes=b"no picture", large=b"x" * (2**20 + 1))
        await expect(gallery.of_kind("new")).to_have_count(9)
        await expect(gallery.of_kind("refused")).to_have_count(2)
        assert most > 1
        # The service takes four at once of one person, and refuses a fifth.
        assert sorted(statuses) == [201] * 9 + [415]
        await expect(gallery.of_kind("refused").first).to_contain_text("More than 1 MB")
        await expect(gallery.of_kind("refused").last).to_contain_text("Not a picture that can be used")
        await gallery.of_kind("refused").first.get_by_role("button", name="Remove").click()
        await expect(gallery.of_kind("refused")).to_have_count(1)

        await page.context.set_offline(True)
        await gallery.choose(later=rig.picture(64, 48))
        await expect(gallery.of_kind("refused").first).to_contain_text("does not answer")
        await page.context.set_offline(False)
        await gallery.of_kind("refused").first.get_by_role("button", name="Retry").click()
        await expect(gallery.of_kind("new")).to_have_count(10)


async def test_an_error_of_the_service_is_told_and_takes_no_text_away(browser, tmp_path):
    async with gallery_of(browser, tmp_path, nanobanana_api_key=None) as gallery:
        await gallery.upload()
        await gallery.open()
        card = gallery.of_kind("new")
        await card.get_by_role("button", name="Generate").click()
        await expect(card).to_contain_text("Say what shall change.")
        await expect(card.get_by_role("textbox")).to_be_focused()
        await card.get_by_role("textbox").fill("a kite")
        await card.get_by_role("button", name="Generate").click()
        await expect(gallery.page.get_by_role("alert")).to_contain_text("no NanoBanana key yet")
        await expect(card.locator(".go")).to_have_text("Generate")
        await gallery.page.reload()
        await expect(card.get_by_role("textbox")).to_have_value("a kite")


async def test_a_long_prompt_of_which_a_list_has_the_beginning_is_whole_when_it_is_changed(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        prompt = "a kite over the sea at dusk, " * 100 + "the end"
        await gallery.finished(prompt)
        await gallery.open()
        card = gallery.cards.first
        text = card.locator("textarea")
        await expect(text).to_have_value(prompt[:500])
        # Nobody types into the beginning of it.
        await expect(text).not_to_be_editable()
        await text.focus()
        await expect(text).to_have_value(prompt)
        await expect(text).to_be_editable()
        await text.press("Control+End")
        await text.press_sequentially(" of it")
        await text.press("Control+Enter")
        await expect(gallery.cards).to_have_count(2)
        answer = await gallery.visit.service.client.get("/api/images", params={"q": "the end of it"})
        [made] = answer.json()["images"]
        assert (await gallery.visit.service.job(made["job_id"]))["prompt"] == f"{prompt} of it"


async def test_a_long_prompt_is_whole_when_it_is_asked_for_again_unchanged(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        prompt = "a kite over the sea at dusk, " * 100 + "the end"
        first = await gallery.finished(prompt)
        await gallery.open()
        card = gallery.cards.first
        await card.focus()
        await card.locator("textarea").evaluate("(t) => t.dispatchEvent(new Event('input'))")
        await card.locator('[data-act="go"]').click()
        await expect(gallery.cards).to_have_count(2)
        listed = (await gallery.visit.service.client.get("/api/images")).json()["images"]
        [again] = [job["job_id"] for job in listed if job["job_id"] != first]
        assert (await gallery.visit.service.job(again))["prompt"] == prompt


async def test_dropped_and_pasted_pictures_are_taken(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await gallery.open()
        given = """async ([name, place]) => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 30 });
          canvas.getContext("2d").fillRect(0, 0, 20, 20);
          const body = await new Promise((done) => canvas.toBlob(done));
          const carried = new DataTransfer();
          carried.items.add(new File([body], "a.png", { type: "image/png" }));
          const init = { bubbles: true, cancelable: true, [place]: carried };
          const event = new (name === "paste" ? ClipboardEvent : DragEvent)(name, init);
          return document.body.dispatchEvent(event);
        }"""
        # Taken by us: the browser shall not open the file in place of the page.
        assert await gallery.page.evaluate(given, ["drop", "dataTransfer"]) is False
        await expect(gallery.of_kind("new")).to_have_count(1)
        assert await gallery.page.evaluate(given, ["paste", "clipboardData"]) is False
        await expect(gallery.of_kind("new")).to_have_count(2)


async def test_arrows_lead_through_the_grid(browser, tmp_path):
    async with gallery_of(browser, tmp_path, window={"viewport": {"width": 1280, "height": 800}}) as gallery:
        for _ in range(6):
            await gallery.upload()
        await gallery.open()
        page, cards = gallery.page, gallery.cards
        await expect(cards).to_have_count(6)
        await cards.first.focus()
        for key, place in [("ArrowRight", 1), ("ArrowDown", 5), ("ArrowUp", 1), ("End", 5), ("Home", 0)]:
            await page.keyboard.press(key)
            await expect(cards.nth(place)).to_be_focused()
        await page.keyboard.press("Space")
        await expect(page.locator("#number")).to_have_text("1 selected")
        await page.keyboard.press("Enter")
        await expect(page.locator("#full")).to_be_visible()
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Escape")
        await expect(cards.nth(1)).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("#chosen")).to_be_hidden()
        # The focus goes on to the neighbour of what is deleted.
        await page.keyboard.press("Delete")
        await expect(cards).to_have_count(5)
        await expect(cards.nth(1)).to_be_focused()
        assert gallery.visit.complaints == []


async def test_a_job_of_another_project_does_not_show(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await gallery.open()
        asked = gallery.visit.asked
        other = await new_project(gallery.visit, "Other")
        before = len(asked)
        await gallery.upload(project_id=other)
        await live.until(lambda: any("/api/images?" in address for address in asked[before:]))
        await gallery.upload()
        await expect(gallery.cards).to_have_count(1)
