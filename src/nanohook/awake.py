"""
A time limit that counts only while this process runs.

A laptop sleeps, a container is frozen: when it goes on, every timer is over, and an answer that lies in the socket
is thrown away unread. What was bought by the question is unknown then. So time is counted in small steps, and one
that took more than twice its length counts for its length alone.
"""

import asyncio
import types
from typing import Final, Self

STEP_S: Final = 0.5


class Timeout:
    """
    As ``asyncio.timeout``; use it with ``async with``.

    Args:
        limit_s: How long what is within may take while this process runs, seconds.

    Raises:
        TimeoutError: It took longer.
    """

    def __init__(self, limit_s: float) -> None:
        self._left_s = limit_s
        self._is_over = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit belongs to a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: types.TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # As the library's own: the cancellation was this one's alone, or somebody else wants the task to end too.
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _wait(self) -> None:
        self._step_s = min(STEP_S, self._left_s)
        self._began = self._loop.time()
        self._timer = self._loop.call_later(self._step_s, self._step)

    def _step(self) -> None:
        took_s = self._loop.time() - self._began
        self._left_s -= took_s if took_s <= 2 * self._step_s else self._step_s
        if self._left_s > 0:
            self._wait()
        else:
            self._is_over = True
            self._task.cancel()
