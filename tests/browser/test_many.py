"""Many pictures at once in the gallery: what it says is what the service has, even if the page is closed."""

import pytest
from playwright.async_api import expect

from tests import relay, rig
from tests.galleries import gallery_of

_WAIT_MS = 30_000

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def all_shown(gallery, number, *, base=None):
    """Fill the project with *number* pictures, open its page, load all of them and select them."""
    for _ in range(number):
        await gallery.upload()
    await gallery.page.goto(f"{base or gallery.visit.service.base}/dashboard/projects/{gallery.project_id}")
    await gallery.is_there()
    while await gallery.page.locator("#more").is_visible():
        before = await gallery.cards.count()
        await gallery.page.locator("#more").click()
        await expect(gallery.cards).not_to_have_count(before)
    await expect(gallery.cards).to_have_count(number)
    await gallery.cards.first.hover()
    await gallery.page.get_by_role("checkbox", name="Select").first.check()
    await gallery.page.locator("#whole").click()
    await expect(gallery.page.locator("#number")).to_have_text(f"{number} selected")


async def kept(gallery):
    """Count what the service has."""
    answer = await gallery.visit.service.client.get("/api/images?limit=200")
    return len(answer.raise_for_status().json()["images"])


def posts(gallery, path):
    return sum(address.endswith(path) for address in gallery.visit.asked)


async def test_fifty_three_are_deleted_and_brought_back_by_one_request_each(browser, tmp_path):
    # The limits of the contract, at the tenth part of which single requests would be refused.
    async with gallery_of(browser, tmp_path, rate_write="30/10 seconds") as gallery:
        await all_shown(gallery, 53)
        page = gallery.page
        await page.locator("#bin").click()
        await expect(gallery.cards).to_have_count(0)
        await expect(page.get_by_text("53 pictures deleted")).to_be_visible()
        assert await kept(gallery) == 0
        await page.get_by_role("button", name="Undo").click()
        await expect(page.get_by_text("53 pictures restored")).to_be_visible(timeout=_WAIT_MS)
        assert await kept(gallery) == 53
        await expect(gallery.cards).to_have_count(53)
        assert posts(gallery, "/api/images/delete") == posts(gallery, "/api/images/restore") == 1
        assert gallery.visit.complaints == []


async def test_who_closes_the_page_right_after_the_click_loses_nothing_half_way(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await all_shown(gallery, 53)
        await gallery.page.evaluate("document.getElementById('bin').click()")
        await gallery.page.close()
        async with gallery.visit.service.client.stream("GET", "/api/events?last_event_id=0") as stream:
            deleted = 0
            async for line in stream.aiter_lines():
                deleted += line == "event: deleted"
                if deleted == 53:
                    break
        assert await kept(gallery) == 0


async def test_a_deletion_that_fails_puts_the_pictures_back_and_says_why(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await all_shown(gallery, 3)
        page = gallery.page
        await page.context.set_offline(True)
        await page.locator("#bin").click()
        await expect(page.get_by_role("alert")).to_contain_text("does not answer")
        await expect(gallery.cards).to_have_count(3)
        await expect(page.get_by_text("deleted")).to_have_count(0)
        await page.context.set_offline(False)
        # What somebody else has deleted meanwhile is gone, and no error.
        newest = (await gallery.visit.service.client.get("/api/images")).json()["images"][0]["job_id"]
        await gallery.visit.service.client.delete(f"/api/images/{newest}")
        await expect(gallery.cards).to_have_count(2)
        assert await kept(gallery) == 2


async def test_an_answer_that_was_read_before_a_deletion_brings_nothing_back(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await all_shown(gallery, 2)
        page, client = gallery.page, gallery.visit.service.client

        async def late(route):
            answer = await (await route.fetch()).json()
            newest, oldest = answer["images"]
            await client.delete(f"/api/images/{newest['job_id']}")
            await expect(gallery.cards).to_have_count(1)
            # One more, taken in after the others: it shows that they were.
            answer["images"].append(oldest | {"job_id": "00000000-0000-7000-8000-000000000000"})
            await route.fulfill(json=answer)

        await page.route("**/api/images?*", late, times=1)
        async with page.expect_response("**/api/images?*"):
            await page.evaluate("dispatchEvent(new Event('online'))")
        await expect(gallery.cards).to_have_count(2)


async def test_what_is_taken_back_before_it_is_answered_is_back(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery, relay.before(gallery.visit.service.base) as link:
        await all_shown(gallery, 3, base=link.base)
        page = gallery.page
        link.change(lambda line: relay.Way.HOLD if line.endswith("/delete") else relay.Way.PASS)
        await page.locator("#bin").click()
        await expect(page.get_by_text("Deleting 3 pictures…")).to_be_visible()
        await page.get_by_role("button", name="Undo").click()
        link.change(lambda _line: relay.Way.PASS)
        await expect(page.get_by_text("3 pictures restored")).to_be_visible()
        await expect(gallery.cards).to_have_count(3)
        assert await kept(gallery) == 3


async def test_more_than_one_request_may_name_go_in_pieces(browser, tmp_path):
    async with gallery_of(browser, tmp_path) as gallery:
        await all_shown(gallery, 203)
        await gallery.page.locator("#bin").click()
        await expect(gallery.page.get_by_text("203 pictures deleted")).to_be_visible(timeout=_WAIT_MS)
        assert await kept(gallery) == 0
        await gallery.page.keyboard.press("Control+z")
        await expect(gallery.page.get_by_text("203 pictures restored")).to_be_visible(timeout=_WAIT_MS)
        assert posts(gallery, "/api/images/delete") == posts(gallery, "/api/images/restore") == 2


async def test_fifty_files_dropped_at_once_all_arrive(browser, tmp_path):
    async with gallery_of(browser, tmp_path, rate_upload="20/11 seconds", rate_write="2/minute") as gallery:
        await gallery.open()
        statuses = []
        gallery.page.on(
            "response",
            lambda answer: (
                answer.request.method == "POST"
                and answer.url.endswith("/api/images")
                and statuses.append(answer.status)
            ),
        )
        await gallery.choose(**{f"p{number}": rig.picture(40, 30 + number) for number in range(50)})
        await expect(gallery.cards.locator(".doing", has_text="Waiting to upload")).not_to_have_count(0)
        await expect(gallery.of_kind("new")).to_have_count(50, timeout=2 * _WAIT_MS)
        assert await kept(gallery) == 50
        assert statuses.count(201) == 50
        # All wait as long as one of them was told to; the window then lets in a few at a time.
        assert 1 <= statuses.count(429) < 50
        await expect(gallery.of_kind("refused")).to_have_count(0)
