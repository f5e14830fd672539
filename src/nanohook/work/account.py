"""
Our account with NanoBanana: while that refuses it (its key, its credit), everybody waits, and this asks.

One submit was refused, and every other would be. Asking for the credit costs nothing, so that is asked, with
growing pauses, until it is answered; then one submit goes ahead of the others.
"""

import asyncio
import logging
import random
from typing import Final

from nanohook import clock, errors
from nanohook.bell import Bell
from nanohook.database import Database
from nanohook.faults import reach
from nanohook.flow import blocking, gate
from nanohook.remote.nanobanana import Client
from nanohook.rules import backoff
from nanohook.work.pace import Pace

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
FIRST_S: Final = 2.0
MOST_S: Final = 60.0
"""The longest pause between two questions."""
_AT_ONCE: Final = 100


class Account:
    """Whether the account may be tried again; who submits looks every second."""

    def __init__(self, database: Database, client: Client, pace: Pace) -> None:
        self._database = database
        self._client = client
        self._pace = pace
        self._bell = Bell()
        self._tries = 0
        self._was_refused = False
        """By what this process was told: after a restart the account may be in order again."""
        self.may_probe = False
        """NanoBanana answers for the account again: one submit may try."""

    def take_probe(self) -> bool:
        """Let the caller try, if nobody has since NanoBanana answered: one for each answer."""
        was_free, self.may_probe = self.may_probe, False
        return was_free

    def give_back(self) -> None:
        """Nothing was tried after all."""
        self.may_probe = True

    def was_refused(self) -> None:
        """A submit was refused for the account's sake."""
        self._was_refused = True
        self.may_probe = False
        self._bell.ring()

    def was_taken(self) -> None:
        """A submit was taken: the account is in order."""
        self._was_refused = False
        self.may_probe = False
        self._tries = 0

    async def run(self) -> None:
        """Ask while the account is refused, until canceled."""
        while True:
            await self._bell.wait(LOOK_S)
            reach("account.look")
            try:
                await self._look()
            except errors.Unavailable as exc:
                logger.warning("account.database_away", extra={"reason": str(exc)})

    async def _fail_overdue(self) -> None:
        """Fail who has waited too long for an account that is refused still."""
        while await self._database.write(
            lambda tx: blocking.fail_blocked(tx, most=_AT_ONCE, now_us=clock.now_us())
        ):
            pass

    async def _look(self) -> None:
        state = await self._database.read(gate.read)
        if state.blocked_code is None or self.may_probe:
            return
        if self._was_refused:
            await self._fail_overdue()
        self._tries += 1
        pause_s = backoff.delay_s(self._tries, first_s=FIRST_S, most_s=MOST_S, chance=random.random())  # noqa: S311
        await asyncio.sleep(pause_s)
        await self._pace.ask()
        try:
            credit = await self._client.credit()
        except errors.UpstreamFailed as exc:
            logger.warning("account.not_in_order", extra={"code": state.blocked_code, "reason": str(exc)})
            self._was_refused = exc.code in gate.FAULT_CODES
            return
        logger.info("account.answered", extra={"credit": str(credit), "code": state.blocked_code})
        self._was_refused = credit <= 0
        self.may_probe = credit > 0 or gate.fault_code(state.blocked_code) != "no_credit"
