"""Calls the submitter back, as persistently as the vendor says it does."""

import asyncio
import logging
import time
import urllib.parse

import httpx

from nanohook.sandbox import options, shapes, tasks

log = logging.getLogger(__name__)

# Source: NanoBanana's callback pages: "stops after 3 consecutive failed retries"; the pauses are ours.
REPEATS = 3
_HEADERS = {"content-type": "application/json"}
_AT_ONCE = 100
_MAX_ANSWER_BYTES = 65_536


class Caller:
    """
    Sends callbacks.

    Args:
        settings: Shape, pauses and patience.
        http: Whoever made it closes it.
    """

    def __init__(self, settings: options.Options, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._http = http
        # Waiting for a free connection must not eat into the receiver's 15 seconds.
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def announce(self, task: tasks.Task) -> None:
        """
        Tell the outcome of *task* until it is acknowledged with a 2xx, at most 1 + ``REPEATS`` times.

        Nothing is sent for a task that has no address, one below ``.invalid``, or is to be dropped.
        """
        url = task.order.callback_url
        if url is None or task.behaviour.drop or never_called(url):
            return
        body = shapes.dressed(shapes.final(task, shape=self._settings.shape), task.behaviour.dress)
        for attempt in range(1 + REPEATS):
            if attempt:
                await asyncio.sleep(self._settings.callback_pause_s * 2 ** (attempt - 1))
            if await self._attempt(task, url, body):
                break
        else:
            log.warning("callback.given_up", extra={"task_id": task.task_id})
            return
        for _ in range(task.behaviour.duplicate):
            await self._attempt(task, url, body)

    async def tell_progress(self, task: tasks.Task, percent: int) -> None:
        """Tell once how far *task* is; whether it arrives does not matter."""
        url = task.order.callback_url
        if url is not None and not task.behaviour.drop and not never_called(url):
            await self._post(url, shapes.progress(task, percent))

    async def _attempt(self, task: tasks.Task, url: str, body: bytes) -> bool:
        begun = time.perf_counter()
        task.callback_status = await self._post(url, body)
        task.callback_took_s = None if task.callback_status is None else time.perf_counter() - begun
        task.callbacks_sent += 1
        task.called.set()
        log.info(
            "callback.sent",
            extra={
                "task_id": task.task_id,
                "attempt": task.callbacks_sent,
                "http_status": task.callback_status,
            },
        )
        return task.callback_status is not None and httpx.codes.is_success(task.callback_status)

    async def _post(self, url: str, body: bytes) -> int | None:
        try:
            async with self._gate, asyncio.timeout(self._settings.callback_timeout_s):
                request = self._http.stream("POST", url, content=body, headers=_HEADERS)
                async with request as response:
                    await _drain(response)
                    return response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as exc:
            log.info("callback.failed", extra={"error": type(exc).__name__})
            return None


def never_called(url: str) -> bool:
    """Tell whether *url* is one of those that RFC 2606 promises to lead nowhere."""
    host = urllib.parse.urlsplit(url).hostname or ""
    return host == "invalid" or host.endswith(".invalid")


async def _drain(response: httpx.Response) -> None:
    # Read to the end, so that the connection serves the next callback; but not to any end.
    size_bytes = 0
    async for chunk in response.aiter_raw():
        size_bytes += len(chunk)
        if size_bytes > _MAX_ANSWER_BYTES:
            return
