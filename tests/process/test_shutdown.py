"""The way down: what is under way ends well or is given back, nobody is left hanging, the exit code is 0."""

import asyncio
import contextlib
import dataclasses
import itertools
import pathlib
import signal
import socket
import sqlite3
import time

import httpx
import orjson
import pytest

from nanohook import clock, settings
from nanohook.cli import people
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child, post_mortem
from tests.process.upstream import Patient

PROMISED_S = 8.0
"""The whole way out, from the signal to the end of the process."""
MARGIN_S = 4.0
"""For a machine that is busy with something else."""
PATIENCE_S = 40.0
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

        service.process.send_signal(signal.SIGTERM)
        assert await is_draining(str(person.base_url))
        await asyncio.wait_for(following, 5)
        # All the time the submit was under way.
        may_answer.set()
        assert await service.exited(timeout_s=PATIENCE_S) == 0

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


# Whatever hangs, it ends in its time, in order, and nothing that was acknowledged is lost.


@dataclasses.dataclass
class Scene:
    """A service in which something hangs."""

    service: child.Child
    person: httpx.AsyncClient
    port: int
    key: str
    data_dir: pathlib.Path
    upstream: Patient


@contextlib.asynccontextmanager
async def hanging(tmp_path, key, *, held=("POST", "/never"), latency_s=0.02, **how):
    """A service whose upstream never answers what is *held*."""
    upstream = Patient(Options(latency_s=latency_s), held=held, until=lambda _tasks: False)
    port = live.closed_port()
    async with (
        live.serve(upstream) as address,
        child.service(tmp_path, port=port, upstream=address, metrics_token="metrics-token", **how) as service,
        person_at(port, key) as person,
    ):
        yield Scene(service, person, port, key, tmp_path, upstream)


async def ends_in_time(service: child.Child) -> None:
    """Tell it to go; it is gone in its time by its own clock, in order."""
    began = time.monotonic()
    assert await service.stopped(timeout_s=PATIENCE_S) == 0
    assert time.monotonic() - began < PROMISED_S + MARGIN_S
    at = {line["message"]: clock.from_rfc3339(line["at"]) for line in service.lines}
    last = max(at.get("server.ended", 0), at.get("service.cut_off", 0))
    assert last - at["service.draining"] < PROMISED_S * 1_000_000
    assert "Traceback" not in service.said
    assert not [line for line in service.lines if line["level"] in {"ERROR", "CRITICAL"}]


