"""(b) Progress seen on streams: 1,000 jobs, 100 open streams of 10 jobs each."""

import asyncio
import time

import orjson

from tests.bench import line_a, load, processes, seed
from tests.bench.load import Reader
from tests.bench.processes import Address
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_STREAMS, _JOBS_EACH, _ROUNDS = 100, 10, 9
_MARK = b"\ndata: "
_NEED = 2_000


def measure(run: Run) -> None:
    """Measure how many events a second reach their readers."""
    seeded = seed.seed(run.folder / "b", count=_STREAMS * _JOBS_EACH)
    ours, echo = [], []
    for pair in range(run.pairs):
        echo.append(_bare(run, seeded))
        ours.append(_seen(run, seeded.copy(str(pair))))
        run.say(f"b: {ours[-1]:,.0f}/s beside {echo[-1]:,.0f}/s")
    seeded.remove()
    ratio = median([mine / its for mine, its in zip(ours, echo, strict=True)])
    run.add(
        f"b  seen on {_STREAMS} streams",
        f"{median(ours):,.0f} events/s",
        yardstick=f"echo {median(echo):,.0f}/s",
        ratio=f"{ratio:.2f}",
        need=f">= {_NEED:,}/s, none lost",
        is_met=median(ours) >= _NEED,
    )


def _bare(run: Run, seeded: Seeded) -> float:
    with processes.serving("serve_echo", run.folder / "serve_echo.log") as address:
        requests = line_a.requests(address, seeded.job_ids, _ROUNDS)
        result = load.run(load.call_all(address, requests, connections=line_a.CONNECTIONS))
    run.check(not result.bad, f"echo answered {result.bad}")
    return result.after(0)[0]


def _seen(run: Run, seeded: Seeded) -> float:
    options = line_a.settings(seeded, streams_per_user=_STREAMS)
    with processes.serving("serve_nanohook", run.folder / "b.log", **options) as address:
        rate = load.run(_work(run, address, seeded))
    seeded.remove()
    return rate


async def _work(run: Run, address: Address, seeded: Seeded) -> float:
    groups = [seeded.job_ids[at : at + _JOBS_EACH] for at in range(0, len(seeded.job_ids), _JOBS_EACH)]
    expected = _JOBS_EACH * (1 + _ROUNDS)  # each begins with the present states of its jobs
    waiting, last_at = len(groups), 0.0
    all_came = asyncio.Event()

    def came(reader: Reader, _data: bytes) -> None:
        nonlocal waiting, last_at
        if reader.seen >= expected and not reader.is_done:
            reader.is_done, last_at = True, time.perf_counter()
            waiting -= 1
            if not waiting:
                all_came.set()

    requests = [
        load.browser_get(address, "/api/events?" + "&".join(f"job={job_id}" for job_id in group), seeded.api_key)
        for group in groups
    ]
    streams = await load.open_streams(address, requests, mark=_MARK, came=came)
    prepared = line_a.requests(address, seeded.job_ids, _ROUNDS)
    began = time.perf_counter()
    result = await load.call_all(address, prepared, connections=line_a.CONNECTIONS)
    try:
        async with asyncio.timeout(30):
            await all_came.wait()
    except TimeoutError:
        run.check(False, f"b: {waiting} of {len(groups)} streams lack events")
    load.close_streams(streams)
    run.check(not result.bad, f"b: callbacks were answered {result.bad}")
    for stream in streams:
        _judge(run, stream)
    return _ROUNDS * len(seeded.job_ids) / (last_at - began)


def _judge(run: Run, stream: Reader) -> None:
    """Every id once and in order, every word of every job once and in order."""
    events = [block for block in load.blocks(stream.text()) if "data" in block][_JOBS_EACH:]
    ids = [int(block["id"]) for block in events]
    run.check(ids == sorted(set(ids)), "b: ids came twice or out of order")
    said: dict[str, list[int]] = {}
    for block in events:
        data = orjson.loads(block["data"])
        said.setdefault(data["job_id"], []).append(data["progress"])
    wanted = [61 + number for number in range(_ROUNDS)]
    run.check(
        len(said) == _JOBS_EACH and all(words == wanted for words in said.values()),
        f"b: a stream has {len(ids)} of {_JOBS_EACH * _ROUNDS} events, or others",
    )
