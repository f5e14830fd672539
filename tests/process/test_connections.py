"""A deployed service under a small limit of open files, and strangers who take all that there is."""

import asyncio
import contextlib
import resource
import socket
import time

import httpx
import orjson
import pytest

from nanohook import settings
from nanohook.cli import people
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live, raw
from tests.process import child

PATIENCE_S = 20
BIG = "/static/swagger-ui/swagger-ui-bundle.js"
SOURCES = 20
"""Addresses of loopback to connect from: strangers are many."""


@contextlib.asynccontextmanager
async def serving(folder, *, open_files):
    """Run ``nanohook serve`` with so many descriptors; yields it, its address and a job's callback address."""
    sandbox = create_sandbox(Options(latency_s=600))
    async with live.serve(sandbox) as upstream, contextlib.AsyncExitStack() as stack:
        port = live.closed_port()
        base = f"http://127.0.0.1:{port}"
        env = {
            "NANOHOOK_DATA_DIR": str(folder / "data"),
            "NANOHOOK_PUBLIC_URL": base,
            "NANOHOOK_NANOBANANA_URL": upstream,
            "NANOBANANA_API_KEY": "sandbox",
            "NANOHOOK_DISK_RESERVE_BYTES": "0",
        }
        account = people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000)
        key = await people.create(settings.fixed(data_dir=folder / "data"), account)
        command = ("sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *child.NANOHOOK, "serve")
        started = child.started((*command, "--port", str(port)), folder / "serve", env=env, cwd=folder)
        service = stack.enter_context(started)
        assert await service.is_up(base), service.said[-3000:]
        async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=PATIENCE_S) as client:
            asked = {"prompt": "a kite"}
            answer = await client.post(
                "/api/generate-image", json=asked, headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 202, answer.text
        await live.until(lambda: sandbox.state.tasks.by_id)
        [task] = sandbox.state.tasks.by_id.values()
        yield service, base, task.order.callback_url


async def called_back(address, progress):
    """Call back over a new connection; return how long that took."""
    url = httpx.URL(address)
    body = orjson.dumps({"status": "generating", "data": {"progress": progress}})
    began = time.perf_counter()
    async with raw.opened(address) as connection:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        await connection.begin("POST", url.raw_path.decode(), headers)
        await connection.send(body)
        answer = await connection.answer(timeout_s=PATIENCE_S)
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")
    return time.perf_counter() - began


async def has_room(base):
    """Wait until a newcomer is let in: a reader is not behind before a second has passed."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with raw.opened(base) as connection:
                    await connection.begin("GET", "/healthz", {})
                    assert (await connection.answer(timeout_s=PATIENCE_S)).status_code == 200
                    return


async def connected(port, number, *, receive_bytes=None):
    made = socket.socket()
    made.setblocking(False)
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.bind((f"127.0.0.{2 + number % SOURCES}", 0))
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
    return made


@contextlib.asynccontextmanager
async def strangers(base, count, *, say=b"", receive_bytes=None):
    """Open *count* connections that say *say* and do nothing more."""
    port = httpx.URL(base).port
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"{count} connections need more than {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + 500)), hard))
    made = []
    try:
        for start in range(0, count, 50):
            numbers = range(start, min(start + 50, count))
            made += await asyncio.gather(
                *(connected(port, number, receive_bytes=receive_bytes) for number in numbers)
            )
            for one in made[start:]:
                # Who has been closed for another already is none the less a stranger.
                with contextlib.suppress(ConnectionError):
                    await asyncio.get_running_loop().sock_sendall(one, say)
        yield made
    finally:
        for one in made:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def complaints(service):
    return [line for line in service.lines if line["level"] in {"ERROR", "CRITICAL"}]


@pytest.mark.parametrize("say", [b"", b"POST /api/webhooks/image-completion/x HTTP/1.1\r\nHost: x\r\n"])
async def test_two_thousand_that_say_nothing_keep_no_callback_out(tmp_path, say):
    async with serving(tmp_path, open_files=1024) as (service, base, address):
        calm_s = await called_back(address, 61)
        async with strangers(base, 2_000, say=say):
            took_s = [await called_back(address, 62 + number) for number in range(5)]
        print(f"a callback takes {calm_s:.3f} s alone, and {max(took_s):.3f} s beside 2,000 connections")
        assert max(took_s) < 3
        assert not complaints(service)


@pytest.mark.parametrize("is_closed", [False, True])
async def test_files_that_nobody_reads_leave_descriptors_for_everybody_else(tmp_path, is_closed):
    close = "Connection: close\r\n" if is_closed else ""
    say = f"GET {BIG} HTTP/1.1\r\nHost: x\r\n{close}\r\n".encode()
    async with serving(tmp_path, open_files=300) as (service, base, address):
        async with strangers(base, 200, say=say, receive_bytes=4096):
            await has_room(base)
            async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=PATIENCE_S) as client:
                for path in (BIG, "/login", "/readyz", BIG):
                    answer = await client.get(path)
                    assert answer.status_code == 200
            await called_back(address, 61)
        assert not complaints(service)
        assert not [line for line in service.lines if str(line.get("status")).startswith("5")]


async def test_an_idle_connection_lives_for_as_long_as_it_is_set(tmp_path):
    async with (
        live.serve(create_sandbox(Options())) as upstream,
        child.serving(tmp_path / "short", upstream=upstream, NANOHOOK_KEEP_ALIVE_S="1") as (_, short, _),
        child.serving(tmp_path / "long", upstream=upstream) as (_, long, _),
        raw.opened(long) as kept,
        raw.opened(short) as closed,
    ):
        # The one that is kept is the older one.
        for connection in (kept, closed):
            await asks(connection)
        assert await closed.rest(timeout_s=PATIENCE_S) == b""
        await asks(kept)


async def asks(connection):
    await connection.begin("GET", "/healthz", {})
    answer = await connection.answer(timeout_s=PATIENCE_S)
    assert (answer.status_code, answer.headers.get("connection")) == (200, None)
