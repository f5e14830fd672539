"""
Friendly people's mixed load, without and with an unfriendly person beside them: is anybody felt by the others?

    python -m tests.bench.mixed_load [--seconds 300] [--pairs 3] [--rate 6] [--ways search,list,upload]

The service as it is deployed, with its default limits (``nanohook serve``), the sandbox, the unfriendly person
and this load are a process each. One service runs through all segments; pairs are in the order AB BA AB, so that
what else the machine does is in both. After each segment everything that the unfriendly person left has ended
before the next begins. Exits 1 when a bound is broken.
"""

import argparse
import asyncio
import collections
import contextlib
import itertools
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.bench import friendly, load, mixed_scene, processes
from tests.bench.friendly import Seen
from tests.bench.mixed_scene import Scene
from tests.bench.report import Run, median, percentile

_WAYS = "search,list,upload,generate,batch,status,check"
_WARM_S = 5.0
_SAMPLE_S = 0.5
_MOST_RATIO = 2.0
_MOST_MB = 900
_MOST_GROWTH_MB = 200
_ALL, _JOB, _CALLBACK = "all requests", "job, 202 to its end", "callback"
_SHOWN = (*friendly.KINDS, _ALL, _JOB, _CALLBACK)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    is_beside: bool
    """With the unfriendly person."""
    seen: Seen
    callbacks: list[float]
    called_again: int
    """Callbacks that were not taken the first time."""
    memory_mb: list[float]
    """Of the service, twice a second."""
    busy: dict[str, float]
    """Cores that each process kept busy."""

    @property
    def name(self) -> str:
        return "with" if self.is_beside else "without"

    def took(self, kind: str) -> list[float]:
        """Tell the seconds of one kind."""
        others = {_ALL: self.seen.all, _JOB: self.seen.ran, _CALLBACK: self.callbacks}
        return others.get(kind) or self.seen.took[kind]


