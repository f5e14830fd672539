"""What runs in the mixed load: a filled service under a limit of memory, the sandbox, a host that hangs."""

import asyncio
import contextlib
import json
import os
import pathlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

from nanohook import database, migrations
from nanohook.app import database_path
from nanohook.cli import people
from nanohook.settings import fixed
from tests import books, rig
from tests.bench import processes
from tests.bench.asking import Connection
from tests.bench.friendly import Friend
from tests.bench.report import Run
from tests.process import child

_FRIENDS = 12
"""So many that each stays within the limits of one person."""
_JOBS_OF_EACH, _UNFRIENDLY_JOBS = 40, 2_000
LONG_PROMPT = ("A café in Zürich at dusk, " * 1_000)[:20_000]
_CREDITS = 100_000_000
_QUOTA_BYTES = 200_000_000
_UPSTREAM_RATE = "20/second"
"""The default's are two a second, which would be all that is measured."""
_LATENCY_S = 0.5
_SETTLE_S = 150.0
"""Longer than the longest pause before a result is fetched again, and the silence that ends a download."""
_END_S = 60.0
_MEMORY_BYTES = 1024**3
_GROUPS = pathlib.Path("/sys/fs/cgroup")
_TOO_LARGE = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 999999999\r\n\r\n"

_JOBS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
INSERT INTO jobs (id, owner_id, status, stage, progress, attempt, prompt, transformation_type, model, options,
    priority, language, metadata, created_at, updated_at, completed_at)
SELECT printf('0190%04x-0000-7000-8000-%012x', :person, i), :owner, 'COMPLETED', 'completed', 100, 1,
    :prompt, 'custom', 'nano-banana', '{"num_images":1,"fit":"cover"}', 'normal', 'en', '{}', i, i, i
FROM n
"""
_BELONGINGS = """
INSERT INTO pictures (job_id, idx, owner_id, attempt, key, thumbnail_key, content_type, width_px, height_px,
    bytes, sha256, created_at)
SELECT id, 0, owner_id, 1, 'results/' || id || '.png', 'results/' || id || '-s.png', 'image/png', 1, 1, 1, x'00', 1
FROM jobs;
INSERT INTO job_counts SELECT owner_id, COALESCE(project_id, ''), status, COUNT(*) FROM jobs GROUP BY 1, 2, 3;
"""


class HangingHost:
    """Takes connections and never answers; while ``hangs`` is false it says that its pictures are too large."""

    def __init__(self) -> None:
        self.hangs = True
        self.taken = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hold one connection."""
        self.taken += 1
        with contextlib.suppress(ConnectionError, EOFError):
            await reader.readuntil(b"\r\n\r\n")
            if self.hangs:
                await reader.read()
            else:
                writer.write(_TOO_LARGE)
                await writer.drain()
        writer.close()


@dataclass(frozen=True, kw_only=True)
class Account:
    person_id: str
    api_key: str


