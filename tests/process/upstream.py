"""The sandbox, with answers that wait for something."""

import asyncio
from collections.abc import Callable
from typing import Any

from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Table
from tests import live


class Patient:
    """
    The sandbox, except that it answers some requests only when *until* is true; everything else at once.

    Args:
        held: Method and start of the path of those requests.
        until: Given the sandbox's tasks.
    """

    def __init__(self, options: Options, *, held: tuple[str, str], until: Callable[[Table], bool]) -> None:
        self._sandbox = create_app(options)
        self._held = held
        self._until = until
        self.tasks: Table = self._sandbox.state.tasks
        self.waiting = asyncio.Event()
        """Set as soon as one of those requests waits for its answer."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_late(message: Any) -> None:
            self.waiting.set()
            await live.until(lambda: self._until(self.tasks), timeout_s=60)
            await send(message)

        method, path = self._held
        is_held = scope["type"] == "http" and scope["method"] == method and scope["path"].startswith(path)
        await self._sandbox(scope, receive, send_late if is_held else send)
