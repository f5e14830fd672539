"""Follows ngrok's tunnel: its address is our public address for as long as it is there."""

import asyncio
import logging
from typing import Final

from nanohook import clock, errors
from nanohook.address import PublicAddress
from nanohook.database import Database, Topic, Transaction
from nanohook.faults import reach
from nanohook.remote.ngrok import Agent, Missing
from nanohook.stores import claims

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 3.0


class Tunnel:
    """
    Looks where the tunnel to us comes out, and tells everybody by *address*.

    When that changes, callbacks on their way may not find us any more: running tasks are asked after at once.
    """

    def __init__(self, *, database: Database, agent: Agent, address: PublicAddress) -> None:
        self._database = database
        self._agent = agent
        self._address = address
        self._missing: Missing | None = None
        """What was last said about there being none."""
        self._must_ask = False

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            reach("tunnel.look")
            await self.look()

    async def look(self) -> None:
        """Look once."""
        found = await self._agent.look()
        former, url = self._address.url, found if isinstance(found, str) else None
        if isinstance(found, Missing):
            self._say_missing(found, former)
        elif url != former:
            self._missing = None
            message = "tunnel.found" if former is None else "tunnel.changed"
            logger.info(message, extra={"public_url": url, "former": former})
        if url != former:
            self._address.url = url
            self._must_ask = True
        if self._must_ask:
            await self._ask_soon()

    def _say_missing(self, found: Missing, former: str | None) -> None:
        """Once for each reason: it may be missing for days."""
        if found != self._missing:
            self._missing = found
            message = "tunnel.missing" if former is None else "tunnel.lost"
            logger.warning(message, extra={"reason": found.detail, "former": former})

    async def _ask_soon(self) -> None:
        async def write(tx: Transaction) -> int:
            due = await claims.ask_soon(tx, now_us=clock.now_us())
            tx.wake(Topic.WORK)
            return due

        try:
            due = await self._database.write(write)
        except errors.Unavailable:
            return  # owed until the next look
        self._must_ask = False
        if due:
            logger.info("tunnel.tasks_due", extra={"tasks": due})
