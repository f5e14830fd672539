"""A project's page in somebody's window, and a project to look at."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from playwright.async_api import Browser, Locator, Page, expect

from tests import rig
from tests.browsing import Visit, visiting


@dataclass
class Gallery:
    """One project's page in somebody's window."""

    visit: Visit
    project_id: str

    @property
    def page(self) -> Page:
        return self.visit.page

    @property
    def cards(self) -> Locator:
        return self.page.locator("#grid > [data-kind]")

    def of_kind(self, kind: str) -> Locator:
        return self.page.locator(f'#grid > [data-kind="{kind}"]')

    async def open(self) -> None:
        await self.page.goto(f"{self.visit.service.base}/dashboard/projects/{self.project_id}")
        await self.is_there()

    async def is_there(self) -> None:
        await expect(self.page.locator("#grid")).to_have_attribute("aria-busy", "false")
        await expect(self.page.locator("#link")).to_have_attribute("data-link", "live")

    async def choose(self, **pictures: bytes) -> None:
        files = [
            {"name": f"{name}.png", "mimeType": "image/png", "buffer": body} for name, body in pictures.items()
        ]
        await self.page.set_input_files("#files", files)

    async def upload(self, **form: str) -> str:
        """Upload by the API, as another program would."""
        answer = await self.visit.service.client.post(
            "/api/images",
            files={"file": ("x.png", rig.picture(230, 340))},
            data={"project_id": self.project_id, **form},
        )
        return answer.raise_for_status().json()["job_id"]

    async def finished(self, prompt: str = "a kite") -> str:
        job_id = await self.upload()
        await self.visit.service.generate(prompt, imageId=job_id)
        await self.visit.service.ended(job_id)
        return job_id


async def new_project(visit: Visit, name: str = "Winter") -> str:
    answer = await visit.service.client.post("/api/projects", json={"name": name})
    return answer.raise_for_status().json()["project_id"]


@contextlib.asynccontextmanager
async def gallery_of(browser: Browser, tmp_path, **how) -> AsyncIterator[Gallery]:
    """Sign somebody in who has an empty project; its page is not open yet."""
    async with visiting(browser, tmp_path, **how) as visit:
        await visit.sign_in()
        yield Gallery(visit, await new_project(visit))


async def size_of(image: Locator) -> list[int]:
    return await image.evaluate("(i) => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
