"""The pages of projects in a real browser: from the first project to a finished picture."""

import re

import pytest
from PIL import Image
from playwright.async_api import expect

from nanohook.sandbox.options import Options
from tests import rig
from tests.browsing import visiting
from tests.galleries import Gallery, gallery_of, size_of

_BUDGET_BYTES = 60_000
_WAIT_MS = 10_000
# Long enough to see a job at work.
_SLOW = Options(latency_s=1.4, callback_pause_s=0.05)
_NEVER = "a kite [sandbox:latency=600]"

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_from_a_new_project_to_a_finished_picture_without_a_reload(browser, tmp_path):
    async with visiting(browser, tmp_path, sandbox=_SLOW) as visit:
        await visit.sign_in()
        page = visit.page
        await page.get_by_role("link", name="Projects").click()
        await expect(page.get_by_role("heading", name="No project yet")).to_be_visible()
        await page.locator("#empty").get_by_role("button", name="New project").click()
        await page.get_by_role("button", name="Make the project").click()
        await expect(page.get_by_role("alert")).to_have_text("Give the project a name.")
        await page.get_by_role("textbox", name="Name").fill("Winter catalogue")
        await page.get_by_label("Description").fill("In snow")
        await page.set_input_files("#cover", {"name": "c.png", "mimeType": "image/png", "buffer": rig.picture()})
        await page.get_by_role("button", name="Make the project").click()
        await expect(page.get_by_role("heading", name="Winter catalogue")).to_be_visible()

        gallery = Gallery(visit, page.url.rpartition("/")[2])
        await gallery.is_there()
        await page.evaluate("window.isTheSamePage = true")
        await gallery.choose(first=rig.picture(120, 90), second=rig.picture(401, 263))
        await expect(gallery.of_kind("new")).to_have_count(2)
        card = gallery.cards.filter(has_text="401 × 263")
        go = card.locator(".go")
        await card.get_by_role("textbox").fill("a kite at night")
        said = "async (b) => { b.click(); await null; return [b.innerText.trim(), b.ariaBusy, b.ariaDisabled]; }"
        assert await go.evaluate(said) == ["Generating…", "true", "true"]
        await expect(card.locator(".doing")).to_have_text(re.compile(r"Generating… \d+ s"), timeout=_WAIT_MS)
        await expect(card).to_have_attribute("data-kind", "ready", timeout=_WAIT_MS)
        await expect(page.get_by_text("A picture is ready 🎉")).to_be_visible()
        await expect(page.locator("[data-show=ready] b")).to_have_text("1")

        await card.get_by_role("button", name="View", exact=True).click()
        await expect(page.locator("#full img")).to_be_visible()
        assert await size_of(page.locator("#full img")) == [401, 263]
        await page.keyboard.press("Escape")
        async with page.expect_download() as downloading:
            await card.get_by_role("link", name="Download").click()
        download = await downloading.value
        assert download.suggested_filename.startswith("a-kite-at-night-nanohook.")
        with Image.open(await download.path()) as saved:
            assert saved.size == (401, 263)

        assert await page.evaluate("window.isTheSamePage")
        await page.get_by_role("link", name="Projects").first.click()
        await expect(page.locator(".project")).to_contain_text("2 pictures")
        assert visit.complaints == []
        assert visit.hosts == {visit.service.base.removeprefix("http://")}


