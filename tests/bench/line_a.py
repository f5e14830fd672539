"""(a) Deliveries verified, committed in full and applied per second, beside a bare echo of the same bodies."""

import orjson

from tests.bench import load, processes, seed
from tests.bench.load import Result
from tests.bench.processes import Address
from tests.bench.report import Run, median, percentile
from tests.bench.seed import Seeded

CONNECTIONS = 64
_SKIPPED = 2_000
"""Answers of the beginning that are not counted."""
_NEED, _AIM, _NEED_TAIL = 0.45, 0.60, 8.0


def measure(run: Run) -> None:
    """Measure two mixes: 400 jobs over and over, and as many jobs as it takes for each to say something new."""
    _mix(run, "a  400 jobs, 16 % applied", jobs=400, rounds=18 if run.is_quick else 55)
    _mix(run, "a  each one applied", jobs=900 if run.is_quick else 2_400, rounds=9)


def bodies(job_ids: list[str], rounds: int) -> list[bytes]:
    """Progress of every job in turn, each word new; from the tenth round on it is no news."""
    return [
        orjson.dumps(
            {
                "job_id": job_id,
                "status": "generating",
                "data": {"task_id": seed.task_id(job_id), "progress": 61 + number},
            }
        )
        for number in range(rounds)
        for job_id in job_ids
    ]


def requests(address: Address, job_ids: list[str], rounds: int) -> list[bytes]:
    """Callbacks, each to its job's own address."""
    paths = [seed.path(job_id) for job_id in job_ids]
    return [
        load.post(address, paths[number % len(paths)], body) for number, body in enumerate(bodies(job_ids, rounds))
    ]


def _mix(run: Run, name: str, *, jobs: int, rounds: int) -> None:
    seeded = seed.seed(run.folder / "a", count=jobs)
    ours, echo = [], []
    for pair in range(run.pairs):
        echo.append(_load(run, "serve_echo", seeded, rounds))
        ours.append(_load(run, "serve_nanohook", seeded.copy(str(pair)), rounds))
        run.say(f"{name}: {ours[-1][0]:,.0f}/s beside {echo[-1][0]:,.0f}/s")
    seeded.remove()
    rate, bare = median([one[0] for one in ours]), median([one[0] for one in echo])
    ratio = median([mine[0] / its[0] for mine, its in zip(ours, echo, strict=True)])
    middle, tail = median([one[1] for one in ours]), median([one[2] for one in ours])
    run.add(
        name,
        f"{rate:,.0f} deliveries/s",
        yardstick=f"echo {bare:,.0f}/s",
        ratio=f"{ratio:.2f}",
        need=f">= {_NEED} (aim {_AIM:.2f})",
        is_met=ratio >= _NEED,
    )
    shape = median([one[2] / one[1] for one in ours])
    run.add(
        "a    its answer times",
        f"p50 {middle * 1e3:.1f} ms, p99 {tail * 1e3:.1f} ms",
        yardstick=f"echo p50 {median([one[1] for one in echo]) * 1e3:.1f} ms",
        ratio=f"p99/p50 {shape:.1f}",
        need=f"<= {_NEED_TAIL:.0f}",
        is_met=shape <= _NEED_TAIL,
    )


def _load(run: Run, module: str, seeded: Seeded, rounds: int) -> tuple[float, float, float]:
    options = {} if module == "serve_echo" else settings(seeded)
    with processes.serving(module, run.folder / f"{module}.log", **options) as address:
        prepared = requests(address, seeded.job_ids, rounds)
        result: Result = load.run(load.call_all(address, prepared, connections=CONNECTIONS))
    if module != "serve_echo":
        seeded.remove()
    run.check(not result.bad, f"{module} answered {result.bad}")
    run.check(len(result.took) == len(prepared), f"{module}: {len(prepared) - len(result.took)} unanswered")
    rate, took = result.after(_SKIPPED)
    return rate, percentile(took, 50), percentile(took, 99)


def settings(seeded: Seeded, **more: object) -> dict[str, object]:
    """The service's settings: the defaults, with an upstream that is never asked."""
    return {
        "data_dir": str(seeded.folder),
        "secret_keys": [seed.KEY],
        "nanobanana_api_key": "bench",
        "nanobanana_url": "http://127.0.0.1:9",
        "public_url": "http://127.0.0.1:9",
        "disk_reserve_bytes": 0,
        **more,
    }
