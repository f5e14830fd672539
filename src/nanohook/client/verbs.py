"""The verbs, and how they are asked: what is sent again, and what never."""

import asyncio
import contextlib
import itertools
import math
import pathlib
import random
import urllib.parse
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

import httpx

from nanohook.client import failures, reading
from nanohook.client.stream import Feed
from nanohook.client.values import Accepted, BulkResult, Event, ImageJobStatus, Job, Picture, Result, Standing

MOST_TRIES: Final = 4
"""A request that is safe to repeat is sent so often, then its last error is raised."""
MOST_RETRY_AFTER_S: Final = 60.0
"""A server that asks for more is not waited for: its `Problem` tells when to come back."""

_FIRST_PAUSE_S: Final = 0.5
# The service says something every 15 s: a stream that is silent for longer than this is cut somewhere.
_SILENCE_S: Final = 45.0
# Shorter than the 5 s after which many servers drop an idle connection: an upload that meets this is lost.
_KEEPALIVE_S: Final = 2.0
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

T = TypeVar("T")


class Client:
    """
    A connection pool to a service; use it with ``async with``.

    What is safe to repeat is sent again, up to ``MOST_TRIES`` in all, when no answer came and at 429 and 503:
    after the server's ``Retry-After`` and a doubling pause with full jitter. Every verb raises `ClientError`.

    Args:
        base_url: ``https://host`` of the service.
        api_key: ``nh_…``; sent to the API alone, never shown.
        timeout_s: Longest silence while connecting, writing or reading an answer. A job may take any time.

    Raises:
        ValueError: One of them cannot be used.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = 30.0) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError("base_url must look like https://host")
        if not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            # A header takes no more; refused here, where the message can keep the value to itself.
            raise ValueError("api_key must be printable ASCII")
        self._key = {"Authorization": f"Bearer {api_key.strip()}"}
        self._stream_timeout = httpx.Timeout(timeout_s, read=_SILENCE_S)
        # Streams stay open for minutes: they must not use up the connections of everything else.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout_s, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._http.aclose()

    async def change(self, picture: bytes | pathlib.Path, prompt: str, **options: Any) -> bytes:
        """
        Upload *picture*, ask for *prompt*, wait, download: the whole way to a changed picture.

        Args:
            options: As `generate` takes them.

        Raises:
            NotMade: The job failed or was canceled.
        """
        made = await self.create(picture)
        asked = await self.generate(image_id=made.job_id, prompt=prompt, **options)
        job = await self.wait(asked.job_id)
        if job.status is not ImageJobStatus.COMPLETED:
            raise failures.NotMade(job)
        return await self.download(job.images[0])

    async def create(self, picture: bytes | pathlib.Path, *, project_id: str | None = None) -> Job:
        """
        Upload a picture; its job, for which nothing is asked yet.

        Sent again only if nothing was kept (429, 503) or nothing was sent: a second one would be another job.
        """
        if isinstance(picture, pathlib.Path):
            file = (picture.name, await asyncio.to_thread(picture.read_bytes))
        else:
            file = ("picture", picture)
        form = {} if project_id is None else {"project_id": project_id}
        return await self._ask(Job, "POST", "/api/images", is_repeatable=False, files={"file": file}, data=form)

    async def generate(
        self,
        *,
        image_id: str | None = None,
        prompt: str | None = None,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Accepted:
        """
        Ask for pictures; however often the connection breaks, they are paid once.

        Args:
            image_id: The upload to change; without it a picture is made from text alone.
            idempotency_key: The same key within a day is the same request; a fresh one when absent. Whoever
                calls again after an error passes that error's ``idempotency_key``.
            options: ``model``, ``num_images``, ``fit``… as ``POST /api/generate-image`` takes them.
        """
        wish = {"image_id": image_id, "prompt": prompt, **options}
        wish = {name: value for name, value in wish.items() if value is not None}
        return await self._order("/api/generate-image", wish, idempotency_key)

    async def job(self, job_id: str) -> Job:
        """Fetch the whole job."""
        return await self._ask(Job, "GET", _path(job_id))

    async def status(self, job_id: str) -> Standing:
        """Tell how far a job is; `follow` tells it without being asked again."""
        return await self._ask(Standing, "GET", _path(job_id, "/status"))

    async def result(self, job_id: str) -> Result:
        """Fetch a completed job's pictures, with fresh addresses; before that it is a `Problem` 409."""
        return await self._ask(Result, "GET", _path(job_id, "/result"))

    async def download(self, picture: Picture) -> bytes:
        """Fetch a picture's bytes."""
        # Its address is signed: the key stays at home, wherever that may lead.
        return (await self._send("GET", picture.url, headers={})).content

    async def cancel(self, job_id: str) -> Job:
        """Cancel an open job; one that is canceled already is no error."""
        return await self._ask(Job, "POST", _path(job_id, "/cancel"))

    async def retry(self, job_id: str, *, buy_again: bool = False, idempotency_key: str | None = None) -> Accepted:
        """
        Start the next attempt of a job that failed; it resumes at the step that failed.

        Args:
            buy_again: Accept to pay for a task that may be paid already.
            idempotency_key: As `generate` takes it.
        """
        return await self._order(_path(job_id, "/retry"), {"buy_again": buy_again}, idempotency_key)

    async def accept_late(self, job_id: str) -> Job:
        """Take the pictures that came when the job had ended, `unclaimed`; credits given back are paid again."""
        return await self._ask(Job, "POST", _path(job_id, "/accept-late"))

    async def delete(self, job_id: str) -> None:
        """Delete a job with its pictures; one that is not there is no error."""
        try:
            await self._send("DELETE", _path(job_id), headers=self._key)
        except failures.Problem as problem:
            # If the answer to the first try got lost, the second finds nothing.
            if problem.status != httpx.codes.NOT_FOUND:
                raise

    async def delete_many(self, job_ids: Sequence[str]) -> BulkResult:
        """Delete up to 200 jobs by one request; those that are not there are named as refused."""
        return await self._ask(BulkResult, "POST", "/api/images/delete", json={"job_ids": list(job_ids)})

    async def restore_many(self, job_ids: Sequence[str]) -> BulkResult:
        """Take the deletion of up to 200 jobs back by one request."""
        return await self._ask(BulkResult, "POST", "/api/images/restore", json={"job_ids": list(job_ids)})

    async def follow(self, job_id: str) -> AsyncGenerator[Event, None]:
        """
        Hear what happens to a job: its present state first, its final event last.

        A break of any length only delays: what was missed comes once each, in order. Where something in between
        lets no stream through, the end is asked for. Whoever leaves early closes it (``contextlib.aclosing``).

        Raises:
            Deleted: It was deleted meanwhile.
            Problem: This person may not follow it, or there is no such job.
            BadAnswer: What answers is not the service.
        """
        feed = Feed(job_id)
        while not feed.is_over:
            async with contextlib.aclosing(self._connection(feed)) as events:
                async for event in events:
                    yield event
            if feed.is_held_back and (end := await self._end(feed)) is not None:
                yield end
            if not feed.is_over:
                await asyncio.sleep(feed.next_pause_s())

    async def wait(self, job_id: str) -> Job:
        """Follow a job to its end, however long that takes; raises as `follow` does."""
        while True:
            async with contextlib.aclosing(self.follow(job_id)) as events:
                async for _ in events:
                    pass
            job = await self.job(job_id)
            # Somebody's retry may have come in between.
            if job.status.is_final:
                return job

    async def _connection(self, feed: Feed) -> AsyncGenerator[Event, None]:
        """Hear one connection of a stream to its end or break."""
        path, headers = _path(feed.job_id, "/events"), {**self._key, **feed.begin()}
        with contextlib.suppress(httpx.RequestError), feed.listening():
            async with self._http.stream("GET", path, headers=headers, timeout=self._stream_timeout) as answer:
                if not answer.is_success:
                    await answer.aread()
                if not feed.check(answer):
                    return
                async for chunk in answer.aiter_bytes():
                    for event in feed.take(chunk):
                        yield event
                    if feed.is_over:
                        return

    async def _end(self, feed: Feed) -> Event | None:
        """Ask whether the job has ended, of which no stream tells anything."""
        with contextlib.suppress(failures.NoAnswer):
            return feed.take_end(await self.job(feed.job_id))
        return None

    async def _order(self, path: str, wish: Mapping[str, object], key: str | None) -> Accepted:
        """Send what may cost money, under a key that makes it safe to repeat."""
        key = str(uuid.uuid4()) if key is None else key
        try:
            return await self._ask(Accepted, "POST", path, json=wish, headers={"Idempotency-Key": key})
        except failures.ClientError as error:
            error.idempotency_key = key
            raise

    async def _ask(
        self, kind: type[T], method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> T:
        answer = await self._send(method, path, headers={**self._key, **(headers or {})}, **request)
        try:
            content = answer.json()
        except ValueError as exc:
            raise failures.BadAnswer(f"{method} {path}: the answer is not JSON") from exc
        return reading.take(kind, content)

    async def _send(
        self, method: str, path: str, *, headers: Mapping[str, str], is_repeatable: bool = True, **body: Any
    ) -> httpx.Response:
        """Send a request until it is answered, as the class says."""
        for tries in itertools.count(1):
            asked_s = 0.0
            try:
                answer = await self._http.request(method, path, headers=headers, **body)
            except httpx.RequestError as exc:
                if tries == MOST_TRIES or not (is_repeatable or isinstance(exc, _NOT_SENT)):
                    # Without the query: it may hold a token.
                    raise failures.NoAnswer(f"{method} {path.partition('?')[0]}: {type(exc).__name__}") from exc
            else:
                if answer.is_success:
                    return answer
                problem = failures.Problem(answer)
                asked_s = problem.retry_after_s or 0.0
                if tries == MOST_TRIES or not problem.is_passing or asked_s > MOST_RETRY_AFTER_S:
                    raise problem
            # On top of what was asked for, or all who were told the same would come back at once.
            ceiling_s = math.ldexp(_FIRST_PAUSE_S, tries - 1)
            await asyncio.sleep(asked_s + random.random() * ceiling_s)  # noqa: S311 - spreads load
        raise AssertionError("the last try returns or raises")


def _path(job_id: str, rest: str = "") -> str:
    return f"/api/images/{urllib.parse.quote(job_id, safe='')}{rest}"
