"""
The work loop: the row is the job.

A due row is claimed by one UPDATE that moves its due time to the end of a lease; a crash needs no sweeper,
the lease runs out. Settling is fenced by the claim. Leases are for I/O only: whatever must happen once is
decided inside a transaction.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from nanohook import clock, errors
from nanohook.bell import Bell
from nanohook.database import Database, Transaction
from nanohook.faults import reach
from nanohook.flow import submit
from nanohook.flow.terms import SECOND_US
from nanohook.rules import backoff
from nanohook.rules.job import Step, Task
from nanohook.stores import claims
from nanohook.supervision import is_crash
from nanohook.work.pace import Pace
from nanohook.work.places import Places

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""The tables are looked at this often even if nobody woke the loop: a command beside us may have written."""
LEASE_US: Final = 30 * SECOND_US
HEARTBEAT_S: Final = 10.0
LOOKS_PART: Final = 0.1
"""Of the event loop's time, what looks take: with thousands of people at work each takes milliseconds."""
REST_S: Final = 0.02
"""From one look at the tables to the next: hundreds of steps that end in a second are not as many looks."""
GIVE_BACK_S: Final = 0.5
"""How long canceled steps are given at shutdown to give their leases back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trade:
    """One kind of step, how many at once, and who does it."""

    step: Step
    most: int
    do: Callable[[Task], Awaitable[None]]
    is_open: Callable[[Transaction], Awaitable[int]] | None = None
    """How many may be claimed now, seeing the tables, where ``most`` is not the only bound."""
    stop_s: float = 0.0
    """How long one under way is given at shutdown before it is canceled, seconds."""
    is_suspect: bool = False
    """For tasks alone whose decoding may have killed the process; others are never for these."""
    deadline_us: int | None = None
    """Tasks that NanoBanana has had for longer than this come first, µs."""
    share_of_one: float = 7 / 8
    """What one person may have of the places while others are here: few are enough for these to go on."""


class Loop:
    """
    Claims what is due and has it done; owns every task it starts.

    Args:
        furthest_us: No step can ask for a later time than this from now, µs: what is due later is due.
        on_jump: Told when the wall clock was set, and by how many seconds.
    """

    def __init__(
        self,
        database: Database,
        trades: list[Trade],
        *,
        pace: Pace | None = None,
        furthest_us: int,
        on_jump: Callable[[float], None] = lambda _jump_s: None,
    ) -> None:
        self._database = database
        self._trades = trades
        self._furthest_us = furthest_us
        self._on_jump = on_jump
        self._clock = clock.JumpWatch()
        self._is_set_back = False
        """The wall clock was, and the rows do not know yet."""
        self._beaten_at = clock.now_us()
        """When the leases of what is under way were extended last, by the wall clock that they are written in."""
        self._pace = pace
        self._looking = asyncio.Lock()
        self._running: dict[asyncio.Task[None], tuple[Trade, Task]] = {}
        self._places = {trade: Places(most=trade.most, share_of_one=trade.share_of_one) for trade in trades}
        self._looked_s = 0.0
        """What the newest look at the tables took of the event loop's time."""
        self._bell = Bell()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Something may be due."""
        self._bell.ring()

    async def run(self) -> None:
        """Work until canceled, or told to stop; if it ends otherwise, it can be run again."""
        while not self._stopping.is_set():
            reach("work.look")
            try:
                async with self._looking:
                    await self._watch_clock()
                    await self._look()
            except errors.Unavailable as exc:
                logger.warning("work.database_away", extra={"reason": str(exc)})
            await asyncio.sleep(max(REST_S, self._looked_s / LOOKS_PART))
            await self._bell.wait(LOOK_S)

    async def run_heartbeat(self) -> None:
        """Extend the leases of what is under way, until canceled; it can be run again."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            reach("work.heartbeat")
            try:
                if self._running:
                    await self._database.write(self._extend)
                await self._pull_in(self._furthest_us)
            except errors.Unavailable as exc:
                logger.warning("work.heartbeat_failed", extra={"reason": str(exc)})

    async def stop(self) -> None:
        """
        Claim no more; let submits end within their time, cancel the rest, and give their leases back.

        It takes ``GIVE_BACK_S`` longer than the steps under way are given, whatever hangs. A lease that was not
        given back is free at the next start.
        """
        self._stopping.set()
        self.wake()
        if self._pace is not None:
            self._pace.close()
        stop_s = max(trade.stop_s for trade in self._trades)
        ends_at = asyncio.get_running_loop().time() + stop_s
        with contextlib.suppress(TimeoutError):
            # What is being claimed now is started, and ended below.
            async with asyncio.timeout(max(GIVE_BACK_S, stop_s)), self._looking:
                pass
        for task, (trade, _) in list(self._running.items()):
            if not trade.stop_s:
                task.cancel()
        if self._running:
            left_s = ends_at - asyncio.get_running_loop().time()
            await asyncio.wait(self._running, timeout=max(GIVE_BACK_S, left_s))
        left = list(self._running)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=GIVE_BACK_S)

    async def _look(self) -> None:
        """Claim what is due, as far as there is room for it."""
        room = {trade: self._places[trade].free for trade in self._trades}

        async def due(tx: Transaction) -> list[Trade]:
            now, began = clock.now_us(), time.perf_counter()
            found = {}
            for trade, left in room.items():
                if left > 0:
                    places = self._places[trade]
                    full = set() if places.is_one_alone(places.held) else places.full(places.held)
                    found[trade] = await claims.next_due(tx, trade.step, is_suspect=trade.is_suspect, without=full)
            self._looked_s = time.perf_counter() - began
            return [trade for trade, due_at in found.items() if due_at is not None and due_at <= now]

        async def claim(tx: Transaction) -> list[tuple[Trade, Task]]:
            if self._running and clock.now_us() - self._beaten_at > LEASE_US:
                # This process was frozen for a while: what it has under way is its own still.
                await self._extend(tx)
            return [(trade, task) for trade in ready for task in await self._claim(tx, trade, room[trade])]

        # Looked at first: most looks find nothing, and a read costs no commit.
        ready = await self._database.read(due)
        if not ready or self._stopping.is_set():
            return
        for trade, task in await self._database.write(claim):
            if self._stopping.is_set():
                await self._release(trade, task, after_us=0)
            else:
                self._start(trade, task)

    async def _claim(self, tx: Transaction, trade: Trade, room: int) -> list[Task]:
        most = room if trade.is_open is None else min(room, await trade.is_open(tx))
        places, now = self._places[trade], clock.now_us()
        held, found = places.held.copy(), list[Task]()

        async def take(number: int, without: set[str]) -> int:
            claimed = await claims.claim(
                tx,
                trade.step,
                is_suspect=trade.is_suspect,
                began_before_us=None if trade.deadline_us is None else now - trade.deadline_us,
                now_us=now,
                lease_until_us=now + LEASE_US,
                most=number,
                without=without,
            )
            held.update(task.owner_id for task in claimed)
            found.extend(claimed)
            return len(claimed)

        # As many at a time as give nobody too many; those who are near that come last, with what is left.
        while (left := most - len(found)) > 0:
            near, full = places.full(held, adding=left), places.full(held)
            if await take(min(left, places.most_of_one), near):
                continue
            last = max((held[each] for each in near - full), default=places.most_of_one)
            if last == places.most_of_one or not await take(places.most_of_one - last, full):
                break
        if left > 0 and places.is_one_alone(held):
            await take(left, set())
        return found

    def _start(self, trade: Trade, task: Task) -> None:
        running = asyncio.create_task(self._do(trade, task), name=f"{trade.step}-{task.job_id}-{task.index}")
        self._running[running] = (trade, task)
        self._places[trade].take(task.owner_id)
        running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        trade, task = self._running.pop(running)
        self._places[trade].give_back(task.owner_id)
        self._bell.ring()

    async def _do(self, trade: Trade, task: Task) -> None:
        """Do one step; whatever goes wrong, the row is due again."""
        try:
            await trade.do(task)
        except errors.LeaseLost as exc:
            logger.info("work.lease_lost", extra={"job_id": task.job_id, "reason": str(exc)})
        except errors.Unavailable as exc:
            logger.warning("work.step_put_off", extra={"job_id": task.job_id, "reason": str(exc)})
            await self._release(trade, task, after_us=0 if self._stopping.is_set() else SECOND_US)
        except BaseException as exc:
            if not is_crash(exc):
                await self._release(trade, task, after_us=0)
                raise
            # Whatever kind it is: the loop must outlive every step.
            logger.exception("work.step_failed", extra={"job_id": task.job_id, "step": trade.step.value})
            delay_s = backoff.delay_s(task.claim, chance=random.random())  # noqa: S311 - spreads load
            await self._release(trade, task, after_us=int(max(1.0, delay_s) * SECOND_US))

    async def _release(self, trade: Trade, task: Task, *, after_us: int) -> None:
        """Give a lease back: due again after *after_us*."""
        due_at = clock.now_us() + after_us
        try:
            await asyncio.shield(
                self._database.write(lambda tx: claims.release(tx, task, trade.step, due_at=due_at))
            )
        except errors.Unavailable:
            logger.warning("work.lease_not_released", extra={"job_id": task.job_id})

    async def _extend(self, tx: Transaction) -> None:
        """Extend the leases of what is under way."""
        now = clock.now_us()
        for trade, task in self._running.values():
            await claims.extend(tx, task, trade.step, until_us=now + LEASE_US)
        self._beaten_at = now

    async def _watch_clock(self) -> None:
        """Let nothing wait for the time of a wall clock that has been set back meanwhile."""
        jump_s = self._clock.look()
        if jump_s:
            logger.warning("clock.jumped", extra={"seconds": round(jump_s, 1)})
            self._on_jump(jump_s)
        self._is_set_back = self._is_set_back or jump_s < 0
        if self._is_set_back:
            await self._database.write(self._extend)
            await self._pull_in(submit.BACKOFF_US)
            self._is_set_back = False

    async def _pull_in(self, furthest_us: int) -> None:
        """Make due what would wait for longer than *furthest_us*."""
        now = clock.now_us()
        if await self._database.read(lambda tx: claims.is_ahead(tx, now_us=now, furthest_us=furthest_us)):
            await self._database.write(lambda tx: claims.pull_in(tx, now_us=now, furthest_us=furthest_us))
            self._bell.ring()
