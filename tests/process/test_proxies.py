"""The service behind real reverse proxies: pages, logins, uploads, streams, and a restart in the middle."""

import asyncio
import contextlib
import io
import json
import os
import re

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import browsing, live, needs
from tests.process import play, proxies

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 60.0
EVENT_STREAM = "text/event-stream"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream():
    async with live.serve(create_sandbox(Options(latency_s=600))) as address:
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with browsing.launched() as launched:
        yield launched


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=proxies.PROXIES)
async def behind(request, tmp_path_factory, upstream):
    """A proxy, the service behind it, and somebody who comes through the one to the other with a key."""
    folder = tmp_path_factory.mktemp("proxy")
    async with (
        proxies.running(request.param, folder, upstream) as (front, key),
        front.client(Authorization=f"Bearer {key}") as person,
    ):
        yield front, person


async def report(front, person, job_id, percent):
    """Let NanoBanana say how far it is, by the public address."""
    path = f"/api/webhooks/image-completion/{await front.token(job_id)}"
    answer = await person.post(path, json={"status": "generating", "data": {"progress": percent}})
    assert answer.raise_for_status().json()["status"] == "accepted"


async def test_a_person_logs_in_on_a_page_and_writes_by_cookie(behind):
    front, _ = behind
    async with front.client(Origin=front.base) as page:
        assert "<form" in (await page.get("/login")).text
        refused = await page.post("/api/auth/login", json={"email": proxies.EMAIL, "password": "another one"})
        assert refused.status_code == 401
        signed_in = await page.post("/api/auth/login", json={"email": proxies.EMAIL, "password": proxies.PASSWORD})
        assert signed_in.status_code == 200
        assert "secure" in signed_in.headers["set-cookie"].lower()
        assert (await page.post("/api/projects", json={"name": "Kites"})).status_code == 201
        elsewhere = {"Origin": "https://elsewhere.example"}
        answer = await page.post("/api/projects", json={"name": "Kites"}, headers=elsewhere)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin")


async def test_a_picture_of_19_mb_is_taken(behind):
    _, person = behind
    held = io.BytesIO()
    # Noise, which no compression makes smaller.
    Image.frombytes("RGB", (2520, 2520), os.urandom(2520 * 2520 * 3)).save(held, "PNG", compress_level=0)
    body = held.getvalue()
    assert 19_000_000 < len(body) < 20_000_000
    answer = await person.post("/api/images", files={"file": ("noise.png", body)})
    assert answer.status_code == 201, answer.text
    original = answer.json()["original"]
    assert (original["width"], original["height"], original["bytes"]) == (2520, 2520, len(body))
    assert len((await person.get(original["url"])).content) == len(body)


async def test_an_event_comes_the_moment_it_happens(behind):
    front, person = behind
    job_id = await play.generating(person)
    paths = (f"/api/images/{job_id}/events", "/api/events", f"/api/events?job={job_id}")
    for percent, path in enumerate(paths, start=61):
        async with person.stream("GET", path) as answer, asyncio.timeout(WAIT_S):
            assert (answer.status_code, answer.headers["content-type"]) == (200, EVENT_STREAM)
            assert answer.headers["cache-control"] == "no-store, no-transform"
            lines = answer.aiter_lines()
            await told(lines)
            await report(front, person, job_id, percent)
            # Nothing else happens that would push it out.
            assert (await told(lines))["progress"] == percent


async def test_a_proxy_that_compresses_holds_back_no_event(behind):
    front, person = behind
    jobs = [await play.generating(person) for _ in range(4)]
    path = f"/api/events?{'&'.join(f'job={job_id}' for job_id in jobs)}"
    encodings = {"Accept-Encoding": "gzip, deflate, br, zstd"}
    async with person.stream("GET", path, headers=encodings) as answer, asyncio.timeout(WAIT_S):
        assert (answer.status_code, answer.headers["content-type"]) == (200, EVENT_STREAM)
        lines = answer.aiter_lines()
        # More than the smallest answer that is worth compressing.
        assert {(await told(lines))["job_id"] for _ in jobs} == set(jobs)
        await report(front, person, jobs[0], 61)
        assert (await told(lines))["progress"] == 61


async def told(lines):
    async for line in lines:
        if line.startswith("data: "):
            return json.loads(line[6:])
    raise AssertionError("the stream ended")


