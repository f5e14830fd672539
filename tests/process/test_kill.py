"""
kill -9 in the middle of a job, at every named point; then a restart, and the job ends as if nothing had been.

The scenes mostly wait, so they run side by side, once for the whole module; each test looks at one of them.
"""

import asyncio
import contextlib
import dataclasses
import hashlib
import pathlib
import re
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child, post_mortem
from tests.process.upstream import Patient

AT_ONCE = 4
END_S = 20.0
"""A killed claim may not make the restarted service wait for the end of a lease, which is 30 s."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Where the service dies, and what must come of the job all the same."""

    point: str
    prompt: str = "a kite"
    has_original: bool = True
    num_images: int = 1
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings."""
    error: str | None = None
    """The job ends with this error instead of a picture."""
    submitted: int | None = None
    """Tasks that NanoBanana was asked for, where that is not one an image."""
    orphans: int = 0
    """Files without a row: the dead claim's own, which nobody will ever show."""

    def __str__(self) -> str:
        return self.point + ("" if "public_url" not in self.given else " without public URL")


NO_CALLBACK = {"prompt": "a kite [sandbox:drop]", "given": {"reconcile_after_s": 0.2, "reconcile_every_s": 0.2}}
NO_PUBLIC_URL = {"has_original": False, "given": {"public_url": None}}
SCENES = [
    # The answer to the upload is lost, and the person uploads again.
    Scene(point="upload.stored", orphans=2),
    Scene(point="upload.settled"),
    Scene(point="submit.claimed"),
    # Nobody can know whether it was sent: never again by itself, and no callback comes.
    Scene(point="submit.started", given={"job_deadline_s": 2}, error="unknown_outcome", submitted=0),
    Scene(point="submit.started", **NO_PUBLIC_URL, error="unknown_outcome", submitted=0),
    # It was sent, and its callback arrives at the restarted service.
    Scene(point="submit.answered"),
    Scene(point="submit.answered", **NO_PUBLIC_URL, error="unknown_outcome"),
    Scene(point="submit.settled"),
    Scene(point="webhook.read"),
    Scene(point="webhook.committed"),
    Scene(point="ask.claimed", **NO_CALLBACK),
    Scene(point="ask.answered", **NO_CALLBACK),
    Scene(point="ask.settled", **NO_CALLBACK),
    Scene(point="finish.claimed"),
    Scene(point="finish.downloaded"),
    Scene(point="finish.resized"),
    Scene(point="finish.half_stored", orphans=1),
    Scene(point="finish.stored", orphans=2),
    Scene(point="finish.settled"),
    # In the middle of several: what is stored stays, what is bought is not bought again.
    Scene(point="submit.answered:2", num_images=3),
    Scene(point="finish.stored:2", num_images=3, given={"finish_concurrency": 1}, orphans=2),
]


@dataclasses.dataclass
class Outcome:
    """What was left when everybody had gone."""

    data_dir: pathlib.Path
    job_id: str
    killed: int
    """Exit code of the first service."""
    stopped: int
    """Exit code of the second."""
    submitted: int
    seen: list[tuple[int, dict[str, Any]]]
    """Events with an id, as a browser that comes back again and again got them."""

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return post_mortem.rows(self.data_dir, sql, self.job_id)


class Person:
    """Somebody with a browser, who does not give up."""

    def __init__(self, base: str, key: str) -> None:
        self._base = base
        self._headers = {"Authorization": f"Bearer {key}"}
        self.seen: list[tuple[int, dict[str, Any]]] = []

    async def asks(self, scene: Scene) -> str:
        """Upload and ask for a picture; return the job's id."""
        async with self._client() as client:
            body: dict[str, Any] = {"prompt": scene.prompt, "numImages": scene.num_images}
            if scene.has_original:
                answer = await client.post("/api/images", files={"file": ("x.png", rig.picture())})
                body["imageId"] = answer.raise_for_status().json()["job_id"]
            answer = await client.post("/api/generate-image", json=body)
            return str(answer.raise_for_status().json()["job_id"])

    async def finds(self) -> str | None:
        """Look whether what was asked for is there although its answer was lost."""
        async with self._client() as client:
            images = (await client.get("/api/images")).raise_for_status().json()["images"]
        return next((job["job_id"] for job in images if job["stage"] != "uploaded"), None)

    async def follows(self, job_id: str) -> None:
        """Stay on the job's stream as an EventSource does, until the job has ended."""
        path = f"/api/images/{job_id}/events"
        async with self._client() as client:
            while True:
                cursor = {"Last-Event-ID": str(self.seen[-1][0])} if self.seen else {}
                with contextlib.suppress(httpx.TransportError):
                    async with client.stream("GET", path, headers=cursor) as stream:
                        if stream.raise_for_status().status_code == 204:
                            return
                        if await self._reads(stream):
                            return
                await asyncio.sleep(0.05)  # what `retry` is for

    async def _reads(self, stream: httpx.Response) -> bool:
        event_id = 0
        async for line in stream.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = int(value)
            elif name == "data":
                self.seen.append((event_id, orjson.loads(value)))
                if self.seen[-1][1]["status"] in rig.FINAL:
                    return True
        return False

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._base, headers=self._headers, trust_env=False, timeout=20)


