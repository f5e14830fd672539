"""Asking ``record-info``: after a restart, without callbacks, past a deadline, or to confirm a callback's word."""

import asyncio
import hashlib
import logging
import random
from dataclasses import dataclass, field
from typing import Final

from nanohook import clock, errors, ids
from nanohook.database import Database
from nanohook.faults import reach
from nanohook.flow import plans, reconcile, submit
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.remote import nanobanana
from nanohook.remote.nanobanana import Client
from nanohook.rules import backoff, callbacks
from nanohook.rules.job import Step, Task
from nanohook.stores import claims
from nanohook.stores.deliveries import Delivery, Source
from nanohook.work.pace import Pace

logger = logging.getLogger(__name__)

AT_ONCE: Final = 8
LEASE_S: Final = 30
"""Of a task that is asked after for a person; longer than anybody waits for that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """Asks for claimed tasks; the answers go the way of every delivery."""

    database: Database
    client: Client
    pace: Pace
    terms: Terms
    checked: set[tuple[str, int, int]] = field(default_factory=set)
    """The tasks for which a person's question waits for its turn: nobody else's has to, beside it."""

    async def do(self, claimed: Task) -> None:
        """Ask after *claimed*, or give it up if there is nothing to ask by."""
        if claimed.task_id is None:
            # Outcome unknown, no callback until its deadline, nothing to ask by.
            await self.database.write(
                lambda tx: submit.give_up(tx, claimed, terms=self.terms, now_us=clock.now_us())
            )
            return
        await self.ask(claimed)

    async def ask(self, claimed: Task) -> callbacks.Record | None:
        """Ask after *claimed*, which has an id, and take the answer; ``None``: none that says anything."""
        is_over = plans.deadline_of(claimed, self.terms) <= clock.now_us()
        await self.pace.ask(claimed.owner_id, is_for_deadline=is_over)
        return await self._ask(claimed)

    async def check(self, task: Task, *, owner_id: str, wait_s: float) -> callbacks.Record | None:
        """
        Ask after *task* because a person wants to know.

        It is claimed only when it is the person's turn: a claim that waits would keep the service's own question
        from being asked.

        Args:
            owner_id: The person.
            wait_s: How long they wait; half of it for their turn.

        Returns:
            ``None``: there was no answer that says anything, or nobody was asked: somebody else just did, or too
            many questions wait.
        """
        key = (task.job_id, task.attempt, task.index)
        if key in self.checked:
            return None
        until = asyncio.get_running_loop().time() + wait_s
        self.checked.add(key)
        try:
            async with asyncio.timeout(wait_s / 2):
                is_their_turn = await self.pace.check(owner_id)
            claimed = await self._claim(task) if is_their_turn else None
        except TimeoutError:
            logger.info("check.no_turn", extra={"job_id": task.job_id, "waited_s": wait_s / 2})
            return None
        finally:
            self.checked.discard(key)
        if claimed is None:
            return None
        try:
            async with asyncio.timeout_at(until):
                return await self._ask(claimed)
        except TimeoutError:
            logger.warning("check.no_answer", extra={"job_id": task.job_id, "waited_s": wait_s})
            await self.database.write(
                lambda tx: claims.release(tx, claimed, Step.ASK, due_at=clock.now_us() + SECOND_US)
            )
            return None
        finally:
            # A person's question comes on top of the service's own: those keep their time.
            await self.database.write(lambda tx: claims.put_off(tx, claimed, until_us=task.due_at or 0))

    async def _claim(self, task: Task) -> Task | None:
        now = clock.now_us()
        return await self.database.write(
            lambda tx: claims.claim_to_ask(tx, task, now_us=now, lease_until_us=now + LEASE_S * SECOND_US)
        )

    async def _ask(self, claimed: Task) -> callbacks.Record | None:
        task_id = claimed.task_id or ""
        logger.debug("upstream.asking", extra={"job_id": claimed.job_id, "task_id": task_id, "asks": claimed.asks})
        reach("ask.claimed")
        try:
            answer = await self.client.record_info(task_id)
            record = callbacks.read_record(answer.body, http_status=answer.http_status)
        except (errors.Transient, errors.TooLarge, callbacks.NotJson, callbacks.Unreadable) as exc:
            await self._no_answer(claimed, exc)
            return None
        reach("ask.answered")
        delivery = Delivery(
            id=ids.new_id(),
            source=Source.RECORD,
            job_id=claimed.job_id,
            attempt=claimed.attempt,
            index=claimed.index,
            webhook_id=None,
            headers="",
            body=answer.body,
            # Apart from a callback of the very same bytes: this one is believed.
            body_sha256=hashlib.sha256(b"record-info:" + answer.body).digest(),
            received_at=clock.now_us(),
        )
        chance = random.random()  # noqa: S311 - spreads load
        receipt = await self.database.write(
            lambda tx: reconcile.answer(
                tx, delivery, record, claimed, terms=self.terms, chance=chance, now_us=delivery.received_at
            )
        )
        reach("ask.settled")
        logger.info(
            "upstream.asked",
            extra={
                "job_id": claimed.job_id,
                "task_id": claimed.task_id,
                "found": record.found,
                "word": record.reading.word if record.reading else None,
                "effect": receipt.effect.value if receipt else "gone",
                "reason": receipt.reason if receipt else None,
            },
        )
        return record

    async def _no_answer(self, claimed: Task, exc: errors.NanohookError) -> None:
        """Plan what follows an answer that says nothing, or none at all."""
        is_unreadable = not isinstance(exc, errors.Transient) or exc.code == nanobanana.UNREADABLE
        logger.warning(
            "upstream.no_answer",
            extra={
                "job_id": claimed.job_id,
                "reason": str(exc),
                "code": exc.code,
                "is_unreadable": is_unreadable,
            },
        )
        after_s = exc.retry_after_s if isinstance(exc, errors.Transient) else None
        pause_s = backoff.delay_s(claimed.tries + 1, chance=random.random(), retry_after_s=after_s)  # noqa: S311
        pause_us = max(self.terms.ask_every_us, int(pause_s * SECOND_US))
        await self.database.write(
            lambda tx: reconcile.no_answer(
                tx,
                claimed,
                is_unreadable=is_unreadable,
                pause_us=pause_us,
                terms=self.terms,
                now_us=clock.now_us(),
            )
        )