async def test_what_is_outside_may_speak_http_2(behind):
    front, person = behind
    job_id = await play.generating(person)
    made = (await person.post("/api/events/token", json={"job_id": job_id})).json()
    curl = needs.program("curl")
    # A name, and no proxy of this machine's.
    command = [curl, "-sS", "-N", "--noproxy", "*", "--http2", "--cacert", str(front.at.certificate)]
    said = await output(*command, "-w", "\n%{http_version} %{http_code}", f"{front.base}/readyz")
    assert said.splitlines()[-1] == "2 200"
    process = await asyncio.create_subprocess_exec(
        *command, "-D", "-", front.base + made["url"], stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(WAIT_S):
        head = (await process.stdout.readuntil(b"\r\n\r\n")).decode()
        first = (await process.stdout.readuntil(b"\n\n")).decode()
        assert head.startswith("HTTP/2 200")
        assert re.fullmatch(r"retry: \d+\nid: \d+\nevent: status\ndata: .*\n\n", first)
        await person.post(f"/api/images/{job_id}/cancel")
        assert b'"CANCELED"' in await process.stdout.read()
        assert await process.wait() == 0


async def output(*command):
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 0
    return said.decode()


class Source:
    """
    A browser's EventSource.

    Source: WHATWG HTML, section 9.2 "Server-sent events".
    """

    def __init__(self, client, path):
        self.told = []
        self.put_off = 0
        """Connections over which nothing was told but when to come back."""
        self.closed_by = None
        """The answer that ended it for good."""
        self._client = client
        self._path = path
        self._cursor = ""
        self._retry_s = 1.0

    async def run(self):
        while self.closed_by is None:
            with contextlib.suppress(httpx.TransportError):
                await self._connect()
            if self.closed_by is None:
                await asyncio.sleep(self._retry_s)

    async def _connect(self):
        headers = {"Accept": EVENT_STREAM, **({"Last-Event-ID": self._cursor} if self._cursor else {})}
        async with self._client.stream("GET", self._path, headers=headers) as answer:
            if answer.status_code != 200 or answer.headers.get("content-type") != EVENT_STREAM:
                self.closed_by = (answer.status_code, answer.headers.get("content-type"))
                return
            before, rest, data = len(self.told), b"", []
            async for chunk in answer.aiter_bytes():
                # What stands behind the last line end is no line yet, and at the end it is thrown away.
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    name, _, value = line.decode().partition(": ")
                    if not line and data:
                        self.told.append(json.loads("\n".join(data)))
                        data = []
                    elif name == "data":
                        data.append(value)
                    elif name == "id":
                        self._cursor = value
                    elif name == "retry":
                        self._retry_s = int(value) / 1_000
            self.put_off += len(self.told) == before


CODE = """(url) => {
  window.told = [];
  window.errors = 0;
  window.source = new EventSource(url);
  source.addEventListener("status", (event) => told.push(JSON.parse(event.data)));
  source.addEventListener("error", () => errors++);
}"""


async def test_over_a_restart_an_event_source_comes_back_and_sees_the_end_once(behind, browser):
    front, person = behind
    job_id = await play.generating(person)
    path = f"/api/images/{job_id}/events"
    made = (await person.post("/api/events/token", json={"job_id": job_id})).json()
    source = Source(person, path)
    context = await browser.new_context(ignore_https_errors=True, bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{front.base}/login")
    await page.evaluate(CODE, made["url"])
    running = asyncio.create_task(source.run())
    try:
        await live.until(lambda: source.told, timeout_s=WAIT_S)
        await page.wait_for_function("told.length === 1")
        await report(front, person, job_id, 61)
        await live.until(lambda: len(source.told) == 2, timeout_s=WAIT_S)
        await page.wait_for_function("told.length === 2")

        await front.stop()
        await live.until(lambda: source.put_off or source.closed_by, timeout_s=WAIT_S)
        # Once when its stream ended, and once when it was put off.
        await page.wait_for_function("errors >= 2 || source.readyState === 2")
        assert source.closed_by is None
        assert await page.evaluate("source.readyState") == 0
        # Everything else is told that there is nobody; some proxies wait a little before they say so.
        streams = (path, "/api/events", f"/api/events?job={job_id}")
        others = ("/api/images", f"/api/images/{job_id}", "/api/events/token")
        for answer in await asyncio.gather(*map(person.get, streams)):
            assert (answer.status_code, answer.headers["content-type"]) == (200, EVENT_STREAM)
            assert answer.text == "retry: 3000\n"
        assert {each.status_code for each in await asyncio.gather(*map(person.get, others))} <= {502, 503}

        await front.start()
        (await person.post(f"/api/images/{job_id}/cancel")).raise_for_status()
        await asyncio.wait_for(running, WAIT_S)
        await page.wait_for_function("source.readyState === 2")
        assert source.closed_by == (204, EVENT_STREAM)
        expected = [(60, "GENERATING"), (61, "GENERATING"), (61, "CANCELED")]
        for heard in (source.told, await page.evaluate("told")):
            assert [(each["progress"], each["status"]) for each in heard] == expected
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await context.close()
        if not front.is_up:  # for the tests behind this one
            await front.start()


async def test_a_real_denial_goes_through_as_it_is(behind):
    front, person = behind
    nobody = "/api/images/0192a4b0-0000-7000-8000-000000000000/events"
    assert (await person.get(nobody)).status_code == 404
    async with front.client() as stranger:
        assert (await stranger.get(nobody)).status_code == 401
