"""(c) Memory and tasks of idle streams, and one event to very many readers; beside sse-starlette."""

import asyncio
import time

from tests.bench import line_a, load, processes, seed
from tests.bench.load import Reader
from tests.bench.processes import Address
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_MARK = b"\ndata: "
_SETTLE_S = 3.0
_NEED_KB, _NEED_TASKS, _NEED_RATIO = 12.0, 1.05, 2.0


def measure(run: Run) -> None:
    """Measure idle streams, then fan-out."""
    count, readers, events = (2_000, 1_000, 20) if run.is_quick else (10_000, 3_000, 30)
    seeded = seed.seed(run.folder / "c", count=count)
    _idle(run, seeded, count)
    _fan_out(run, seeded, readers, events, at_once=events)
    _fan_out(run, seeded, readers, events, at_once=1)
    seeded.remove()


def _idle(run: Run, seeded: Seeded, count: int) -> None:
    ours, theirs = [], []
    for pair in range(run.pairs):
        theirs.append(_idle_in(run, "serve_sse", seeded, count))
        ours.append(_idle_in(run, "serve_nanohook", seeded.copy(str(pair)), count))
        run.say(f"c: {ours[-1][0]:.1f} KB beside {theirs[-1][0]:.1f} KB")
    rss, pss, tasks = (median([one[column] for one in ours]) for column in range(3))
    bare, bare_tasks = median([one[0] for one in theirs]), median([one[2] for one in theirs])
    run.add(
        f"c  {count:,} idle streams, memory",
        f"{rss:.1f} KB a stream (PSS {pss:.1f})",
        yardstick=f"sse-starlette {bare:.1f} KB",
        ratio=f"{rss / bare:.2f}",
        need=f"<= {_NEED_KB:.0f} KB",
        is_met=rss <= _NEED_KB,
    )
    run.add(
        "c    their tasks",
        f"{tasks:.2f} a stream",
        yardstick=f"sse-starlette {bare_tasks:.2f}",
        ratio=f"{tasks / bare_tasks:.2f}",
        need="1",
        is_met=tasks <= _NEED_TASKS,
    )


def _fan_out(run: Run, seeded: Seeded, readers: int, events: int, *, at_once: int) -> None:
    ours, theirs = [], []
    for pair in range(run.pairs):
        theirs.append(_fan_out_in(run, "serve_sse", seeded, readers=readers, events=events, at_once=at_once))
        ours.append(
            _fan_out_in(
                run, "serve_nanohook", seeded.copy(str(pair)), readers=readers, events=events, at_once=at_once
            )
        )
        run.say(f"c: {ours[-1]:,.0f}/s beside {theirs[-1]:,.0f}/s")
    ratio = median([mine / its for mine, its in zip(ours, theirs, strict=True)])
    run.add(
        f"c  {events} events to {readers:,} streams, {'one by one' if at_once == 1 else 'at once'}",
        f"{median(ours):,.0f} messages/s",
        yardstick=f"sse-starlette {median(theirs):,.0f}/s",
        ratio=f"{ratio:.1f}",
        need=f">= {_NEED_RATIO:.0f}",
        is_met=ratio >= _NEED_RATIO,
    )


def _idle_in(run: Run, module: str, seeded: Seeded, count: int) -> tuple[float, float, float]:
    with _serving(run, module, seeded) as address:

        async def work() -> tuple[float, float, float]:
            before = await load.figures(address)
            requests = [
                load.browser_get(address, f"/api/images/{job_id}/events", seeded.api_key)
                for job_id in seeded.job_ids[:count]
            ]
            streams = await load.open_streams(address, requests, mark=_MARK)
            await asyncio.sleep(_SETTLE_S)
            after = await load.figures(address)
            run.check(after["streams"] == count, f"{module} holds {after['streams']} of {count} streams")
            load.close_streams(streams)
            return (
                (after["rss_kb"] - before["rss_kb"]) / count,
                (after["pss_kb"] - before["pss_kb"]) / count,
                (after["tasks"] - before["tasks"]) / count,
            )

        figures = load.run(work())
    if module == "serve_nanohook":
        seeded.remove()
    return figures


def _fan_out_in(run: Run, module: str, seeded: Seeded, *, readers: int, events: int, at_once: int) -> float:
    job_id = seeded.job_ids[0]
    with _serving(run, module, seeded) as address:
        rate = load.run(
            _burst(run, address, job_id, seeded.api_key, readers=readers, events=events, at_once=at_once)
        )
    if module == "serve_nanohook":
        seeded.remove()
    return rate


async def _burst(
    run: Run, address: Address, job_id: str, api_key: str, *, readers: int, events: int, at_once: int
) -> float:
    """Write *events*, the next ones when everybody has the last; messages per second until then."""
    expected = 1  # each stream begins with the present state
    waiting = 0
    all_came = asyncio.Event()

    def came(reader: Reader, _data: bytes) -> None:
        nonlocal waiting
        if reader.seen >= expected and not reader.is_done:
            reader.is_done = True
            waiting -= 1
            if not waiting:
                all_came.set()

    request = load.browser_get(address, f"/api/images/{job_id}/events", api_key)
    streams = await load.open_streams(address, [request] * readers, mark=_MARK, came=came)
    await asyncio.sleep(1)
    burst = load.post(address, f"/bench/burst?job={job_id}&n={at_once}", _PAYLOAD)
    wanted: list[str] = []
    began = time.perf_counter()
    for _ in range(0, events, at_once):
        expected += at_once
        waiting = readers
        all_came.clear()
        for stream in streams:
            stream.is_done = False
        told = await load.ask(address, burst)
        wanted += map(str, told["ids"])
        try:
            async with asyncio.timeout(60):
                await all_came.wait()
        except TimeoutError:
            run.check(False, f"{waiting} of {readers} streams did not get every event")
            break
    took = time.perf_counter() - began
    load.close_streams(streams)
    wrong = sum(
        [block["id"] for block in load.blocks(stream.text()) if "id" in block][-events:] != wanted
        for stream in streams
    )
    run.check(not wrong, f"{wrong} of {readers} streams had other events, or in another order")
    return readers * events / took


_PAYLOAD = (
    b'{"job_id":"0192f0a0-0000-7000-8000-000000000000","status":"GENERATING","progress":60,'
    b'"stage":"generating","message":"NanoBanana is making your picture","attempt":1,"images":[],'
    b'"error":null,"at":"2026-11-21T08:00:00.000Z"}'
)


def _serving(run: Run, module: str, seeded: Seeded):
    options = {} if module == "serve_sse" else line_a.settings(seeded, streams_per_user=100_000)
    return processes.serving(module, run.folder / f"{module}.log", **options)
