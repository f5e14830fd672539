"""(d) From a callback to its event at the reader, at 100 callbacks a second."""

import asyncio
import re
import time

from tests.bench import line_a, load, processes, seed
from tests.bench.load import Reader
from tests.bench.processes import Address
from tests.bench.report import Run, median, percentile
from tests.bench.seed import Seeded

_PER_SECOND, _STREAMS, _JOBS_EACH = 100, 10, 10
_EVENT = re.compile(rb'"job_id":"([^"]+)","status":"GENERATING","progress":(\d+)')
_MARK = b"\ndata: "
_NEED_P50, _NEED_P99 = 0.004, 0.030


def measure(run: Run) -> None:
    """Measure how long a reader waits."""
    rounds = 3 if run.is_quick else 9
    seeded = seed.seed(run.folder / "d", count=_STREAMS * _JOBS_EACH)
    ours, echo = [], []
    for pair in range(run.pairs):
        echo.append(_bare(run, seeded, rounds))
        ours.append(_seen(run, seeded.copy(str(pair)), rounds))
        run.say(f"d: {ours[-1][0] * 1e3:.2f} ms, {ours[-1][1] * 1e3:.2f} ms")
    seeded.remove()
    for name, column, need in (("p50", 0, _NEED_P50), ("p99", 1, _NEED_P99)):
        mine, its = median([one[column] for one in ours]), median([one[column] for one in echo])
        run.add(
            f"d  callback to event, {_PER_SECOND}/s, {name}",
            f"{mine * 1e3:.2f} ms",
            yardstick=f"echo round trip {its * 1e3:.2f} ms",
            ratio=f"{mine / its:.1f}",
            need=f"<= {need * 1e3:.0f} ms",
            is_met=mine <= need,
        )


def _bare(run: Run, seeded: Seeded, rounds: int) -> tuple[float, float]:
    with processes.serving("serve_echo", run.folder / "serve_echo.log") as address:
        requests = line_a.requests(address, seeded.job_ids, rounds)
        _, result = load.run(load.call_paced(address, requests, per_second=_PER_SECOND))
    run.check(not result.bad, f"echo answered {result.bad}")
    return percentile(result.took, 50), percentile(result.took, 99)


def _seen(run: Run, seeded: Seeded, rounds: int) -> tuple[float, float]:
    with processes.serving("serve_nanohook", run.folder / "d.log", **line_a.settings(seeded)) as address:
        took = load.run(_work(run, address, seeded, rounds))
    seeded.remove()
    return percentile(took, 50), percentile(took, 99)


async def _work(run: Run, address: Address, seeded: Seeded, rounds: int) -> list[float]:
    groups = [seeded.job_ids[at : at + _JOBS_EACH] for at in range(0, len(seeded.job_ids), _JOBS_EACH)]
    seen: dict[tuple[bytes, int], float] = {}

    def came(_reader: Reader, data: bytes) -> None:
        # At this rate an event is never split: each is a chunk and a segment of its own.
        now = time.perf_counter()
        for job_id, progress in _EVENT.findall(data):
            seen.setdefault((job_id, int(progress)), now)

    requests = [
        load.browser_get(address, "/api/events?" + "&".join(f"job={job_id}" for job_id in group), seeded.api_key)
        for group in groups
    ]
    streams = await load.open_streams(address, requests, mark=_MARK, came=came)
    prepared = line_a.requests(address, seeded.job_ids, rounds)
    sent, result = await load.call_paced(address, prepared, per_second=_PER_SECOND)
    await asyncio.sleep(0.5)
    load.close_streams(streams)
    run.check(not result.bad, f"d: callbacks were answered {result.bad}")
    keys = [(job_id.encode(), 61 + number) for number in range(rounds) for job_id in seeded.job_ids]
    lost = [key for key in keys if key not in seen]
    run.check(not lost, f"d: {len(lost)} of {len(keys)} events did not come")
    return [seen[key] - at for key, at in zip(keys, sent, strict=True) if key in seen]
