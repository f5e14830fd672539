"""A scene: the service dies at a named point, is started again, and the job goes on to its end."""

import asyncio
import contextlib
import dataclasses
import pathlib
import re
import shutil
import signal
from collections.abc import AsyncIterator
from typing import Any, Literal

import httpx
import orjson

from nanohook import clock, settings
from nanohook.cli import people
from nanohook.cli.opening import opened
from nanohook.flow import cancel
from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Table
from tests import live, rig
from tests.process import child, post_mortem
from tests.process.upstream import Hold, Odd, Patient

AT_ONCE = 5
END_S = 28.0
"""A killed claim may not make the restarted service wait for the end of a lease, which is 30 s."""
ASKING = {"reconcile_after_s": 0.2, "reconcile_every_s": 0.2}

Word = Literal["callback", "record", "doubted"]
Held = Literal["submit", "ask", "picture"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Where the service dies, and what must come of the job all the same."""

    point: str
    word: Word = "callback"
    """
    How NanoBanana's word comes: by callback; by ``record-info`` alone, every callback being dropped; or by a
    callback that tells of a failure, for which ``record-info`` is asked.
    """
    canceled: Held | Literal["after"] | None = None
    """
    Somebody cancels the job: while NanoBanana keeps back a request, before the point is reached; or right after
    the death, before the restart.
    """
    has_original: bool = False
    num_images: int = 1
    given: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings."""
    error: str | None = None
    """The job ends with this error instead of a picture."""
    submitted: int | None = None
    """Tasks that NanoBanana was asked for, where that is not one an image."""
    orphans: int = 0
    """Files without a row: the dead claim's own, which a sweep finds a day later."""

    def __str__(self) -> str:
        cancel = {None: "", "after": ", then canceled"}.get(self.canceled, f", canceled at a held {self.canceled}")
        return f"{self.point} by {self.word}{cancel}{' without public URL' if 'public_url' in self.given else ''}"

    @property
    def ended(self) -> str:
        """The job's status in the end."""
        if self.canceled:
            return "CANCELED"
        return "COMPLETED" if self.error is None else "FAILED"

    @property
    def made(self) -> int:
        """Pictures in the end; those of a canceled job are unclaimed."""
        if self.error is not None or self.submitted == 0:
            return 0
        return self.num_images

    @property
    def prompt(self) -> str:
        return {"callback": "a kite", "record": "a kite [sandbox:drop]", "doubted": "a kite [sandbox:fail=400]"}[
            self.word
        ]

    @property
    def settings(self) -> dict[str, Any]:
        return {**(ASKING if self.word == "record" else {}), **self.given}


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

    async def cancels(self, job_id: str) -> None:
        async with self._client() as client:
            (await client.post(f"/api/images/{job_id}/cancel")).raise_for_status()

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
    hold = Hold()
    upstream = _upstream(scene, hold)
    async with contextlib.AsyncExitStack() as stack:
        where = {"port": live.closed_port(), "upstream": await stack.enter_async_context(live.serve(upstream))}
        person = Person(f"http://127.0.0.1:{where['port']}", key)
        following = None
        async with child.service(data_dir, die_at=scene.point, **where, **scene.settings) as first:
            job_id = None
            # A service that dies at once may not have answered.
            with contextlib.suppress(httpx.TransportError):
                job_id = await person.asks(scene)
                following = await stack.enter_async_context(background(person.follows(job_id)))
            if job_id is not None and scene.canceled in {"submit", "ask", "picture"}:
                await asyncio.wait_for(hold.waiting.wait(), END_S)
                await person.cancels(job_id)
                hold.gate.set()
            killed = await first.exited()
        if scene.canceled == "after":
            job_id = await cancel_offline(data_dir)
        async with child.service(data_dir, **where, **scene.settings) as second:
            if job_id is None:
                job_id = await person.finds() or await person.asks(scene)
            try:
                await asyncio.wait_for(following or person.follows(job_id), END_S)
                await live.until(lambda: is_quiet(data_dir, upstream.tasks), timeout_s=END_S)
            except TimeoutError:
                raise AssertionError(f"the job did not end in {END_S} s\n{second.said[-3000:]}") from None
            stopped = await second.stopped()
        await post_mortem.audit(data_dir, orphans=scene.orphans)
        return Outcome(data_dir, job_id, killed, stopped, upstream.tasks.submitted, person.seen)


def _upstream(scene: Scene, hold: Hold) -> Odd | Patient:
    # A callback comes after the restart where it is not acknowledged: 1.4, 2.8, 5.6 s and so on between the tries.
    chosen = Options(
        latency_s=0.02,
        late_s=0.3 * scene.num_images,
        callback_pause_s=1.4,
        picture_bytes=rig.picture(256, 256, kind="JPEG"),
    )
    if scene.canceled in {"submit", "ask", "picture"}:
        return Odd(chosen, **{str(scene.canceled): {"": [hold]}})
    return Patient(
        chosen,
        # It fetches the original from the service, and one that dies at the answer could not give it any more.
        held=("POST", "/"),
        until=lambda tasks: [bool(task.outcome) for task in tasks.by_id.values()] == [True] * scene.num_images,
    )


async def cancel_offline(data_dir: pathlib.Path) -> str:
    """Cancel the only job while no service runs, as a command would; return its id."""
    async with opened(settings.fixed(data_dir=data_dir)) as found:
        [job] = post_mortem.rows(data_dir, "SELECT id FROM jobs WHERE stage != 'uploaded'")
        await found.write(lambda tx: cancel.cancel(tx, owner_id=None, job_id=job["id"], now_us=clock.now_us()))
    return str(job["id"])


def is_quiet(data_dir: pathlib.Path, tasks: Table) -> bool:
    """Tell whether neither side has anything left to do."""
    is_told = all(task.ended.is_set() for task in tasks.by_id.values())
    return is_told and not post_mortem.rows(data_dir, "SELECT 1 FROM tasks WHERE step IS NOT NULL")


@contextlib.asynccontextmanager
async def background(work: Any) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def play_all(scenes: list[Scene], folder: pathlib.Path) -> dict[str, Outcome | BaseException]:
    """Play *scenes*, some at once: most of their time they wait."""
    ready = folder / "ready"
    key = await people.create(
        settings.fixed(data_dir=ready),
        people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000_000),
    )
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(scene: Scene) -> Outcome:
        async with gate:
            return await play(scene, shutil.copytree(ready, folder / re.sub(r"\W+", "-", str(scene))), key)

    outcomes = await asyncio.gather(*map(one, scenes), return_exceptions=True)
    return dict(zip(map(str, scenes), outcomes, strict=True))


def assert_died_and_went(outcome: Outcome) -> None:
    """The first service was killed, the second went in good order."""
    assert (outcome.killed, outcome.stopped) == (-signal.SIGKILL, 0)


async def generating(person: httpx.AsyncClient, *, timeout_s: float = 60.0) -> str:
    """Start a job that goes no further than NanoBanana; return its id."""
    answer = await person.post("/api/generate-image", json={"prompt": "a kite"})
    job_id: str = answer.raise_for_status().json()["job_id"]
    async with asyncio.timeout(timeout_s):
        while (await person.get(f"/api/images/{job_id}")).json()["stage"] != "generating":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return job_id
