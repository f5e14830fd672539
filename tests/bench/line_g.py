"""
(g) Requests of our HTTP/1, beside uvicorn's two: on httptools, as ours is, and on h11.

Per second of the server's processor time, which is the same whatever else the machine does.
"""

import os
import pathlib

from tests.bench import line_a, load, processes, seed
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_PROTOCOLS = ("ours", "httptools", "h11")
_REQUESTS = 40_000
_SKIPPED = 2_000
_NEED = {"httptools": 0.8, "h11": 1.5}
"""Strictness and the table may cost a fifth of the smallest app, which is nothing of a callback."""


def measure(run: Run) -> None:
    """Measure the smallest app, and the way of a callback."""
    requests = 10_000 if run.is_quick else _REQUESTS
    bare: dict[str, list[float]] = {name: [] for name in _PROTOCOLS}
    callbacks: dict[str, list[float]] = {name: [] for name in _PROTOCOLS}
    seeded = seed.seed(run.folder / "g", count=400)
    for pair in range(run.pairs):
        for name in _PROTOCOLS:
            bare[name].append(_bare(run, name, seeded, requests))
            callbacks[name].append(_callbacks(run, name, seeded.copy(f"{name}{pair}"), requests // 2))
        shown = (f"{name} {bare[name][-1]:,.0f} and {callbacks[name][-1]:,.0f}" for name in _PROTOCOLS)
        run.say(f"g: {', '.join(shown)} a CPU second")
    seeded.remove()
    for what, rates in (("smallest app", bare), ("callbacks", callbacks)):
        for other, need in _NEED.items():
            ratio = median([mine / its for mine, its in zip(rates["ours"], rates[other], strict=True)])
            is_needed = what == "smallest app"
            run.add(
                f"g  {what}, ours beside {other}",
                f"{median(rates['ours']):,.0f}/CPU s",
                yardstick=f"{other} {median(rates[other]):,.0f}/s",
                ratio=f"{ratio:.2f}",
                need=f">= {need}" if is_needed else "",
                is_met=ratio >= need if is_needed else None,
            )


def _bare(run: Run, protocol: str, seeded: Seeded, count: int) -> float:
    return _rate(run, "serve_protocol", seeded, count, protocol=protocol)


def _callbacks(run: Run, protocol: str, seeded: Seeded, count: int) -> float:
    rate = _rate(run, "serve_nanohook", seeded, count, protocol=protocol, **line_a.settings(seeded))
    seeded.remove()
    return rate


def _rate(run: Run, module: str, seeded: Seeded, count: int, **options: object) -> float:
    with processes.serving(module, run.folder / f"g-{module}.log", **options) as address:
        prepared = line_a.requests(address, seeded.job_ids, -(-count // len(seeded.job_ids)))
        warm, counted = prepared[:_SKIPPED], prepared[_SKIPPED:]
        load.run(load.call_all(address, warm, connections=line_a.CONNECTIONS))
        before_s = _busy_s(address.pid)
        result = load.run(load.call_all(address, counted, connections=line_a.CONNECTIONS))
        busy_s = _busy_s(address.pid) - before_s
    run.check(not result.bad, f"{module} by {options['protocol']} answered {result.bad}")
    run.check(len(result.took) == len(counted), f"{module}: {len(counted) - len(result.took)} unanswered")
    return len(counted) / busy_s


def _busy_s(pid: int) -> float:
    """Tell the processor time of a process, its threads' too."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
