"""The API's page in a real browser: it shows the document, and asks no other host for anything."""

import pytest
from playwright.async_api import expect

from nanohook.web import operations
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_it_shows_every_operation_and_tries_one_without_leaving_the_host(browser, tmp_path):
    async with rig.running(tmp_path) as service:
        context = await browser.new_context()
        page = await context.new_page()
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: said.type in {"warning", "error"} and complaints.append(said.text))
        try:
            await page.goto(f"{service.base}/api/docs")
            await expect(page.locator(".opblock-tag-section")).to_have_count(len(operations.TAGS))
            shown = await page.locator(".opblock-summary-path").evaluate_all(
                "(found) => found.map((each) => each.dataset.path)"
            )
            assert {each.path for each in operations.ALL} <= set(shown)

            line = page.locator("#operations-service-get_healthz")
            await line.locator(".opblock-summary-control").click()
            await line.get_by_role("button", name="Try it out").click()
            await line.get_by_role("button", name="Execute", exact=True).click()
            await expect(line.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        finally:
            await context.close()
        assert complaints == []
        hosts = {address.split("/")[2] for address in asked if address.startswith("http")}
        assert hosts == {service.base.removeprefix("http://")}