@dataclass(kw_only=True)
class Scene:
    """Everything that runs, and the log of the service."""

    folder: pathlib.Path
    base: str
    service_pid: int
    upstream: processes.Address
    host: HangingHost
    friends: list[Friend]
    unfriendly: Account
    ways: list[str]
    """Of being unfriendly."""

    async def callbacks(self) -> dict[str, Any]:
        """Ask the sandbox how its callbacks for friendly people were taken since it was last asked."""
        connection = await Connection.to(f"http://{self.upstream.netloc}")
        answer = await connection.ask("GET", "/bench/callbacks", headers={})
        connection.close()
        told: dict[str, Any] = answer.json()
        return told

    @contextlib.asynccontextmanager
    async def beside(self, run: Run, answers: dict[str, dict[str, int]]) -> AsyncIterator[int]:
        """
        Have the unfriendly person do their worst; yields the pid.

        In the end everything that they left has ended, and *answers* has how they were answered.
        """
        self.host.hangs = True
        made = books.rows(
            self.folder, "SELECT id FROM jobs WHERE owner_id = ? LIMIT 100", self.unfriendly.person_id
        )
        asked = {
            "base": self.base,
            "api_key": self.unfriendly.api_key,
            "job_ids": [row["id"] for row in made],
            "cookie": "nanohook_session",
            "ways": self.ways,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.unfriendly", json.dumps(asked),
            cwd=child.ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("its input and output are pipes")
        try:
            if await process.stdout.readline() != b"begun\n":
                raise RuntimeError("the unfriendly person did not begin")
            yield process.pid
            self.host.hangs = False
            process.stdin.close()
            async with asyncio.timeout(_END_S):
                answers.update(json.loads(await process.stdout.read()))
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
        run.check(await self._has_settled(), "what the unfriendly person left has not ended")

    async def _has_settled(self) -> bool:
        for _ in range(int(_SETTLE_S)):
            left = "SELECT 1 FROM tasks WHERE owner_id = ? AND step IS NOT NULL LIMIT 1"
            if not books.rows(self.folder, left, self.unfriendly.person_id):
                return True
            await asyncio.sleep(1)
        return False


@contextlib.asynccontextmanager
async def running(run: Run, *, ways: list[str]) -> AsyncIterator[Scene]:
    """Run everything but the unfriendly person; in the end the log of the service is looked through for errors."""
    host, data = HangingHost(), run.folder / "data"
    accounts = await fill(data)
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(host, "127.0.0.1", 0))
        hanging = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = {"hanging": f"http://{hanging}", "latency_s": _LATENCY_S}
        upstream = stack.enter_context(processes.serving("serve_upstream", run.folder / "upstream.log", **options))
        service, base, _ = await stack.enter_async_context(
            child.serving(
                run.folder,
                upstream=f"http://{upstream.netloc}",
                NANOHOOK_DOWNLOAD_HOSTS=f"{upstream.netloc},{hanging}",
                NANOHOOK_UPLOAD_QUOTA_BYTES=str(_QUOTA_BYTES),
                NANOHOOK_UPSTREAM_RATE=_UPSTREAM_RATE,
            )
        )
        stack.enter_context(limited(run, service.process.pid))
        picture = rig.picture(320, 240, kind="JPEG")
        *friendly, unfriendly = accounts
        scene = Scene(
            folder=data,
            base=base,
            service_pid=service.process.pid,
            upstream=upstream,
            host=host,
            friends=[Friend(base, each.api_key, picture) for each in friendly],
            unfriendly=unfriendly,
            ways=ways,
        )
        try:
            yield scene
        finally:
            for friend in scene.friends:
                friend.close()
        run.check(service.process.poll() is None, f"the service ended by itself: {service.said[-3000:]}")
        run.check(await service.stopped(timeout_s=30) == 0, "the service did not end well")
        faults = [line for line in service.lines if line["level"] in {"ERROR", "CRITICAL"}]
        run.check(not faults, f"{len(faults)} errors in the log of the service, such as {faults[:1]}")


async def fill(
    folder: pathlib.Path, *, jobs_of_each: int = _JOBS_OF_EACH, prompt: str = "a kite over the sea"
) -> list[Account]:
    """Make everybody and what they have; the unfriendly person comes last."""
    where = database_path(fixed(data_dir=folder))
    migrations.upgrade(where)
    accounts = []
    async with database.open_database(where) as opened:
        for number in range(_FRIENDS + 1):
            account = people.NewAccount(email=f"p{number}@example.org", is_verified=True, credits=_CREDITS)
            api_key = await people.create_in(opened, account)
            person = await people.person(opened, account.email, credits=0)
            accounts.append(Account(person_id=person.id, api_key=api_key))
    with contextlib.closing(sqlite3.connect(where)) as connection, connection:
        for number, account in enumerate(accounts):
            is_friendly = number < _FRIENDS
            connection.execute(
                _JOBS,
                {
                    "count": jobs_of_each if is_friendly else _UNFRIENDLY_JOBS,
                    "person": number,
                    "owner": account.person_id,
                    "prompt": prompt if is_friendly else LONG_PROMPT,
                },
            )
        connection.executescript(_BELONGINGS)
    return accounts


@contextlib.contextmanager
def limited(run: Run, pid: int) -> Iterator[None]:
    """Hold a process to the memory of a small machine, where control groups can be written."""
    for parent, name in ((_GROUPS, "memory.max"), (_GROUPS / "memory", "memory.limit_in_bytes")):
        group = parent / f"nanohook-mixed-{os.getpid()}"
        try:
            group.mkdir()
            # What is there is the kernel's: elsewhere this is a folder as any other.
            with (group / name).open("r+") as limit, (group / "cgroup.procs").open("r+") as members:
                limit.write(str(_MEMORY_BYTES))
                limit.flush()
                members.write(str(pid))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        run.say(f"the service may use {_MEMORY_BYTES // 1024**2} MiB: {group / name}")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # somebody is still in it
                group.rmdir()
        return
    run.say("no control group can be written here: memory is looked at alone")
    yield
