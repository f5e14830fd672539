"""
The soak: jobs at a steady pace for minutes, with a share of every fault that the sandbox knows.

Nothing may be lost or done twice, and the service may not grow. The sandbox runs in this process, so that it can
be looked into afterwards; the service is a process of its own.
"""

import asyncio
import collections
import contextlib
import pathlib
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from nanohook.cli import integrity, people
from nanohook.sandbox import options, orders, tasks
from nanohook.sandbox.app import create_app
from nanohook.settings import fixed
from tests import books, live, rig
from tests.bench import load, processes, seed
from tests.bench.processes import Address
from tests.bench.report import Run, percentile

_PER_SECOND = 20
_SHARE = 0.05
_CANCELED_EVERY = 20
_TWO_EVERY = 10
"""Every so many jobs are canceled, or ask for two pictures."""
_DEADLINE_S = 30
_LATE_S = 40.0
"""Beyond the deadline: what nobody could ask after is told when its job has ended."""
_TRIES = 5
_QUIET_S = 240.0
_SETTLED = 0.2
"""Share of the time that is not counted for memory: the service warms up."""
_NEED_KB_A_MINUTE = 1_024


class _Journal(tasks.Table):
    """The sandbox's memory, which forgets nothing."""

    def __init__(self) -> None:
        super().__init__(credit=1_000_000_000)
        self.all: list[tasks.Task] = []

    def add(self, order: orders.Order, behaviour: options.Behaviour, *, base_url: str) -> tasks.Task:
        self.all.append(super().add(order, behaviour, base_url=base_url))
        return self.all[-1]


@dataclass(kw_only=True)
class _Soaked:
    """What came of it."""

    folder: pathlib.Path
    journal: _Journal = field(default_factory=_Journal)
    answers: collections.Counter[int] = field(default_factory=collections.Counter)
    """To the requests for a job, by HTTP status."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Minutes since the beginning, and the service's resident KB."""
    is_quiet: bool = False
    """In the end everything had ended."""


def measure(run: Run) -> None:
    """Soak, then look at what is stored."""
    minutes = 0.5 if run.is_quick else run.minutes
    soaked = _Soaked(folder=run.folder / "soak")
    load.run(_soak(run, soaked, minutes * 60))
    run.check(soaked.is_quiet, f"soak: something was still open {_QUIET_S:.0f} s after the last job")
    _jobs(run, soaked, minutes)
    _lost(run, soaked)
    _double(run, soaked)
    _memory(run, soaked)
    _times(run, soaked)
    run.check(integrity.run(fixed(data_dir=soaked.folder)) == 0, "soak: doctor --audit is not clean")


async def _soak(run: Run, soaked: _Soaked, seconds: float) -> None:
    key = await people.create(
        fixed(data_dir=soaked.folder),
        people.NewAccount(email="bench@example.org", is_verified=True, credits=900_000_000),
    )
    sandbox = create_app(
        options.Options(
            latency_s=1.0,
            picture_bytes=rig.picture(256, 256, kind="JPEG"),
            trouble=_SHARE,
            trouble_late_s=_LATE_S,
            seed=1,
        )
    )
    sandbox.state.tasks = soaked.journal
    port = live.closed_port()
    async with live.serve(sandbox) as upstream:
        chosen = _settings(soaked.folder, port=port, upstream=upstream)
        with processes.serving("serve_nanohook", run.folder / "soak.log", **chosen) as address:
            async with _watched(address, soaked):
                await _load(run, address, key, soaked, seconds)
            await _quiet(run, soaked)


def _settings(folder: pathlib.Path, *, port: int, upstream: str) -> dict[str, object]:
    return {
        "port": port,
        "data_dir": str(folder),
        "secret_keys": [seed.KEY],
        "nanobanana_api_key": "sandbox",
        "nanobanana_url": upstream,
        "public_url": f"http://127.0.0.1:{port}",
        "download_hosts": [upstream.removeprefix("http://")],
        "disk_reserve_bytes": 0,
        "upstream_rate": "1000/second",
        "rate_write": "1000/second",
        "open_tasks": 1_000,
        # A call that comes before the answer to the submit, and late, keeps that waiting until it is given up.
        "submit_concurrency": 32,
        # A slow host holds one of these for as long as it takes.
        "finish_concurrency": 16,
        "reconcile_after_s": 10,
        "job_deadline_s": _DEADLINE_S,
    }