def main() -> int:
    """Measure, print, and tell whether every bound holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mixed_load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long each segment lasts")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=6.0, help="jobs a second that friendly people ask for")
    parser.add_argument("--dir", type=pathlib.Path, help="where database and logs go; must be a real disk")
    parser.add_argument("--ways", default=_WAYS, help="of being unfriendly; stream,stranger,silent,garbage beside")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nanohook-mixed-", dir=chosen.dir) as folder:
        run = Run(folder=pathlib.Path(folder), pairs=chosen.pairs, is_quick=False, minutes=chosen.seconds / 60)
        load.run(
            _measure(
                run,
                seconds=chosen.seconds,
                per_second=chosen.rate,
                ways=chosen.ways.split(","),
            )
        )
    run.print_table()
    return 1 if run.wrong or any(row.is_met is False for row in run.rows) else 0


async def _measure(run: Run, *, seconds: float, per_second: float, ways: list[str]) -> None:
    segments: list[_Segment] = []
    numbers = itertools.count()
    if (running := asyncio.current_task()) is not None:
        # Whoever stops this early stops what it has started.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    async with mixed_scene.running(run, ways=ways) as scene:
        await friendly.load(scene.friends, per_second=per_second, seconds=_WARM_S, numbers=numbers)
        for pair in range(run.pairs):
            for is_beside in (False, True) if pair % 2 == 0 else (True, False):
                segments.append(
                    await _segment(
                        run, scene, is_beside=is_beside, seconds=seconds, per_second=per_second, numbers=numbers
                    )
                )
                _tell(run, len(segments), segments[-1])
        peak_mb = processes.memory_mb(scene.service_pid, "VmHWM")
    _compare(run, segments)
    _refusals(run, segments)
    _memory(run, segments, peak_mb)


async def _segment(
    run: Run, scene: Scene, *, is_beside: bool, seconds: float, per_second: float, numbers: "itertools.count[int]"
) -> _Segment:
    """Load the service for some *seconds*."""
    answers: dict[str, dict[str, int]] = {}
    memory_mb: list[float] = []
    pids = {"service": scene.service_pid, "sandbox": scene.upstream.pid, "load": os.getpid()}
    await scene.callbacks()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(_watched(scene.service_pid, memory_mb))
        if is_beside:
            pids["unfriendly"] = await stack.enter_async_context(scene.beside(run, answers))
        before, began = {name: _cpu_s(pid) for name, pid in pids.items()}, time.perf_counter()
        seen = await friendly.load(scene.friends, per_second=per_second, seconds=seconds, numbers=numbers)
        took = time.perf_counter() - began
        busy = {name: (_cpu_s(pid) - before[name]) / took for name, pid in pids.items()}
        told = await scene.callbacks()
    for kind, counted in answers.items():
        run.say(f"unfriendly, {kind}: {', '.join(f'{status} x {count}' for status, count in counted.items())}")
    return _Segment(
        is_beside=is_beside,
        seen=seen,
        callbacks=told["took"],
        called_again=told["again"],
        memory_mb=memory_mb,
        busy=busy,
    )


@contextlib.asynccontextmanager
async def _watched(pid: int, memory_mb: list[float]) -> AsyncIterator[None]:
    """Note the memory of a process, until what the unfriendly person left has ended."""

    async def watch() -> None:
        while True:
            memory_mb.append(processes.memory_mb(pid, "VmRSS"))
            await asyncio.sleep(_SAMPLE_S)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _tell(run: Run, number: int, segment: _Segment) -> None:
    """Print what one segment showed."""
    for kind in _SHOWN:
        took = segment.took(kind)
        run.add(
            f"{number} {segment.name}  {kind}",
            "  ".join(f"p{percent} {percentile(took, percent) * 1e3:,.1f}" for percent in (50, 95, 99)) + " ms",
            yardstick=f"{len(took):,}",
        )
    memory = segment.memory_mb
    run.add(
        f"{number} {segment.name}  memory",
        f"{memory[0]:.0f} to {memory[-1]:.0f} MB, most {max(memory):.0f}",
        yardstick=", ".join(f"{name} {cores:.2f}" for name, cores in segment.busy.items()) + " cores",
    )


def _compare(run: Run, segments: list[_Segment]) -> None:
    """Set the 95th percentiles of both segments of each pair side by side."""
    pairs = [
        sorted(pair, key=lambda each: each.is_beside) for pair in zip(segments[::2], segments[1::2], strict=True)
    ]
    for kind in _SHOWN:
        p95 = [[percentile(segment.took(kind), 95) for segment in pair] for pair in pairs]
        ratios = [beside / alone for alone, beside in p95]
        is_met = median(ratios) <= _MOST_RATIO
        run.add(
            f"{kind}, p95 with an unfriendly person",
            ", ".join(f"{beside * 1e3:,.1f}" for _, beside in p95) + " ms",
            yardstick="without " + ", ".join(f"{alone * 1e3:,.1f}" for alone, _ in p95) + " ms",
            ratio=f"{median(ratios):.2f} of {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
            need=f"<= {_MOST_RATIO:g}",
            is_met=is_met,
        )


def _refusals(run: Run, segments: list[_Segment]) -> None:
    """Friendly people meet no fault, no limit, and every job of theirs is done."""
    statuses = sum((each.seen.statuses for each in segments), collections.Counter[int]())
    faults = sum(count for status, count in statuses.items() if status >= 500)
    limited = statuses[429]
    asked, done = sum(each.seen.asked for each in segments), sum(each.seen.done for each in segments)
    run.add(
        "friendly people's answers",
        ", ".join(f"{status} x {count:,}" for status, count in sorted(statuses.items())),
        ratio=f"5xx {faults}, 429 {limited}, jobs not done {asked - done}",
        need="0",
        is_met=not (faults or limited or asked - done),
    )
    for segment in segments:
        run.check(not segment.seen.wrong, f"{len(segment.seen.wrong)} wrong, {segment.seen.wrong[:3]}")
        run.check(not segment.called_again, f"{segment.called_again} callbacks had to be sent again")


def _memory(run: Run, segments: list[_Segment], peak_mb: float) -> None:
    began, most = segments[0].memory_mb[0], max(max(each.memory_mb) for each in segments)
    run.add(
        "memory of the service",
        f"{began:.0f} to {segments[-1].memory_mb[-1]:.0f} MB, most {most:.0f}",
        ratio=f"{most - began:+.0f} MB",
        need=f"<= {_MOST_GROWTH_MB}",
        is_met=most - began <= _MOST_GROWTH_MB,
    )
    run.add(
        "memory of the service, its peak (VmHWM)",
        f"{peak_mb:.0f} MB",
        need=f"<= {_MOST_MB}",
        is_met=peak_mb <= _MOST_MB,
    )


def _cpu_s(pid: int) -> float:
    """Tell how long a process has kept cores busy."""
    # Behind its name, which may have blanks in it: utime and stime are the 14th and 15th field. Source: proc(5).
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    sys.exit(main())
