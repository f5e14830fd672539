"""(e) From a callback to the finished picture on disk, seen on the stream: 1184 × 864 made 1024 × 576."""

import asyncio
import io
import os
import pathlib
import re
import time

import orjson
from PIL import Image, ImageFilter

from tests.bench import line_a, load, processes, seed
from tests.bench.load import Reader
from tests.bench.processes import Address
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_FROM, _TO = (1184, 864), (1024, 576)
_JOBS_A_STREAM = 50
_ENDED = re.compile(rb'"job_id":"([^"]+)","status":"(COMPLETED|FAILED|CANCELED)"')
_MARK = b"\ndata: "
_NEED_P50, _NEED_RATE = 0.060, 50


def measure(run: Run) -> None:
    """Measure one at a time, then many in flight."""
    alone, many = (10, 60) if run.is_quick else (40, 300)
    picture = run.folder / "result.jpg"
    picture.write_bytes(_picture())
    seeded = seed.seed(run.folder / "e", count=alone + many, original=_TO)
    ours, bare = [], []
    for pair in range(run.pairs):
        told = processes.output("bare_pillow", picture=str(picture), count=many, width=_TO[0], height=_TO[1])
        bare.append(tuple(map(float, told.split())))
        ours.append(_finished(run, seeded.copy(str(pair)), picture, alone))
        run.say(f"e: {ours[-1][0] * 1e3:.1f} ms, {ours[-1][1]:.1f}/s beside {bare[-1][0]:.1f}/s")
    seeded.remove()
    p50, p50_bare = median([one[0] for one in ours]), median([one[1] for one in bare])
    run.add(
        "e  callback to COMPLETED, one at a time",
        f"p50 {p50 * 1e3:.1f} ms",
        yardstick=f"Pillow alone {p50_bare * 1e3:.1f} ms",
        ratio=f"{p50 / p50_bare:.2f}",
        need=f"<= {_NEED_P50 * 1e3:.0f} ms",
        is_met=p50 <= _NEED_P50,
    )
    rate, rate_bare = median([one[1] for one in ours]), median([one[0] for one in bare])
    run.add(
        f"e    {many} in flight",
        f"{rate:.1f} jobs/s",
        yardstick=f"Pillow in {os.cpu_count()} threads {rate_bare:.1f}/s",
        ratio=f"{rate / rate_bare:.2f}",
        need=f">= {_NEED_RATE}/s",
        is_met=rate >= _NEED_RATE,
    )


def _finished(run: Run, seeded: Seeded, picture: pathlib.Path, alone: int) -> tuple[float, float]:
    with processes.serving("serve_picture", run.folder / "e.log", picture=str(picture)) as host:
        options = line_a.settings(
            seeded, download_hosts=[host.netloc], streams_per_user=len(seeded.job_ids), open_tasks=10_000
        )
        with processes.serving("serve_nanohook", run.folder / "e.log", **options) as address:
            figures = load.run(_work(run, address, host, seeded, alone))
    seeded.remove()
    return figures


async def _work(run: Run, address: Address, host: Address, seeded: Seeded, alone: int) -> tuple[float, float]:
    ended: dict[str, tuple[float, str]] = {}
    news = asyncio.Event()
    tails: dict[Reader, bytes] = {}

    def came(reader: Reader, data: bytes) -> None:
        now = time.perf_counter()
        joined = tails.get(reader, b"") + data
        for job_id, status in _ENDED.findall(joined):
            ended.setdefault(job_id.decode(), (now, status.decode()))
        tails[reader] = joined[-200:]
        news.set()

    async def until(job_ids: list[str]) -> None:
        async with asyncio.timeout(60):
            while not all(job_id in ended for job_id in job_ids):
                news.clear()
                await news.wait()

    groups = [seeded.job_ids[at : at + _JOBS_A_STREAM] for at in range(0, len(seeded.job_ids), _JOBS_A_STREAM)]
    streams = await load.open_streams(
        address,
        [
            load.browser_get(address, "/api/events?" + "&".join(f"job={one}" for one in group), seeded.api_key)
            for group in groups
        ],
        mark=_MARK,
        came=came,
    )
    took = []
    bad: dict[str, int] = {}
    first, rest = seeded.job_ids[:alone], seeded.job_ids[alone:]
    began = 0.0
    try:
        for job_id in first:
            request = load.post(address, seed.path(job_id), _success(host, job_id))
            at = time.perf_counter()
            bad |= (await load.call_all(address, [request], connections=1)).bad
            await until([job_id])
            took.append(ended[job_id][0] - at)
        requests = [load.post(address, seed.path(job_id), _success(host, job_id)) for job_id in rest]
        began = time.perf_counter()
        bad |= (await load.call_all(address, requests, connections=line_a.CONNECTIONS)).bad
        await until(rest)
    except TimeoutError:
        run.check(False, f"e: {len(seeded.job_ids) - len(ended)} jobs did not end")
    load.close_streams(streams)
    run.check(not bad, f"e: callbacks were answered {bad}")
    failed = sum(status != "COMPLETED" for _, status in ended.values())
    run.check(not failed, f"e: {failed} jobs failed")
    last = max(at for at, _ in ended.values())
    return median(took), len(rest) / (last - began)


def _success(host: Address, job_id: str) -> bytes:
    info = {"resultImageUrl": f"http://{host.netloc}/{job_id}.jpg"}
    return orjson.dumps(
        {
            "code": 200,
            "msg": "Image generated successfully.",
            "data": {"taskId": seed.task_id(job_id), "info": info},
        }
    )


def _picture() -> bytes:
    """Draw something with a photograph's share of detail."""
    noise = [Image.effect_noise(_FROM, 60).filter(ImageFilter.GaussianBlur(radius)) for radius in (1.5, 4, 12)]
    slope = Image.linear_gradient("L").resize(_FROM)
    mixed = Image.merge("RGB", [Image.blend(slope, layer, 0.5) for layer in noise])
    held = io.BytesIO()
    mixed.save(held, "JPEG", quality=92)
    return held.getvalue()
