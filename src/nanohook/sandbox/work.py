"""What happens behind an accepted task: fetch its inputs, draw, wait out the latency, call back."""

import asyncio
import concurrent.futures
import functools
import logging

import httpx

from nanohook.sandbox import callbacks, options, pictures, shapes, tasks

log = logging.getLogger(__name__)

_THREADS = 2
# Bounds the bytes of inputs held at one moment.
_FETCHING_TASKS = 8
_MAX_INPUT_BYTES = 30_000_000
_FETCH_TIMEOUT_S = 30.0
_PROGRESS_PERCENTS = (25, 50, 75)


class _InputError(Exception):
    """An input could not be fetched; ``code`` is what the task fails with."""

    def __init__(self, code: int) -> None:
        super().__init__("an input could not be fetched")
        self.code = code


class Worker:
    """
    Runs every accepted task to its end.

    Args:
        settings: The look-alike's.
        table: Where outcomes are kept.
        http: For inputs and callbacks; whoever made it closes it, after the worker.
    """

    def __init__(self, settings: options.Options, table: tasks.Table, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._table = table
        self._http = http
        self._caller = callbacks.Caller(settings, http)
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "sandbox-picture")
        self._fetching = asyncio.Semaphore(_FETCHING_TASKS)
        self._running: set[asyncio.Task[None]] = set()

    def start(self, task: tasks.Task) -> None:
        """Begin with *task* in the background."""
        task.running = asyncio.create_task(self._run(task))
        self._running.add(task.running)
        task.running.add_done_callback(functools.partial(self._ended, task))

    async def aclose(self) -> None:
        """Stop every task and wait until it has stopped."""
        running = list(self._running)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def _ended(self, task: tasks.Task, running: asyncio.Task[None]) -> None:
        self._running.discard(running)
        # Also when it was cancelled before it began: somebody may be waiting for these.
        task.called.set()
        task.ended.set()
        if not running.cancelled() and (error := running.exception()) is not None:
            # The type alone: a message could hold an address with its token.
            log.error("task.crashed", extra={"task_id": task.task_id, "error": type(error).__name__})

    async def _run(self, task: tasks.Task) -> None:
        due = asyncio.get_running_loop().time() + task.behaviour.latency_s
        outcome = await self._outcome(task)
        await self._wait(task, due=due)
        self._table.finish(task, outcome, shared=self._settings.picture_bytes is not None)
        log.info("task.finished", extra={"task_id": task.task_id, "success_flag": int(task.flag)})
        if task.behaviour.late_s:
            await asyncio.sleep(task.behaviour.late_s)
        await self._caller.announce(task)

    async def _outcome(self, task: tasks.Task) -> tasks.Picture | tasks.Failure:
        code = task.behaviour.fail_code
        if code is not None:
            message = shapes.MESSAGES.get(code, shapes.MESSAGES[501])
            return tasks.Failure(flag=tasks.Flag.FAILED, code=code, message=message)
        try:
            async with self._fetching:
                sources = [await self._fetch(url) for url in task.order.image_urls]
                return await self._paint(task, sources)
        except _InputError as exc:
            message = "The input image could not be fetched"
            return tasks.Failure(flag=tasks.Flag.NOT_CREATED, code=exc.code, message=message)
        except pictures.PictureError:
            message = "The input is not an image that can be read"
            return tasks.Failure(flag=tasks.Flag.NOT_CREATED, code=400, message=message)

    async def _paint(self, task: tasks.Task, sources: list[bytes]) -> tasks.Picture:
        if self._settings.picture_bytes is not None:
            return pictures.canned(self._settings.picture_bytes)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, pictures.paint, task.order, sources)

    async def _fetch(self, url: str) -> bytes:
        content = bytearray()
        try:
            async with (
                asyncio.timeout(_FETCH_TIMEOUT_S),
                self._http.stream("GET", url, follow_redirects=True) as response,
            ):
                if not response.is_success:
                    raise _InputError(400 if response.is_client_error else 500)
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_INPUT_BYTES:
                        raise _InputError(400)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as exc:
            log.info("input.failed", extra={"error": type(exc).__name__})
            raise _InputError(500) from exc
        return bytes(content)

    async def _wait(self, task: tasks.Task, *, due: float) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for percent in _PROGRESS_PERCENTS if self._settings.progress else ():
            await asyncio.sleep(begun + max(0.0, due - begun) * percent / 100 - loop.time())
            await self._caller.tell_progress(task, percent)
        await asyncio.sleep(max(0.0, due - loop.time()))
