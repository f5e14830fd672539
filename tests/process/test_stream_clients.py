"""
Stream clients that others wrote, over streams that end, a service that restarts, and a job that ends.

All of them follow the same job at the same time; each has a test of its own that looks at what it was told.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil

import httpx
import pytest
import pytest_asyncio

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import browsing, live, needs, relay
from tests.process import child, play, post_mortem, world
from tests.process.stream_clients import CLIENTS, FINAL, Record, Target

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCRIPT = pathlib.Path(__file__).with_name("stream_clients.mjs")
PACKAGES = (
    "eventsource@3.0.7",  # the last for Node 18
    "launchdarkly-eventsource@2.2.0",
    "eventsource-parser@3.1.1",
    "event-source-polyfill@1.0.31",
    "@microsoft/fetch-event-source@2.0.1",
    "sse.js@2.8.0",
)
NODE = ("eventsource", "launchdarkly-eventsource", "eventsource-parser")
PAGE = ("EventSource", "event-source-polyfill", "@microsoft/fetch-event-source", "sse.js")
NAMES = (*CLIENTS, *(f"node {each}" for each in NODE), *(f"page {each}" for each in PAGE))
LIFE_S = 2.0
WAIT_S = 60.0


@dataclasses.dataclass
class Heard:
    """What came of it."""

    records: dict[str, Record]
    ids: list[int]
    """The job's events, from the state that all began with."""
    asked: dict[str, list[str]]
    """Each client's requests."""
    missing: str | None
    """Why there are no packages of npm."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def heard(tmp_path_factory):
    folder, data_dir = tmp_path_factory.mktemp("npm"), tmp_path_factory.mktemp("clients")
    missing = await asyncio.to_thread(needs.npm_install, folder, *PACKAGES)
    shutil.copy(SCRIPT, folder)
    ready = await world.make_ready(data_dir)
    port = live.closed_port()
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(live.serve(create_sandbox(Options(latency_s=600))))
        how = {"port": port, "upstream": upstream, "stream_life_s": LIFE_S}
        link = await stack.enter_async_context(relay.before(f"http://127.0.0.1:{port}"))
        person = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {ready.key}"},
                trust_env=False,
                timeout=20,
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        )
        async with child.service(data_dir, **how) as service:
            job_id = await play.generating(person)
            made = (await person.post("/api/events/token", json={"job_id": job_id})).json()
            target = Target(link.base, ready.key, job_id, link.base + made["url"])
            records, tasks = await start(stack, target, folder, missing=missing)
            await all_have(records, 1)
            await report(data_dir, person, job_id, 61)
            await all_have(records, 2)
            # Each stream has come to the end of its life.
            await all_have_come_back(link, records)
            await report(data_dir, person, job_id, 62)
            await all_have(records, 3)
            assert await service.stopped() == 0
        async with child.service(data_dir, **how):
            await report(data_dir, person, job_id, 63)
            await all_have(records, 4)
            (await person.post(f"/api/images/{job_id}/cancel")).raise_for_status()
            await asyncio.wait(tasks, timeout=WAIT_S)
            total = len(link.heads)
            # Longer than any of them waits before it comes back.
            await asyncio.sleep(2)
            assert link.lines[total:] == []
        found = post_mortem.rows(data_dir, "SELECT id, payload FROM events ORDER BY id")
        began = next(row["id"] for row in found if json.loads(row["payload"])["stage"] == "generating")
        ids = [row["id"] for row in found if row["id"] >= began]
        yield Heard(records, ids, {name: asked(link, name) for name in records}, missing)


async def all_have(records, number):
    """Wait until each of the clients was told so many events, or has failed."""

    def lacking():
        return [name for name, each in records.items() if len(each.told) < number and each.error is None]

    try:
        await live.until(lambda: not lacking(), timeout_s=WAIT_S)
    except TimeoutError:
        raise AssertionError(f"{number} events have not reached {lacking()}") from None


async def all_have_come_back(link, records):
    """Wait until each of the clients has asked for a second stream, or has failed."""

    def lacking():
        return [name for name, each in records.items() if len(asked(link, name)) < 2 and each.error is None]

    try:
        await live.until(lambda: not lacking(), timeout_s=WAIT_S)
    except TimeoutError:
        raise AssertionError(f"{lacking()} have not come back") from None


def asked(link, name):
    """List the requests of one client; our own does not say who it is."""
    lines = [line for line in link.lines if "/events" in line and "/events/token" not in line]
    if name == "nanohook":
        return [line for line in lines if "client=" not in line]
    return [line for line in lines if f"client={slug(name)}&" in line]


def slug(name):
    return "".join(letter if letter.isalnum() else "-" for letter in name)


async def report(data_dir, person, job_id, percent):
    """Let NanoBanana say how far it is."""
    chosen = settings.fixed(data_dir=data_dir)
    token = await people.callback_token(chosen, job_id=job_id, index=0, expires_at_s=4_000_000_000)
    body = {"status": "generating", "data": {"progress": percent}}
    answer = await person.post(f"/api/webhooks/image-completion/{token}", json=body)
    assert answer.raise_for_status().json()["status"] == "accepted"


async def start(stack, target, folder, *, missing):
    """Start every client that is here, each with an address by which it can be told apart."""
    records, tasks = {}, []
    stack.push_async_callback(ended, tasks, records)

    def begin(name, run):
        record = records[name] = Record()
        url = target.url.replace("?", f"?client={slug(name)}&")
        tasks.append(asyncio.create_task(running(run, dataclasses.replace(target, url=url), record), name=name))

    for name, run in CLIENTS.items():
        if name == "nanohook" or has_module(name):
            begin(name, run)
    node = needs.find("node")
    for name in NODE if node and missing is None else ():
        begin(f"node {name}", in_node(node, folder, name))
    if needs.find("chromium"):
        browser = await stack.enter_async_context(browsing.launched())
        for name in PAGE:
            if name == "EventSource" or missing is None:
                begin(f"page {name}", in_page(browser, folder, name))
    return records, tasks


async def ended(tasks, records):
    for record in records.values():
        record.is_abandoned = True
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def running(run, target, record):
    try:
        await run(target, record)
        record.has_stopped = True
    except Exception as exc:  # noqa: BLE001 - the test of this client shows it
        record.error = repr(exc)


def has_module(name):
    try:
        needs.module(name)
    except (pytest.skip.Exception, pytest.fail.Exception):
        return False
    return True


def in_node(node, folder, name):
    async def run(target, record):
        env = {"PATH": os.environ["PATH"], "NODE_NO_WARNINGS": "1"}
        process = await asyncio.create_subprocess_exec(
            node, SCRIPT.name, name, target.url, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE
        )
        try:
            async for line in process.stdout:
                tell(record, json.loads(line))
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run


def in_page(browser, folder, name):
    async def give(route):
        path = folder / route.request.url.partition("/npm/")[2]
        # Bundlers know the ending, browsers do not.
        path = path if path.is_file() else path.with_name(f"{path.name}.js")
        await route.fulfill(body=path.read_bytes(), content_type="text/javascript")

    async def run(target, record):
        context = await browser.new_context(bypass_csp=True)
        page = await context.new_page()
        await page.route("**/npm/**", give)
        await page.expose_function("tell", lambda event: tell(record, event))
        await page.goto(f"{target.base}/login")
        code = f"""async ([name, url]) => {{
            const clients = await import("/npm/{SCRIPT.name}");
            await clients.follow(name, url, tell);
        }}"""
        await page.evaluate(code, [name, target.url])
        await context.close()

    return run


def tell(record, event):
    record.tell(event["name"], event["data"], event.get("id"))


@pytest.mark.parametrize("name", NAMES)
async def test_each_client_sees_every_event_once_and_stops_at_the_end(heard, name):
    kind, _, package = name.rpartition(" ")
    if name not in heard.records:
        if kind == "":
            needs.module(package)
        needs.program({"node": "node", "page": "chromium"}[kind])
        needs.lack("npm", heard.missing)
    record = heard.records[name]
    assert record.error is None
    assert record.has_stopped
    assert {event for event, _, _ in record.told} == {"status"}
    states = [json.loads(data) for _, data, _ in record.told]
    assert [state["progress"] for state in states] == [60, 61, 62, 63, 63]
    assert [state["status"] in FINAL for state in states] == [False, False, False, False, True]
    if name != "nanohook":  # which keeps the ids to itself
        assert [int(cursor) for _, _, cursor in record.told] == heard.ids
    assert len(heard.asked[name]) >= 3, "its stream ended, and the service was restarted"


async def test_nine_clients_are_tried(heard):
    if len(heard.records) < 9:
        needs.lack("npm", f"only these are here: {sorted(heard.records)}")