async def _load(run: Run, address: Address, key: str, soaked: _Soaked, seconds: float) -> None:
    """Ask for jobs at even intervals."""
    headers = {"Authorization": f"Bearer {key}"}
    base = f"http://{address.netloc}"
    limits = httpx.Limits(max_connections=100)
    began = time.perf_counter()
    async with (
        httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=30, limits=limits) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(int(seconds * _PER_SECOND)):
            await asyncio.sleep(began + number / _PER_SECOND - time.perf_counter())
            group.create_task(_job(client, number, soaked))
            if number % (_PER_SECOND * 30) == 0:
                run.say(f"soak: {number} jobs, {soaked.memory[-1][1] if soaked.memory else 0:,} KB")


async def _job(client: httpx.AsyncClient, number: int, soaked: _Soaked) -> None:
    body: dict[str, Any] = {
        "prompt": f"kite {number}",
        "model": ("nano-banana", "nano-banana-2")[number % 2],
        "numImages": 2 if number % _TWO_EVERY == 0 else 1,
    }
    made = await _post(client, "/api/generate-image", body, key=f"soak-{number}")
    soaked.answers[made.status_code] += 1
    if number % _CANCELED_EVERY == 1:
        await asyncio.sleep(number % 13 / 10)  # at every moment of a job's second
        await _post(client, made.json()["links"]["cancel"], {}, key=f"cancel-{number}")


async def _post(client: httpx.AsyncClient, path: str, body: dict[str, Any], *, key: str) -> httpx.Response:
    """Send a request, again with the same key if no answer came: a kept connection may just have been closed."""
    headers = {"Idempotency-Key": key}
    for _ in range(_TRIES - 1):
        with contextlib.suppress(httpx.TransportError):
            return await client.post(path, json=body, headers=headers)
    return await client.post(path, json=body, headers=headers)