async def test_a_project_is_renamed_given_a_cover_and_deleted_after_a_question(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        page = gallery.page
        await page.goto(f"{gallery.visit.service.base}/dashboard/projects")
        card = page.locator(".project")
        await expect(card).to_contain_text("no pictures yet")
        await card.get_by_role("button", name="Rename or change").click()
        await page.get_by_role("textbox", name="Name").fill("Spring")
        await page.set_input_files("#cover", {"name": "c.png", "mimeType": "image/png", "buffer": b"none"})
        await page.get_by_role("button", name="Save").click()
        await expect(page.get_by_role("alert")).to_contain_text("Not a picture that can be used")
        await page.set_input_files("#cover", {"name": "c.png", "mimeType": "image/png", "buffer": rig.picture()})
        await page.get_by_role("button", name="Save").click()
        await expect(card.locator("img")).to_be_visible()
        await expect(card).to_contain_text("Spring")
        await card.get_by_role("button", name="Rename or change").click()
        await page.get_by_role("button", name="Remove the cover").click()
        await page.get_by_role("button", name="Save").click()
        await expect(card.locator("img")).to_be_hidden()

        await card.get_by_role("button", name="Delete").click()
        await expect(page.get_by_role("dialog")).to_contain_text("“Spring” and everything in it")
        await page.keyboard.press("Escape")
        await expect(card).to_have_count(1)
        await card.get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Delete it").click()
        await expect(page.get_by_role("heading", name="No project yet")).to_be_visible()
        assert (await gallery.visit.service.client.get("/api/projects")).json()["projects"] == []


async def test_another_persons_project_is_not_there_and_a_stranger_is_asked_who_they_are(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        service, page = gallery.visit.service, gallery.page
        key = await rig.make_account(service, "grace@example.org")
        answer = await service.client.post(
            "/api/projects", json={"name": "Hers"}, headers={"Authorization": f"Bearer {key}"}
        )
        for project_id in (answer.json()["project_id"], "nothing"):
            shown = await page.goto(f"{service.base}/dashboard/projects/{project_id}")
            assert shown is not None
            assert shown.status == 404
            await expect(page.get_by_role("heading", name="This page is not here")).to_be_visible()
        await page.get_by_role("link", name="To your projects").click()
        await expect(page.locator(".project")).to_have_count(1)
        await page.context.clear_cookies()
        shown = await page.reload()
        assert shown is not None
        assert shown.status == 401


async def test_the_pages_speak_french(browser, tmp_path):
    async with gallery_of(browser, tmp_path, window={"locale": "fr-FR"}) as gallery:
        await gallery.finished("un orage [sandbox:fail=400]")
        await gallery.upload()
        await gallery.open()
        page = gallery.page
        await expect(gallery.of_kind("new").locator(".go")).to_have_text("Générer")
        # Made by a program that asked in English: the page has its own words.
        await expect(gallery.of_kind("failed")).to_contain_text("NanoBanana a refusé le texte ou l'image")
        await gallery.of_kind("new").get_by_role("textbox").fill(_NEVER)
        await gallery.of_kind("new").get_by_role("button", name="Générer").click()
        await expect(gallery.of_kind("running").locator(".go")).to_have_text("Génération...")
        await expect(gallery.of_kind("running").locator(".doing")).to_have_text(re.compile(r"Génération... \d+ s"))
        await page.get_by_role("link", name="English").click()
        await expect(gallery.of_kind("running").locator(".go")).to_have_text("Generating…")
        assert page.url.endswith(gallery.project_id)
        assert gallery.visit.complaints == []


async def test_a_phone_has_one_column_and_room_for_thumbs(browser, tmp_path):
    window = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    async with gallery_of(browser, tmp_path, window=window) as gallery:
        await gallery.finished()
        await gallery.finished("a storm [sandbox:fail=400]")
        page = gallery.page
        for address in ("", f"/{gallery.project_id}"):
            await page.goto(f"{gallery.visit.service.base}/dashboard/projects{address}")
            await expect(page.locator("#grid .card:not(.waits)").first).to_be_visible()
            assert await page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
            assert await page.evaluate(_TOO_SMALL) == []
        left = await gallery.cards.evaluate_all("(all) => all.map((card) => card.offsetLeft)")
        assert len(left) == 2
        assert len(set(left)) == 1
        await gallery.of_kind("ready").get_by_role("checkbox").check()
        await expect(page.get_by_role("button", name="Download ZIP")).to_be_in_viewport()


_TOO_SMALL = """() => [...document.querySelectorAll("a, button, label, textarea, input")]
  .filter((each) => each.checkVisibility() && !each.matches("label *, .unseen"))
  .map((each) => [each.id || each.className, each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 44).map(([name]) => name)"""


async def test_nothing_jumps_while_the_first_view_comes_and_it_weighs_little(browser, tmp_path):
    async with gallery_of(browser, tmp_path, window={"locale": "fr-FR"}) as gallery:
        await gallery.finished()
        await gallery.upload()
        page = gallery.page
        await page.add_init_script(_WATCH_SHIFTS)
        for address in (f"/{gallery.project_id}", ""):
            # A profile that has seen nothing yet.
            await page.goto(f"{gallery.visit.service.base}/dashboard/projects{address}")
            await expect(page.locator("#grid .card:not(.waits) img").first).to_be_attached()
            await page.wait_for_load_state("load")
            weights = await gallery.visit.weights()
            assert {"/static/dashboard.css", "/static/saying.js"} <= set(weights)
            assert sum(weights.values()) < _BUDGET_BYTES, weights
            await page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert await page.evaluate("window.shifted") < 0.01


_WATCH_SHIFTS = """window.shifted = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((each) => (window.shifted += each.value)))
  .observe({ type: "layout-shift", buffered: true });"""
