"""
NanoBanana, its callbacks and its picture host misbehave, each in its own way, all at once around one service.

Whatever happens, a task is submitted once, a picture is stored once and paid once, and no job stays open.
"""

import asyncio
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import httpx
import orjson
import pytest

from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process.play import END_S, is_quiet
from tests.process.upstream import Always, Meeting, Odd, cut, refused, said, silent
from tests.process.world import World, make_ready, world

DEADLINE_S = 4.0
PICTURE = rig.picture(256, 256, kind="JPEG")
HUGE = str(60 * 1024 * 1024)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong for one job, and what must come of it."""

    name: str
    """In the prompt, with what the sandbox itself is told there."""
    submit: Sequence[Meeting] = ()
    picture: Sequence[Meeting] = ()
    error: str | None = None
    submits: int = 1
    """POSTs that came."""
    bought: int = 1
    """Tasks that the sandbox took."""
    fetches: int | None = None
    """How often the picture was asked for, where that is part of the matter."""
    late: int = 0
    """Unclaimed results."""
    pause_s: float = 0.0
    """At least so much between the first two requests."""

    def __str__(self) -> str:
        return self.name

    @property
    def prompt(self) -> str:
        return f"a kite: {self.name}."


def unknown(name: str, *meetings: Meeting) -> Fault:
    """NanoBanana took nothing, and nobody can know it: not sent again, and it ends with the deadline."""
    return Fault(name=name, submit=meetings, error="unknown_outcome", bought=0)


def broken(name: str, error: str, meeting: Meeting, *, fetches: int | None = None) -> Fault:
    """The picture will never be one."""
    return Fault(name=name, picture=[Always(meeting)], error=error, fetches=fetches)


FAULTS = [
    # Refused, so it may be sent again.
    Fault(name="busy, in an envelope", submit=[refused(429, retry_after="1")], submits=2, pause_s=1),
    Fault(name="busy, by HTTP", submit=[said(429, b"slow down", retry_after="1")], submits=2, pause_s=1),
    Fault(name="maintained", submit=[refused(455)], submits=2),
    Fault(name="a server fault", submit=[refused(500)], submits=2, pause_s=1.9),
    Fault(name="two server faults", submit=[refused(500)] * 2, submits=2, bought=0, error="upstream_failed"),
    Fault(name="unprocessable", submit=[refused(422)], bought=0, error="upstream_rejected"),
    # Nobody knows.
    unknown("a gateway's page", said(502, b"<html><h1>502 Bad Gateway</h1></html>")),
    unknown("half an answer", said(200, b'{"code":200,"data":{"ta', content_length="90")),
    unknown("no answer", cut),
    unknown("no task id", said(200, {"code": 200, "msg": "success", "data": {}})),
    unknown("no envelope", said(200, b"[]")),
    # It was taken, and its callback tells what its answer did not.
    Fault(name="taken, and a gateway's page [sandbox:html]"),
    Fault(name="taken, and cut off [sandbox:reset]"),
    Fault(name="taken, and silent", submit=[silent]),
    # Callbacks.
    Fault(name="called back six times [sandbox:duplicate=5]"),
    Fault(name="called back before the answer [sandbox:early]"),
    Fault(name="never called back [sandbox:drop]"),
    Fault(name="called back in the wrong order"),
    Fault(name="called back too late [sandbox:reset][sandbox:late=6]", error="unknown_outcome", late=1),
    Fault(name="failed [sandbox:fail=400]", error="content_policy"),
    # The picture's host.
    Fault(name="slow [sandbox:slow=1]", fetches=1),
    Fault(name="cut in the middle [sandbox:half]", fetches=2),
    Fault(name="broken once [sandbox:broken]", fetches=2),
    Fault(name="away for a while", picture=[said(503, b"", retry_after="1")], fetches=2, pause_s=1),
    Fault(name="silent", picture=[silent], fetches=2),
    Fault(name="elsewhere", picture=[said(302, b"", location="?again")], fetches=2),
    Fault(name="in a circle once", picture=[said(302, b"", location="?again")] * 4, fetches=5),
    broken("in a circle for ever", "download_failed", said(302, b"", location="?again")),
    broken("at a private address", "download_failed", said(302, b"", location="http://127.0.0.1:1/x"), fetches=1),
    Fault(name="not there yet", picture=[said(404, b"")] * 3, fetches=4),
    broken("gone", "download_failed", said(404, b"")),
    Fault(name="nothing in it yet", picture=[said(200, b"")], fetches=2),
    Fault(name="forbidden for a while", picture=[said(403, b"")] * 2, fetches=3),
    broken("forbidden", "download_failed", said(403, b"")),
    Fault(name="half a picture", picture=[said(200, PICTURE[: len(PICTURE) // 2])], fetches=2),
    Fault(name="a page once", picture=[said(200, b"<html>sorry</html>", content_type="image/png")], fetches=2),
    broken("never a picture", "not_an_image", said(200, b"sorry")),
    broken("huge", "too_large", said(200, b"x", content_length=HUGE), fetches=1),
]


@dataclasses.dataclass
class Outcome:
    """What was left of one job."""

    job: dict[str, Any]
    submitted_at: list[float]
    fetched_at: list[float]
    bought: int
    pictures: int
    late: int
    charges: int
    deliveries: list[dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    return asyncio.run(play(tmp_path_factory.mktemp("faults")))


async def play(folder: pathlib.Path) -> dict[str, Outcome]:
    upstream = Odd(
        Options(latency_s=0.1, callback_pause_s=0.3, picture_bytes=PICTURE),
        submit={f"{fault.name}.": list(fault.submit) for fault in FAULTS},
        picture={f"{fault.name}.": list(fault.picture) for fault in FAULTS},
    )
    ready = await make_ready(folder / "ready")
    async with world(ready, folder / "data", upstream, job_deadline_s=DEADLINE_S, finish_concurrency=8) as it:
        job_ids = {fault.name: await it.generate(fault.prompt) for fault in FAULTS}
        passing = [job_ids[fault.name] for fault in FAULTS if fault.error is None]
        await live.until(lambda: ended(it, passing), timeout_s=2 * END_S)
        # For those that will never be a picture an hour is over.
        await live.until(
            lambda: books.pass_time(it.data_dir, seconds=3_600) or is_quiet(it.data_dir, upstream.tasks),
            timeout_s=END_S,
        )
        await tell_progress(it, "called back in the wrong order")
        return {fault.name: outcome(it, fault, job_ids[fault.name]) for fault in FAULTS}


def ended(it: World, job_ids: list[str]) -> bool:
    done = {row["id"] for row in it.rows("SELECT id FROM jobs WHERE completed_at IS NOT NULL")}
    return done.issuperset(job_ids)


async def tell_progress(it: World, name: str) -> None:
    """Call back once more, as if the word had been overtaken on its way."""
    [task] = [task for task in it.upstream.tasks.by_id.values() if name in task.order.prompt]
    body = {"status": "generating", "data": {"task_id": task.task_id, "progress": 65}}
    async with httpx.AsyncClient(trust_env=False) as sender:
        answer = await sender.post(str(task.order.callback_url), content=orjson.dumps(body))
    assert (answer.status_code, answer.json()["status"]) == (200, "accepted")


def outcome(it: World, fault: Fault, job_id: str) -> Outcome:
    def count(table: str, where: str = "1") -> int:
        return len(it.rows(f"SELECT 1 FROM {table} WHERE job_id = ? AND {where}", job_id))

    return Outcome(
        job=it.rows("SELECT * FROM jobs WHERE id = ?", job_id)[0],
        submitted_at=it.upstream.asked["submit", fault.prompt],
        fetched_at=it.upstream.asked["picture", fault.prompt],
        bought=sum(task.order.prompt == fault.prompt for task in it.upstream.tasks.by_id.values()),
        pictures=count("pictures"),
        late=count("unclaimed"),
        charges=count("ledger", "kind = 'charge'"),
        deliveries=it.rows("SELECT * FROM deliveries WHERE job_id = ? ORDER BY id", job_id),
    )


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_job_ends_rightly_after(outcomes: dict[str, Outcome], fault: Fault):
    left = outcomes[fault.name]
    assert (left.job["status"], left.job["error_code"]) == ("FAILED" if fault.error else "COMPLETED", fault.error)
    assert (len(left.submitted_at), left.bought) == (fault.submits, fault.bought)
    assert fault.fetches is None or len(left.fetched_at) == fault.fetches
    assert (left.pictures, left.late) == (0 if fault.error else 1, fault.late)
    assert left.charges == left.pictures
    times = left.fetched_at if fault.picture else left.submitted_at
    assert all(after - before >= fault.pause_s for before, after in itertools.pairwise(times[:2]))


def test_the_same_callback_is_kept_once(outcomes: dict[str, Outcome]):
    [kept] = outcomes["called back six times [sandbox:duplicate=5]"].deliveries
    assert (kept["effect"], kept["repeats"]) == ("applied", 5)


def test_progress_after_success_changes_nothing(outcomes: dict[str, Outcome]):
    first, second = outcomes["called back in the wrong order"].deliveries
    assert (first["effect"], second["effect"]) == ("applied", "no_effect")


def test_a_callback_after_the_deadline_says_so(outcomes: dict[str, Outcome]):
    *_, last = outcomes["called back too late [sandbox:reset][sandbox:late=6]"].deliveries
    assert (last["effect"], last["source"]) == ("applied", "token")
    assert "its late result is kept" in last["reason"]
