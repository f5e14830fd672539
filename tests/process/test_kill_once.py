"""kill -9 around the commit of a request with an Idempotency-Key; the same request again never does it twice."""

import asyncio
import dataclasses
import pathlib
import shutil
import signal

import httpx
import pytest

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from tests import books, live
from tests.process import child

KEY = {"Idempotency-Key": "one and the same"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Where the service dies, and what of the request is stored then."""

    point: str
    is_retry: bool = False
    is_stored: bool

    def __str__(self) -> str:
        return self.point


SCENES = [
    Scene(point="accept.read", is_stored=False),
    Scene(point="once.done", is_stored=False),
    Scene(point="accept.committed", is_stored=True),
    # The first passing is that of the job that fails.
    Scene(point="once.done:2", is_retry=True, is_stored=False),
    Scene(point="accept.committed:2", is_retry=True, is_stored=True),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return asyncio.run(_play_all(tmp_path_factory.mktemp("once")))


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_after_a_crash_the_same_key_does_it_once(outcomes, scene):
    if isinstance(outcomes[scene], BaseException):
        raise outcomes[scene]


async def _play_all(folder: pathlib.Path) -> dict[Scene, BaseException | None]:
    ready = folder / "ready"
    account = people.NewAccount(email="ada@example.org", is_verified=True, credits=100)
    key = await people.create(settings.fixed(data_dir=ready), account)
    async with live.serve(create_app(Options(latency_s=0.02, callback_pause_s=1.2))) as upstream:
        played = [
            _play(scene, shutil.copytree(ready, folder / str(number)), upstream, key)
            for number, scene in enumerate(SCENES)
        ]
        return dict(zip(SCENES, await asyncio.gather(*played, return_exceptions=True), strict=True))


async def _play(scene: Scene, folder: pathlib.Path, upstream: str, key: str) -> None:
    where = {"port": live.closed_port(), "upstream": upstream}
    path, body = "/api/generate-image", {"prompt": "a kite"}
    async with (
        child.service(folder, die_at=scene.point, **where) as service,
        _client(where["port"], key) as client,
    ):
        if scene.is_retry:
            path, body = await _failed(client, folder), {}
        with pytest.raises(httpx.TransportError):
            await client.post(path, json=body, headers=KEY)
        assert await service.exited() == -signal.SIGKILL
    attempts = "SELECT 1 FROM attempts WHERE number = ?"
    assert bool(books.rows(folder, attempts, 1 + scene.is_retry)) is scene.is_stored
    books.check(folder)
    async with child.service(folder, **where) as service, _client(where["port"], key) as client:
        again = await client.post(path, json=body, headers=KEY)
        assert ("idempotent-replayed" in again.headers) is scene.is_stored
        third = await client.post(path, json=body, headers=KEY)
        assert (again.status_code, again.content) == (202, third.content)
        assert third.headers["idempotent-replayed"] == "true"
        made = again.json()
        assert (made["attempt"], made["progress"]) == (1 + scene.is_retry, 10)
        listed = (await client.get("/api/images")).json()["images"]
        assert [job["job_id"] for job in listed] == [made["job_id"]]
        await live.until(lambda: books.rows(folder, "SELECT 1 FROM jobs WHERE completed_at IS NOT NULL"))
        assert (await client.get("/api/credits")).json()["available"] == (100 if scene.is_retry else 96)
        assert await service.stopped() == 0
    assert len(books.rows(folder, "SELECT 1 FROM attempts")) == 1 + scene.is_retry
    books.check(folder)


async def _failed(client: httpx.AsyncClient, folder: pathlib.Path) -> str:
    """Make a job that NanoBanana refuses; return where it is retried."""
    made = await client.post("/api/generate-image", json={"prompt": "[sandbox:submit=422] a kite"}, headers=KEY)
    await live.until(lambda: books.rows(folder, "SELECT 1 FROM jobs WHERE status = 'FAILED'"))
    return made.raise_for_status().json()["links"]["retry"]


def _client(port: int, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=20,
    )
