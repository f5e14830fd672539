"""
(h) A job while ten results of somebody else's hang on a host that never answers, beside one where none do.

Two services of one kind, asked in turn, job by job: whatever else the machine does is in both.
"""

import asyncio
import contextlib
import itertools
import pathlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson

from nanohook.cli import people
from nanohook.settings import fixed
from tests import books, live, rig
from tests.bench import asking, load, processes
from tests.bench.friendly import Friend, Seen
from tests.bench.mixed_scene import HangingHost
from tests.bench.report import Run, median
from tests.bench.unfriendly import HANGING
from tests.process import child

_HANGING = 10
_ROUNDS = 12
"""In a pair; they are over before a download ends that is silent, which is after 15 seconds."""
_NEED = 1.20
_LATENCY_S = 0.05
_NO_LIMITS = dict.fromkeys(
    ("NANOHOOK_UPSTREAM_RATE", "NANOHOOK_RATE_STATUS", "NANOHOOK_RATE_WRITE", "NANOHOOK_RATE_UPLOAD"),
    "1000/second",
)


@dataclass(frozen=True, slots=True)
class _Side:
    """A service, one who is measured, and the key of another person."""

    data_dir: pathlib.Path
    base: str
    friend: Friend
    other_key: str


def measure(run: Run) -> None:
    """Measure the time from the 202 to the end of a job."""
    load.run(_measure(run))


async def _measure(run: Run) -> None:
    host, numbers = HangingHost(), itertools.count()
    took: list[tuple[float, float]] = []
    most_s = 0.0
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(host, "127.0.0.1", 0))
        hanging = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = {"hanging": f"http://{hanging}", "latency_s": _LATENCY_S}
        upstream = stack.enter_context(processes.serving("serve_upstream", run.folder / "h.log", **options))
        alone, beside = [
            await stack.enter_async_context(_side(run, name, upstream.netloc, hanging))
            for name in ("alone", "beside")
        ]
        for side in (alone, beside):
            await _job(run, side, numbers)  # whatever is loaded once is loaded
        for _ in range(run.pairs):
            await _hang(beside)
            ran: dict[str, list[float]] = {alone.base: [], beside.base: []}
            for number in range(_ROUNDS):
                for side in (alone, beside) if number % 2 else (beside, alone):
                    ran[side.base].append(await _job(run, side, numbers))
            run.check(_hanging(beside) >= _HANGING, "h: they did not hang for as long as it was measured")
            took.append((median(ran[alone.base]), median(ran[beside.base])))
            most_s = max(most_s, *ran[beside.base])
            run.say("h: {:.1f} ms alone, {:.1f} ms beside".format(*(1e3 * each for each in took[-1])))
    without, others = (median(each) for each in zip(*took, strict=True))
    ratio = median([more / few for few, more in took])
    run.add(
        f"h  a job while {_HANGING} of another person's results hang",
        f"p50 {others * 1e3:.1f} ms, most {most_s * 1e3:.0f}",
        yardstick=f"without {without * 1e3:.1f} ms",
        ratio=f"{ratio:.2f}",
        need=f"<= {_NEED}",
        is_met=ratio <= _NEED,
    )


@contextlib.asynccontextmanager
async def _side(run: Run, name: str, upstream: str, hanging: str) -> AsyncIterator[_Side]:
    folder = run.folder / f"h-{name}"
    keys = [
        await people.create(
            fixed(data_dir=folder / "data"),
            people.NewAccount(email=f"{who}@example.org", is_verified=True, credits=1_000_000),
        )
        for who in ("friend", "other")
    ]
    async with child.serving(
        folder, upstream=f"http://{upstream}", NANOHOOK_DOWNLOAD_HOSTS=f"{upstream},{hanging}", **_NO_LIMITS
    ) as (service, base, _):
        friend = Friend(base, keys[0], rig.picture(320, 240, kind="JPEG"))
        yield _Side(folder / "data", base, friend, keys[1])
        friend.close()
        run.check(await service.stopped() == 0, f"h: the service did not end well: {service.said[-3000:]}")


async def _job(run: Run, side: _Side, numbers: "itertools.count[int]") -> float:
    seen = Seen()
    await side.friend.job(next(numbers), seen, due=time.perf_counter())
    run.check(not seen.wrong, f"h: {seen.wrong}")
    return median(seen.ran)


async def _hang(side: _Side) -> None:
    """Ask for pictures that come from the host that never answers, until so many wait for it."""
    connection = await asking.Connection.to(side.base)
    headers = {**asking.bearer(side.other_key), "Content-Type": "application/json"}
    for number in range(_HANGING):
        body = orjson.dumps({"prompt": f"{number} {HANGING}"})
        answer = await connection.ask("POST", "/api/generate-image", headers=headers, body=body)
        if answer.status != 202:
            raise RuntimeError(f"a job was answered {answer.status}: {answer.body!r}")
    connection.close()
    await live.until(lambda: _hanging(side) >= _HANGING)


def _hanging(side: _Side) -> int:
    """Tell how many downloads are under way while nobody's job is."""
    claimed = "SELECT COUNT(*) AS number FROM tasks WHERE step = 'finish' AND held = 1"
    return int(books.rows(side.data_dir, claimed)[0]["number"])
