"""
What friendly people do, whatever the answers take: upload, generate, follow the stream to its end, ask for the
status, the list, the picture.

Arrivals are scheduled (an open loop): whoever has to wait for a service that stands still shows it in what is
measured, and so does everybody who would have come meanwhile.
"""

import asyncio
import collections
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from tests.bench import asking
from tests.bench.asking import Answer, Connection

KINDS = ("upload", "generate", "stream", "status", "list", "media")
_STREAMS_AGAIN = 5
_SEED = 1
"""The same arrivals in each segment."""
_LAST_S = 60.0
"""How long those who came last are given."""


class _Refused(Exception):
    """An answer that a friendly person does not expect; it was noted."""


@dataclass(kw_only=True, slots=True)
class Seen:
    """What friendly people saw in one segment."""

    took: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    """Seconds until an answer was there, by its kind; of a stream until its first event."""
    ran: list[float] = field(default_factory=list)
    """Seconds from the 202 to the last event."""
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    done: int = 0

    @property
    def all(self) -> list[float]:
        """Of every kind together."""
        return [each for kind in KINDS for each in self.took[kind]]


class Friend:
    """One person with a browser's connections."""

    def __init__(self, base: str, api_key: str, picture: bytes) -> None:
        self._base = base
        self._headers = asking.bearer(api_key)
        self._upload = asking.form(picture)
        self._idle: list[Connection] = []

    async def job(self, number: int, seen: Seen, *, due: float) -> None:
        """Do everything once; what is not as it should be is noted."""
        seen.asked += 1
        try:
            await self._job(number, seen, due)
            seen.done += 1
        except _Refused:
            return
        except (OSError, EOFError, TimeoutError) as exc:
            seen.wrong.append(f"job {number}: {exc!r}")

    def close(self) -> None:
        """Cut every connection."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _job(self, number: int, seen: Seen, due: float) -> None:
        headers, body = self._upload
        made = await self._ask(seen, "upload", "POST", "/api/images", 201, headers=headers, body=body, due=due)
        path = f"/api/images/{made.json()['job_id']}"
        wish = orjson.dumps({"imageId": made.json()["job_id"], "prompt": f"a kite {number}"})
        headers = {"Content-Type": "application/json"}
        taken = await self._ask(seen, "generate", "POST", "/api/generate-image", 202, headers=headers, body=wish)
        last = await self._follow(seen, path)
        seen.ran.append(time.perf_counter() - taken.ended)
        await self._ask(seen, "status", "GET", f"{path}/status", 200)
        await self._ask(seen, "list", "GET", "/api/images", 200)
        if last["status"] != "COMPLETED":
            seen.wrong.append(f"job {number} ended {last['status']}: {last.get('error')}")
            raise _Refused
        await self._ask(seen, "media", "GET", last["images"][0]["url"], 200)

    async def _follow(self, seen: Seen, path: str) -> dict[str, object] | None:
        for _ in range(_STREAMS_AGAIN):
            answer = await self._ask(seen, "stream", "GET", f"{path}/events", 200)
            told = [line[6:] for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
            if told and (last := orjson.loads(told[-1]))["status"] in {"COMPLETED", "FAILED", "CANCELED"}:
                return last
        seen.wrong.append(f"{path}: no stream came to its end")
        raise _Refused

    async def _ask(
        self,
        seen: Seen,
        kind: str,
        method: str,
        path: str,
        expected: int,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        due: float | None = None,
    ) -> Answer:
        since = time.perf_counter() if due is None else due
        connection = self._idle.pop() if self._idle else await Connection.to(self._base)
        answer = await connection.ask(method, path, headers={**self._headers, **(headers or {})}, body=body)
        if connection.is_open:
            self._idle.append(connection)
        seen.took[kind].append((answer.began if kind == "stream" else answer.ended) - since)
        seen.statuses[answer.status] += 1
        if answer.status != expected:
            seen.wrong.append(f"{kind} was answered {answer.status}: {answer.body[:200]!r}")
            raise _Refused
        return answer


async def load(
    friends: Sequence[Friend], *, per_second: float, seconds: float, numbers: "itertools.count[int]"
) -> Seen:
    """
    Let jobs be asked for, of all *friends* in turn: each at some moment of its own interval.

    At even intervals a job would never meet the steps of another, as they are the same time after it: without an
    unfriendly person, who disturbs that, people would not even be felt by each other.
    """
    seen, began, chance = Seen(), time.perf_counter(), random.Random(_SEED)
    jobs = []
    for place in range(int(per_second * seconds)):
        due = began + (place + chance.random()) / per_second
        await asyncio.sleep(due - time.perf_counter())
        friend = friends[place % len(friends)]
        jobs.append(asyncio.create_task(friend.job(next(numbers), seen, due=due)))
    _, late = await asyncio.wait(jobs, timeout=_LAST_S)
    for job in late:
        job.cancel()
        seen.wrong.append("a job had not ended a minute after the last was asked for")
    await asyncio.gather(*jobs, return_exceptions=True)
    return seen