@contextlib.asynccontextmanager
async def _watched(address: Address, soaked: _Soaked) -> AsyncIterator[None]:
    """Note the service's memory every second."""

    async def watch() -> None:
        began = time.perf_counter()
        while True:
            soaked.memory.append(((time.perf_counter() - began) / 60, _rss_kb(address.pid)))
            await asyncio.sleep(1)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _rss_kb(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/status").read_text().split("VmRSS:", 1)[1].split(None, 1)[0])


async def _quiet(run: Run, soaked: _Soaked) -> None:
    """Wait until nothing is due any more on either side."""
    run.say("soak: waiting for the last to end")
    for _ in range(int(_QUIET_S)):
        is_told = all(task.ended.is_set() for task in soaked.journal.all)
        if is_told and not books.rows(soaked.folder, "SELECT 1 FROM tasks WHERE step IS NOT NULL LIMIT 1"):
            soaked.is_quiet = True
            return
        await asyncio.sleep(1)


def _jobs(run: Run, soaked: _Soaked, minutes: float) -> None:
    ends = books.rows(
        soaked.folder,
        "SELECT status, COALESCE(error_code, '') AS code, COUNT(*) AS n FROM jobs GROUP BY 1, 2 ORDER BY 3 DESC",
    )
    told = ", ".join(f"{row['n']:,} {row['status']} {row['code']}".rstrip() for row in ends)
    run.add(f"soak  jobs in {minutes:g} min", f"{sum(row['n'] for row in ends):,}: {told}")
    run.check(set(soaked.answers) == {202}, f"soak: jobs were answered {dict(soaked.answers)}")
    run.check(sum(row["n"] for row in ends) == soaked.answers[202], "soak: a job that was taken is not stored")
    is_open = {"PENDING", "INITIALIZING", "GENERATING"} & {row["status"] for row in ends}
    run.check(not is_open, f"soak: jobs stay {is_open}")


def _lost(run: Run, soaked: _Soaked) -> None:
    """A picture that NanoBanana made is a result or kept; but for those that nobody could know of."""
    named = books.rows(
        soaked.folder, "SELECT job_id, idx, 1 FROM pictures UNION ALL SELECT job_id, idx, 0 FROM unclaimed"
    )
    kept = {(row["job_id"], row["idx"]) for row in named}
    known = {row["task_id"] for row in books.rows(soaked.folder, "SELECT task_id FROM tasks")}
    made = [task for task in soaked.journal.all if isinstance(task.outcome, tasks.Picture)]
    missing = [task for task in made if _key(task) not in kept]
    # Neither the answer to the submit nor a callback ever came.
    never_told = [
        task
        for task in missing
        if task.behaviour.accident and task.callback_status is None and task.task_id not in known
    ]
    lost = len(missing) - len(never_told)
    late = sum(1 for row in named if not row["1"])
    run.add(
        "soak    pictures that NanoBanana made",
        f"{len(made):,}: {len(made) - len(missing):,} kept, {late:,} of them unclaimed",
        yardstick=f"never told of: {len(never_told)}",
        ratio=f"lost {lost}",
        need="0",
        is_met=not lost,
    )
    run.check(not lost, f"soak: lost: {[task.task_id for task in missing if task not in never_told][:10]}")


def _double(run: Run, soaked: _Soaked) -> None:
    """No task was bought, stored or charged twice: no job was retried."""
    bought = collections.Counter(map(_key, soaked.journal.all))
    again = [key for key, number in bought.items() if number > 1]
    stored = books.rows(
        soaked.folder,
        "SELECT job_id, idx FROM (SELECT job_id, idx FROM pictures UNION ALL SELECT job_id, idx FROM unclaimed) "
        "GROUP BY 1, 2 HAVING COUNT(*) > 1",
    )
    charged = books.rows(
        soaked.folder,
        "SELECT job_id, idx FROM ledger WHERE kind = 'charge' GROUP BY 1, 2 HAVING COUNT(*) > 1",
    )
    files = {path for path in (soaked.folder / "media").rglob("*") if path.is_file()}
    rows = books.rows(soaked.folder, "SELECT key, thumbnail_key FROM pictures UNION ALL "
                      "SELECT key, thumbnail_key FROM unclaimed")  # fmt: skip
    spare = len(files) - 2 * len(rows)
    number = len(again) + len(stored) + len(charged) + abs(spare)
    run.add(
        "soak    double",
        f"{len(again)} bought, {len(stored)} stored, {len(charged)} charged, {spare} files too many",
        need="0",
        is_met=not number,
    )
    run.check(not number, f"soak: double: {again[:5]} {stored[:5]} {charged[:5]} {spare} files")
    books.check(soaked.folder)


def _memory(run: Run, soaked: _Soaked) -> None:
    settled = soaked.memory[int(len(soaked.memory) * _SETTLED) :]
    slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
    is_met = slope <= _NEED_KB_A_MINUTE or run.is_quick  # half a minute is all warming up
    run.add(
        "soak    memory",
        f"{settled[0][1]:,} to {settled[-1][1]:,} KB, most {max(kb for _, kb in soaked.memory):,}",
        ratio=f"{slope:+,.0f} KB/min",
        need=f"<= {_NEED_KB_A_MINUTE:,}",
        is_met=is_met,
    )
    run.check(is_met, f"soak: memory grows by {slope:,.0f} KB a minute")


def _times(run: Run, soaked: _Soaked) -> None:
    took = books.rows(
        soaked.folder,
        "SELECT (completed_at - created_at) / 1e6 AS s, (SELECT MAX(server_faults + asks) FROM tasks "
        "WHERE job_id = jobs.id) AS waits FROM jobs WHERE status = 'COMPLETED'",
    )
    jobs = [row["s"] for row in took]
    # Neither put off for a minute by a server fault, nor without a callback for ten seconds.
    told = [row["s"] for row in took if not row["waits"]]
    calls = [task.callback_took_s * 1e3 for task in soaked.journal.all if task.callback_took_s is not None]
    run.add(
        "soak    times",
        f"job p50 {percentile(jobs, 50):.2f} s, p99 {percentile(jobs, 99):.2f} s; "
        f"called back at once p50 {percentile(told, 50):.2f} s, p99 {percentile(told, 99):.2f} s",
        yardstick="NanoBanana's 1 s, a slow picture's 1 s",
        ratio=f"callback p50 {percentile(calls, 50):.0f} ms, p99 {percentile(calls, 99):.0f} ms",
    )


def _key(task: tasks.Task) -> tuple[str, int]:
    """Whose it is: the address that it is called back at says so."""
    signed = seed.read((task.order.callback_url or "").rpartition("/")[2])
    return signed.job_id, signed.index
