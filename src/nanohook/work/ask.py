"""Asking ``record-info``: after a restart, without callbacks, past a deadline, or to confirm a callback's word."""

import hashlib
import logging
import random
from dataclasses import dataclass

from nanohook import clock, errors, ids
from nanohook.database import Database
from nanohook.faults import reach
from nanohook.flow import reconcile, submit
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.remote import nanobanana
from nanohook.remote.nanobanana import Client
from nanohook.rules import backoff, callbacks
from nanohook.rules.job import Task
from nanohook.stores.deliveries import Delivery, Source
from nanohook.work.pace import Pace

logger = logging.getLogger(__name__)

AT_ONCE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """Asks for claimed tasks; the answers go the way of every delivery."""

    database: Database
    client: Client
    pace: Pace
    terms: Terms

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
        task_id = claimed.task_id or ""
        await self.pace.ask()
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
