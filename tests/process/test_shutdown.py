"""The way down: what is under way ends well or is given back, nobody is left hanging, the exit code is 0."""

import asyncio
import contextlib
import signal
import socket
import sqlite3
import time

import httpx
import orjson
import pytest

from nanohook import clock, server, settings
from nanohook.cli import people
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child, post_mortem
from tests.process.upstream import Patient

MOST_S = 15.0
"""The whole way down."""
METRICS = {"Authorization": "Bearer metrics-token"}


@pytest.fixture
async def key(tmp_path):
    """An API key for the data dir."""
    return await people.create(
        settings.fixed(data_dir=tmp_path),
        people.NewAccount(email="ada@example.org", is_verified=True, credits=1_000_000),
    )


@contextlib.asynccontextmanager
async def person_at(port: int, key: str):
    headers = {"Authorization": f"Bearer {key}"}
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=20) as client:
        yield client


async def ask_for_a_picture(client: httpx.AsyncClient) -> str:
    answer = await client.post("/api/generate-image", json={"prompt": "a kite"})
    return str(answer.raise_for_status().json()["job_id"])


async def follow(client: httpx.AsyncClient, job_id: str, text: list[str]) -> None:
    """Collect what the job's stream says until it is closed."""
    async with client.stream("GET", f"/api/images/{job_id}/events") as stream:
        async for line in stream.aiter_lines():
            text.append(line)  # noqa: PERF401 - others look at it meanwhile


async def has_an_open_stream(person: httpx.AsyncClient) -> None:
    while "nanohook_streams_open 1.0" not in (await person.get("/metrics", headers=METRICS)).text:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def is_draining(base: str) -> bool:
    """Wait until the service says that it is not ready; ``False`` if it went without saying so."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
        with contextlib.suppress(httpx.TransportError):
            while (answer := await client.get(f"{base}/readyz")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            return answer.status_code == 503 and answer.json()["code"] == "draining"
    return False


async def test_on_sigterm_readers_are_sent_away_and_a_submit_under_way_is_stored(tmp_path, key):
    seen: list[str] = []
    may_answer = asyncio.Event()
    upstream = Patient(Options(latency_s=60), held=("POST", "/"), until=lambda _tasks: may_answer.is_set())
    port = live.closed_port()
    async with (
        live.serve(upstream) as upstream_url,
        child.service(tmp_path, port=port, upstream=upstream_url) as service,
        person_at(port, key) as person,
    ):
        job_id = await ask_for_a_picture(person)
        following = asyncio.create_task(follow(person, job_id, seen))
        await asyncio.wait_for(upstream.waiting.wait(), 10)
        await live.until(lambda: any("submitting" in line for line in seen))

        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert await is_draining(str(person.base_url))
        await asyncio.wait_for(following, 5)
        # All the time the submit was under way.
        may_answer.set()
        assert await service.exited(timeout_s=MOST_S) == 0
        assert time.monotonic() - began < MOST_S

    assert [line for line in seen if line][-1].startswith("retry: ")
    [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
    assert list(upstream.tasks.by_id) == [task["task_id"]]
    assert (task["step"], task["stage"]) == ("ask", "generating")
    assert not [line for line in service.lines if line["level"] in {"ERROR", "CRITICAL"}]


async def test_a_picture_being_finished_at_sigterm_is_given_back_and_finished_after_the_restart(tmp_path, key):
    may_go_on = asyncio.Event()
    upstream = Patient(Options(latency_s=0.02), held=("GET", "/r/"), until=lambda _tasks: may_go_on.is_set())
    port = live.closed_port()
    async with live.serve(upstream) as upstream_url:
        where = {"port": port, "upstream": upstream_url}
        async with child.service(tmp_path, **where) as service, person_at(port, key) as person:
            job_id = await ask_for_a_picture(person)
            await asyncio.wait_for(upstream.waiting.wait(), 10)
            assert await service.stopped() == 0
        [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
        assert task["step"] == "finish"
        assert task["due_at"] <= clock.now_us()
        assert post_mortem.files(tmp_path) == set()

        may_go_on.set()
        async with child.service(tmp_path, **where) as service, person_at(port, key) as person:
            seen: list[str] = []
            await asyncio.wait_for(follow(person, job_id, seen), 10)
            assert await service.stopped() == 0
    assert [state["status"] for state in states(seen)][-1] == "COMPLETED"
    assert len(post_mortem.rows(tmp_path, "SELECT * FROM pictures")) == 1
    assert post_mortem.files(tmp_path) == post_mortem.named_files(tmp_path)


async def test_a_reader_that_never_reads_does_not_hold_up_the_exit(tmp_path, key):
    # The grace is made shorter here; the real one leaves room for the rest of the way down.
    assert server.GRACE_S < MOST_S
    port = live.closed_port()
    service = child.service(
        tmp_path, port=port, upstream="http://127.0.0.1:9", grace_s=1.0, metrics_token="metrics-token"
    )
    async with service as running, person_at(port, key) as person:
        answer = await person.post("/api/images", files={"file": ("x.png", rig.picture())})
        job = answer.raise_for_status().json()
        write_history(tmp_path, job["job_id"])

        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", port))
            stuck.sendall(
                f"GET /api/images/{job['job_id']}/events HTTP/1.1\r\nHost: x\r\n"
                f"Last-Event-ID: {job['event_id']}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            await asyncio.wait_for(has_an_open_stream(person), 10)
            began = time.monotonic()
            assert await running.stopped() == 0
            assert time.monotonic() - began < 1.0 + MOST_S - server.GRACE_S


async def test_a_second_sigint_ends_it_at_once(tmp_path, key):
    upstream = Patient(Options(), held=("POST", "/"), until=lambda _tasks: not is_there())
    port = live.closed_port()
    async with (
        live.serve(upstream) as upstream_url,
        child.service(tmp_path, port=port, upstream=upstream_url) as service,
        person_at(port, key) as person,
    ):

        def is_there() -> bool:
            return service.process.poll() is None

        await ask_for_a_picture(person)
        await asyncio.wait_for(upstream.waiting.wait(), 10)
        service.process.send_signal(signal.SIGINT)
        assert await is_draining(str(person.base_url))
        # The submit is still under way, and could be for 20 s.
        await service.stopped(signal.SIGINT, timeout_s=3)
    [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
    assert task["submit_started_at"] is not None


async def test_one_sigint_is_an_orderly_end(tmp_path, key):
    port = live.closed_port()
    async with child.service(tmp_path, port=port, upstream="http://127.0.0.1:9") as service:
        assert await service.stopped(signal.SIGINT, timeout_s=5) == 0
    assert "Traceback" not in service.said


def states(lines: list[str]) -> list[dict[str, object]]:
    return [orjson.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def write_history(data_dir, job_id: str) -> None:
    """Make the job's history larger than any buffer on the way to a reader."""
    payload = orjson.dumps({"job_id": job_id, "message": "x" * 2_000}).decode()
    with contextlib.closing(sqlite3.connect(data_dir / "nanohook.db")) as connection, connection:
        [(owner_id,)] = connection.execute("SELECT owner_id FROM jobs WHERE id = ?", (job_id,))
        connection.executemany(
            "INSERT INTO events (owner_id, job_id, name, is_last, payload, created_at) "
            "VALUES (?, ?, 'status', 0, ?, 0)",
            [(owner_id, job_id, payload)] * 5_000,
        )