async def play(scene: Scene, data_dir: pathlib.Path, key: str) -> Outcome:
    """Let the service die in *scene*, start it again, and wait for the job's end."""
    # Its callback comes after the restart where it is not acknowledged: 1.2, 2.4 and 4.8 s between the tries.
    upstream = Patient(
        Options(latency_s=0.02, late_s=0.3 * scene.num_images, callback_pause_s=1.2),
        # It fetches the original from the service, and one that dies at the answer could not give it any more.
        held=("POST", "/"),
        until=lambda tasks: [bool(task.outcome) for task in tasks.by_id.values()] == [True] * scene.num_images,
    )
    async with contextlib.AsyncExitStack() as stack:
        where = {"port": live.closed_port(), "upstream": await stack.enter_async_context(live.serve(upstream))}
        person = Person(f"http://127.0.0.1:{where['port']}", key)
        following = None
        async with child.service(data_dir, die_at=scene.point, **where, **scene.given) as first:
            job_id = None
            # A service that dies at once may not have answered.
            with contextlib.suppress(httpx.TransportError):
                job_id = await person.asks(scene)
                following = await stack.enter_async_context(background(person.follows(job_id)))
            killed = await first.exited()
        async with child.service(data_dir, **where, **scene.given) as second:
            if job_id is None:
                job_id = await person.finds() or await person.asks(scene)
            try:
                await asyncio.wait_for(following or person.follows(job_id), END_S)
            except TimeoutError:
                raise AssertionError(f"the job did not end in {END_S} s\n{second.said[-3000:]}") from None
            stopped = await second.stopped()
        return Outcome(data_dir, job_id, killed, stopped, upstream.tasks.submitted, person.seen)


@contextlib.asynccontextmanager
async def background(work: Any) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def play_all(scenes: list[Scene], folder: pathlib.Path) -> dict[str, Outcome | BaseException]:
    ready = folder / "ready"
    key = await people.create(
        settings.fixed(data_dir=ready),
        people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000_000),
    )
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(scene: Scene) -> Outcome:
        async with gate:
            return await play(scene, shutil.copytree(ready, folder / re.sub(r"\W", "-", str(scene))), key)

    outcomes = await asyncio.gather(*map(one, scenes), return_exceptions=True)
    return dict(zip(map(str, scenes), outcomes, strict=True))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Every scene that a test of this run looks at."""
    wanted = [
        item.callspec.params["scene"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    ]
    return asyncio.run(play_all(wanted, tmp_path_factory.mktemp("kill")))


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_a_job_survives_a_kill(outcomes: dict[str, Outcome | BaseException], scene: Scene):
    outcome = outcomes[str(scene)]
    if isinstance(outcome, BaseException):
        raise outcome
    assert (outcome.killed, outcome.stopped) == (-signal.SIGKILL, 0)

    [job] = outcome.rows("SELECT * FROM jobs WHERE id = ?")
    assert ("COMPLETED" if scene.error is None else "FAILED", scene.error) == (job["status"], job["error_code"])
    # Paid once: no task was submitted twice, and none is still due for anything.
    assert outcome.submitted == (scene.num_images if scene.submitted is None else scene.submitted)
    tasks = outcome.rows("SELECT * FROM tasks WHERE job_id = ?")
    assert [(task["step"], task["due_at"]) for task in tasks] == [(None, None)] * scene.num_images
    callbacks = outcome.rows("SELECT * FROM deliveries WHERE job_id = ? AND source = 'token'")
    assert len(callbacks) <= scene.num_images

    # Stored once.
    pictures = outcome.rows("SELECT * FROM pictures WHERE job_id = ?")
    assert len(pictures) == (scene.num_images if scene.error is None else 0)
    if scene.has_original:
        assert all((picture["width_px"], picture["height_px"]) == (320, 180) for picture in pictures)
    files, named = post_mortem.files(outcome.data_dir), post_mortem.named_files(outcome.data_dir)
    assert named <= files
    for picture in pictures:
        body = (outcome.data_dir / "media" / picture["key"]).read_bytes()
        assert (len(body), hashlib.sha256(body).digest()) == (picture["bytes"], picture["sha256"])
    assert len(files - named) == scene.orphans, sorted(files - named)

    # Told once: ids grow, the last event is the job's state, and the browser saw just that.
    events = outcome.rows("SELECT * FROM events WHERE job_id = ? ORDER BY id")
    assert job["last_event_id"] == events[-1]["id"]
    assert job["status"] == orjson.loads(events[-1]["payload"])["status"]
    assert [False] * (len(events) - 1) + [True] == [bool(event["is_last"]) for event in events]
    ids = [event_id for event_id, _ in outcome.seen]
    assert ids == sorted(set(ids))
    assert ids == [event["id"] for event in events][-len(ids) :]
    progress = [state["progress"] for _, state in outcome.seen]
    assert progress == sorted(progress)