def raw(port: int) -> socket.socket:
    """A connection with little room for what comes back."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", port))
    made.settimeout(PATIENCE_S)
    return made


async def test_a_reader_that_never_reads_does_not_hold_up_the_exit(tmp_path, key):
    async with hanging(tmp_path, key) as scene:
        answer = await scene.person.post("/api/images", files={"file": ("x.png", rig.picture())})
        job = answer.raise_for_status().json()
        write_history(tmp_path, job["job_id"])
        with raw(scene.port) as stuck:
            stuck.sendall(
                f"GET /api/images/{job['job_id']}/events HTTP/1.1\r\nHost: x\r\n"
                f"Last-Event-ID: {job['event_id']}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            await asyncio.wait_for(has_an_open_stream(scene.person), 10)
            await ends_in_time(scene.service)


async def test_an_upload_under_way_is_told_to_come_again(tmp_path, key):
    async with hanging(tmp_path, key) as scene:
        with raw(scene.port) as half:
            half.sendall(
                b"POST /api/images HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n"
                b"Authorization: Bearer " + key.encode() + b"\r\n\r\n--x\r\n"
            )
            # It is let in when the next request is.
            await scene.person.get("/api/images")
            await ends_in_time(scene.service)
            said = half.recv(65_536)
    assert said.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in said.lower()
    assert b"draining" in said
    assert post_mortem.files(tmp_path) == set()


async def test_a_submit_that_hangs_is_cut_and_never_sent_again(tmp_path, key):
    async with hanging(tmp_path, key, held=("POST", "/api"), latency_s=600) as scene:
        await ask_for_a_picture(scene.person)
        await asyncio.wait_for(scene.upstream.waiting.wait(), 10)
        await ends_in_time(scene.service)
        [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
        assert (task["task_id"], task["submit_started_at"] is not None) == (None, True)
        where = {"port": scene.port, "upstream": "http://127.0.0.1:9"}
        async with child.service(tmp_path, **where, reconcile_after_s=3600) as second:
            assert await second.stopped() == 0
    assert len(scene.upstream.tasks.by_id) == 1
    assert "upstream.submitting" not in second.said
    [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
    assert task["step"] == "ask"


async def test_a_download_that_hangs_is_given_back(tmp_path, key):
    async with hanging(tmp_path, key, held=("GET", "/r/")) as scene:
        await ask_for_a_picture(scene.person)
        await asyncio.wait_for(scene.upstream.waiting.wait(), 10)
        await ends_in_time(scene.service)
    [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
    assert (task["step"], task["held"]) == ("finish", 0)


async def test_a_picture_that_is_decoded_for_ever_is_given_back_and_no_suspect(tmp_path, key):
    async with hanging(tmp_path, key, stick_at="finish.decoding") as scene:
        await ask_for_a_picture(scene.person)
        await live.until(lambda: list((tmp_path / "decoding").iterdir()), timeout_s=20)
        await ends_in_time(scene.service)
    assert list((tmp_path / "decoding").iterdir()) == []
    [task] = post_mortem.rows(tmp_path, "SELECT * FROM tasks")
    assert (task["step"], task["held"], task["suspect_deaths"]) == ("finish", 0, None)


async def test_a_folder_that_never_tells_its_files_does_not_hold_up_the_exit(tmp_path, key):
    async with hanging(tmp_path, key, stick_at="walk") as scene:
        await ends_in_time(scene.service)


async def test_an_archive_that_nobody_reads_does_not_hold_up_the_exit(tmp_path, key):
    async with hanging(tmp_path, key) as scene:
        sent = {"file": ("x.png", rig.picture(1500, 1500))}
        source = (await scene.person.post("/api/images", files=sent)).raise_for_status().json()["job_id"]
        asked = {"prompt": "a kite", "image_id": source, "output_format": "png"}
        made = await scene.person.post("/api/generate-image", json=asked)
        job_id = made.raise_for_status().json()["job_id"]
        await asyncio.wait_for(follow(scene.person, job_id, []), 20)
        with raw(scene.port) as stuck:
            head = f"GET /api/images.zip?{'&'.join(f'id={job_id}' for _ in range(1))} HTTP/1.1\r\nHost: x\r\n"
            stuck.sendall(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
            assert stuck.recv(1) == b"H"
            await ends_in_time(scene.service)


async def test_a_relay_that_says_nothing_does_not_hold_up_the_exit(tmp_path, key):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mail = {
            "smtp_url": f"smtp://127.0.0.1:{silent.getsockname()[1]}",
            "mail_from": "robot@nanohook.example",
            "registration": "open",
        }
        async with hanging(tmp_path, key, **mail) as scene:
            forgot = {"email": "ada@example.org"}
            origin = {"Origin": str(scene.person.base_url)}
            answer = await scene.person.post("/api/auth/password/forgot", json=forgot, headers=origin)
            assert answer.status_code < 300, answer.text
            silent.settimeout(PATIENCE_S)
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                await ends_in_time(scene.service)
    assert "mail.lost" in scene.service.said


async def test_passwords_that_are_being_checked_do_not_hold_up_the_exit(tmp_path, key):
    async with hanging(tmp_path, key) as scene:
        login = {"email": "ada@example.org", "password": "not hers at all"}
        origin = {"Origin": str(scene.person.base_url)}
        asked = [
            asyncio.create_task(scene.person.post("/api/auth/login", json=login, headers=origin)) for _ in range(9)
        ]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        await ends_in_time(scene.service)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} <= {401, 429, 503}


async def test_a_line_that_cannot_be_written_is_refused_as_a_whole(tmp_path, key):
    """Another process holds the database for longer than the way out may take."""
    async with hanging(tmp_path, key, held=("GET", "/r/")) as scene:
        await ask_for_a_picture(scene.person)
        await asyncio.wait_for(scene.upstream.waiting.wait(), 10)
        [task] = scene.upstream.tasks.by_id.values()
        path = httpx.URL(str(task.order.callback_url)).path
        before = len(post_mortem.rows(tmp_path, "SELECT 1 FROM deliveries"))
        with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = [
                asyncio.create_task(scene.person.post(path, json={"status": "generating", "data": {"n": number}}))
                for number in range(50)
            ]
            await asyncio.wait(asked, timeout=0.2)
            assert await scene.service.stopped(timeout_s=PATIENCE_S) == 0
            other.execute("ROLLBACK")
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} <= {503}
    assert len(post_mortem.rows(tmp_path, "SELECT 1 FROM deliveries")) == before


async def test_callbacks_of_the_last_moments_are_taken_or_refused_but_never_half(tmp_path, key):
    async with hanging(tmp_path, key, held=("GET", "/r/")) as scene:
        await ask_for_a_picture(scene.person)
        await asyncio.wait_for(scene.upstream.waiting.wait(), 10)
        [task] = scene.upstream.tasks.by_id.values()
        path = httpx.URL(str(task.order.callback_url)).path
        taken: list[str] = []
        numbers = itertools.count()

        async def call_back_until_it_is_gone() -> None:
            with contextlib.suppress(httpx.TransportError):
                while True:
                    body = {"status": "generating", "data": {"number": next(numbers)}}
                    answer = await scene.person.post(path, json=body)
                    assert answer.status_code in {200, 503}, answer.text
                    if answer.status_code == 200:
                        taken.append(answer.json()["delivery_id"])

        callers = [asyncio.create_task(call_back_until_it_is_gone()) for _ in range(5)]
        await live.until(lambda: len(taken) > 20)
        # The way out is held up, so that there is somebody to call back to.
        await ends_in_time(scene.service)
        await asyncio.gather(*callers)
    kept = {row["id"] for row in post_mortem.rows(tmp_path, "SELECT id FROM deliveries")}
    assert set(taken) <= kept


async def test_idle_connections_are_closed(tmp_path, key):
    async with hanging(tmp_path, key) as scene:
        with raw(scene.port) as fresh, raw(scene.port) as kept:
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += kept.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200")
            await ends_in_time(scene.service)
            assert (fresh.recv(1), kept.recv(1)) == (b"", b"")
    # Nobody was waited for.
    assert "service.requests_cut" not in scene.service.said
    assert "service.cut_off" not in scene.service.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_sandbox_ends_in_order_with_a_task_under_way(tmp_path, number):
    port = live.closed_port()
    command = (*child.NANOHOOK, "sandbox", "--port", str(port), "--latency", "600")
    with child.started(command, tmp_path) as sandbox:
        await live.until(lambda: child.is_listening(port), timeout_s=PATIENCE_S)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            asked = {"prompt": "a kite", "type": "TEXTTOIAMGE", "callBackUrl": "https://callback.invalid/"}
            headers = {"Authorization": "Bearer sandbox"}
            made = await client.post("/api/v1/nanobanana/generate", json=asked, headers=headers)
            assert made.json()["code"] == 200, made.text
        assert await sandbox.stopped(number, timeout_s=PROMISED_S + MARGIN_S) == 0


async def test_dev_ends_in_order(tmp_path):
    port = live.closed_port()
    command = (*child.NANOHOOK, "dev", "--port", str(port))
    with child.started(command, tmp_path / "logs", cwd=tmp_path) as dev:
        await live.until(lambda: "open this once" in dev.printed, timeout_s=PATIENCE_S)
        assert await dev.stopped(timeout_s=PROMISED_S + MARGIN_S) == 0
    assert "Traceback" not in dev.said


async def test_demo_that_is_told_to_go_leaves_nothing_behind(tmp_path):
    (tmp_path / "tmp").mkdir()
    with child.started(
        (*child.NANOHOOK, "demo"), tmp_path / "logs", cwd=tmp_path, env={"TMPDIR": str(tmp_path / "tmp")}
    ) as demo:
        await live.until(
            lambda: list((tmp_path / "tmp").glob("nanohook-demo-*/nanohook.db")), timeout_s=PATIENCE_S
        )
        assert await demo.stopped(timeout_s=PROMISED_S + MARGIN_S) == 128 + signal.SIGTERM
    assert list((tmp_path / "tmp").iterdir()) == []
    assert "Traceback" not in demo.said


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
        # The submit is still under way, and could be for 6 s.
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
