"""(g) Requests a second of our HTTP/1, beside uvicorn's two: on httptools, as ours is, and on h11."""

from tests.bench import line_a, load, processes, seed
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_PROTOCOLS = ("ours", "httptools", "h11")
_REQUESTS = 40_000
_SKIPPED = 2_000
_NEED = {"httptools": 1.0, "h11": 1.5}


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
        run.say(f"g: {', '.join(f'{name} {bare[name][-1]:,.0f}, {callbacks[name][-1]:,.0f}' for name in bare)} /s")
    seeded.remove()
    for what, rates in (("smallest app", bare), ("callbacks", callbacks)):
        for other, need in _NEED.items():
            ratio = median([mine / its for mine, its in zip(rates["ours"], rates[other], strict=True)])
            is_needed = what == "smallest app"
            run.add(
                f"g  {what}, ours beside {other}",
                f"{median(rates['ours']):,.0f}/s",
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
        result = load.run(load.call_all(address, prepared, connections=line_a.CONNECTIONS))
    run.check(not result.bad, f"{module} by {options['protocol']} answered {result.bad}")
    run.check(len(result.took) == len(prepared), f"{module}: {len(prepared) - len(result.took)} unanswered")
    return result.after(_SKIPPED)[0]
