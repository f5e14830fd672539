"""The work as a whole: pause, resume, drain, and its figures."""

from collections.abc import Mapping
from typing import NamedTuple

from starlette.responses import Response

from nanohook import clock, reports
from nanohook.database import Lane, Transaction
from nanohook.flow import workload
from nanohook.flow.workload import Workload
from nanohook.rules import estimate
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import counts, delivery_log, stats
from nanohook.stores.stats import Load, Run
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call

NEWEST = 200
"""Finished jobs that the times are told from."""
_FINISHED = (ImageJobStatus.COMPLETED, ImageJobStatus.FAILED)


class _Figures(NamedTuple):
    """What is read for the figures."""

    load: Load
    runs: list[Run]
    numbers: Mapping[ImageJobStatus, int]
    stands: Workload
    attention: Mapping[str, int] | None


async def pause(call: Call) -> Response:
    """Submit nothing from now on, whosever it is; what NanoBanana has goes on."""
    return await _pause(call, is_draining=False)


async def drain(call: Call) -> Response:
    """Do the same, and tell when nothing is under way any more."""
    return await _pause(call, is_draining=True)


async def _pause(call: Call, *, is_draining: bool) -> Response:
    now = clock.now_us()
    stands = await call.write(
        lambda tx: workload.pause(tx, is_draining=is_draining, actor=call.person.id, now_us=now)
    )
    return json_answer(reports.whole_work(stands))


async def resume(call: Call) -> Response:
    """Submit again."""
    stands = await call.write(lambda tx: workload.resume(tx, actor=call.person.id, now_us=clock.now_us()))
    return json_answer(reports.whole_work(stands))


async def figures(call: Call) -> Response:
    """Tell how much there is to do, and how long the newest jobs took: one's own, or everybody's for an admin."""
    owner_id, now = call.whose(), clock.now_us()
    # Who sees their own alone learns why it waits, and not how much others have.
    about_work = reports.whole_work if owner_id is None else reports.work

    async def read(tx: Transaction) -> _Figures:
        return _Figures(
            load=await stats.load(tx, owner_id=owner_id, now_us=now),
            runs=await stats.runs(tx, owner_id=owner_id, statuses=_FINISHED, most=NEWEST),
            numbers=await counts.of_owner(tx, owner_id),
            stands=await workload.read(tx, now_us=now),
            attention=await _attention(tx) if call.person.is_admin else None,
        )

    async with call.turn():
        found = await call.read(read, lane=Lane.PAGE)
    load, runs = found.load, found.runs
    return json_answer(
        {
            "counts": {status.value: number for status, number in found.numbers.items()},
            "waiting": load.waiting,
            "oldest_waiting_s": None if load.oldest is None else _seconds(max(0, now - load.oldest)),
            "under_way": load.under_way,
            **_times(runs),
            "throughput_per_hour": estimate.per_hour([run.ended_at for run in runs], most=NEWEST, now_us=now),
            "work": about_work(found.stands),
            "attention": found.attention,
        }
    )


def _times(runs: list[Run]) -> dict[str, object]:
    waits, takes = [_seconds(run.waited) for run in runs], [_seconds(run.took) for run in runs]
    return {
        name: {"p50": estimate.percentile(values, 0.5), "p95": estimate.percentile(values, 0.95)}
        for name, values in (("wait_s", waits), ("run_s", takes))
    }


async def _attention(tx: Transaction) -> dict[str, int]:
    """Count what an admin may have to look at."""
    return {**await delivery_log.waiting(tx), "unclaimed": await stats.count_unclaimed(tx)}


def _seconds(time_us: int) -> float:
    return round(time_us / 1_000_000, 3)
