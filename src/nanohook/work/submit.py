"""Submitting: one POST that is paid for."""

import asyncio
import itertools
import logging
import random
import time
from dataclasses import dataclass

from nanohook import clock, errors
from nanohook.database import Database, Transaction, Unit
from nanohook.faults import reach
from nanohook.flow import blocking, gate, submit
from nanohook.flow.submit import Submission
from nanohook.flow.terms import CALLBACK_GRACE_S, FINISH_FOR_US, SECOND_US, Terms
from nanohook.remote import nanobanana
from nanohook.remote.nanobanana import (
    Accepted,
    Blocked,
    Busy,
    Client,
    NotSent,
    Refused,
    TryOnceMore,
    Unknown,
)
from nanohook.remote.orders import Order
from nanohook.rules import backoff, signing, wishes
from nanohook.rules.job import Fault, Task
from nanohook.stores import stats
from nanohook.work.account import Account
from nanohook.work.pace import Pace

logger = logging.getLogger(__name__)

NO_CALLBACK = "https://callback.invalid/"
"""The field is required; without a public address nothing can arrive."""


@dataclass(kw_only=True, slots=True)
class Submitter:
    """Submits claimed tasks, within the pace and the number of open tasks."""

    database: Database
    client: Client
    pace: Pace
    tokens: signing.Tokens
    terms: Terms
    account: Account
    open_tasks: int

    async def is_open(self, tx: Transaction) -> int:
        """How many more tasks may be given to NanoBanana now."""
        state = await gate.read(tx)
        if state.paused_at is not None or (state.blocked_code is not None and not self.account.may_probe):
            return 0
        left = self.open_tasks - await stats.count_running(tx)
        # The first after a refusal of the account goes alone: one more refusal is enough.
        if state.is_open:
            return left
        return min(left, 1 - await stats.count_submitting(tx, now_us=clock.now_us()))

    async def do(self, claimed: Task) -> None:
        """Submit *claimed*, and store what its outcome means."""
        await self.pace.submit(claimed.owner_id)
        reach("submit.claimed")
        is_probe = self.account.take_probe()
        started = await self.database.write(
            lambda tx: submit.begin(tx, claimed, terms=self.terms, is_probe=is_probe, now_us=clock.now_us())
        )
        if started is None:
            if is_probe:
                self.account.give_back()
            return
        reach("submit.started")
        try:
            order = self._order(started)
        except errors.ConfigError as exc:
            fault = Fault(code="internal", detail=str(exc))
            now = clock.now_us()
            await self._store(claimed, lambda tx: submit.refused(tx, started.task, fault, now_us=now))
            return
        logger.info(
            "upstream.submitting",
            extra={"job_id": claimed.job_id, "index": claimed.index, "model": order.model},
        )
        outcome = await self.client.submit(order)
        reach("submit.answered")
        logger.info(
            "upstream.submitted",
            extra={
                "job_id": claimed.job_id,
                "index": claimed.index,
                "outcome": type(outcome).__name__,
                **_said(outcome),
            },
        )
        await self._settle(started.task, outcome, public_url=started.public_url)
        reach("submit.settled")

    async def _settle(self, submitted: Task, outcome: nanobanana.Outcome, *, public_url: str | None) -> None:
        now = clock.now_us()
        if isinstance(outcome, Blocked):
            # Refused for the account's sake: the same for every job, so all wait.
            logger.error("upstream.blocked", extra={"code": outcome.code, "job_id": submitted.job_id})
            self.account.was_refused()
        elif isinstance(outcome, Accepted):
            self.account.was_taken()
        await self._store(
            submitted, lambda tx: self._apply(tx, submitted, outcome, public_url=public_url, now_us=now)
        )

    async def _apply(
        self,
        tx: Transaction,
        submitted: Task,
        outcome: nanobanana.Outcome,
        *,
        public_url: str | None,
        now_us: int,
    ) -> None:
        """Carry the table of outcomes out."""
        match outcome:
            case Accepted(task_id):
                is_misled = public_url != self.terms.public_url
                await submit.accepted(tx, submitted, task_id, terms=self.terms, is_misled=is_misled, now_us=now_us)
                await gate.unblock(tx)
            case NotSent():
                await submit.again(tx, submitted, due_at=now_us + _delay_us(submitted, None), now_us=now_us)
            case Busy(_, retry_after_s):
                await submit.again(
                    tx, submitted, due_at=now_us + _delay_us(submitted, retry_after_s), now_us=now_us
                )
            case TryOnceMore(code):
                fault = Fault(code="upstream_failed", detail=f"code {code}, twice")
                await submit.once_more(tx, submitted, fault, now_us=now_us)
            case Refused(code, message):
                fault = Fault(code="upstream_rejected", detail=f"code {code}: {message}")
                await submit.refused(tx, submitted, fault, now_us=now_us)
            case Blocked(code):
                due_at = now_us + _delay_us(submitted, None)
                await blocking.blocked(tx, submitted, code, due_at=due_at, now_us=now_us)
            case Unknown(_, task_id):
                await submit.unknown(tx, submitted, task_id=task_id, terms=self.terms, now_us=now_us)

    async def _store(self, claimed: Task, settle: Unit[None]) -> None:
        """Store an outcome, however long the database is away: what was bought is known here alone."""
        for tries in itertools.count(1):
            try:
                await self.database.write(settle)
            except errors.Unavailable:
                if self.database.is_closing:
                    raise
                logger.warning("upstream.outcome_waits", extra={"job_id": claimed.job_id, "tries": tries})
                await asyncio.sleep(backoff.delay_s(tries, first_s=0.2, most_s=5.0, chance=0.5))
            else:
                return

    def _order(self, started: Submission) -> Order:
        job, task = started.job, started.task
        # Never buy something else than was asked for.
        if started.source is None and (job.original_id is not None or job.options.get("use") == "result"):
            raise errors.ConfigError("the picture to start from was deleted meanwhile")
        if started.source is not None and started.public_url is None:
            raise errors.ConfigError("NANOHOOK_PUBLIC_URL: NanoBanana must fetch the picture, and it is not set")
        callback = NO_CALLBACK
        images: tuple[str, ...] = ()
        now_s = int(time.time())
        if started.public_url is not None:
            expires = now_s + self.terms.deadline_us // SECOND_US + CALLBACK_GRACE_S
            token = self.tokens.sign_callback(
                job_id=job.id, attempt=task.attempt, index=task.index, expires_at_s=expires
            )
            callback = f"{started.public_url}/api/webhooks/image-completion/{token}"
            if started.source is not None:
                key = started.source.key
                until = now_s + (self.terms.deadline_us + FINISH_FOR_US) // SECOND_US
                signed = self.tokens.sign_media(key=key, expires_at_s=until, for_upstream=True)
                images = (f"{started.public_url}/media/{key}?token={signed}",)
        return Order(
            model=job.model or "",
            prompt=_prompt(job.transformation_type, job.prompt),
            image_urls=images,
            aspect_ratio=_text(job.options.get("upstream_ratio")),
            resolution=_text(job.options.get("resolution")),
            output_format=_text(job.options.get("output_format")),
            callback_url=callback,
        )


def _said(outcome: nanobanana.Outcome) -> dict[str, object]:
    """What NanoBanana's answer tells beside what it means, for the log."""
    names = ("task_id", "code", "reason", "retry_after_s")
    told = {name: getattr(outcome, name) for name in names if hasattr(outcome, name)}
    # A line of the log has a message of its own, and takes no other of that name.
    return {**told, "said": outcome.message} if isinstance(outcome, Refused) else told


def _prompt(transformation_type: str | None, prompt: str | None) -> str:
    return wishes.full_prompt(transformation_type or "custom", prompt)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _delay_us(claimed: Task, retry_after_s: float | None) -> int:
    chance = random.random()  # noqa: S311 - spreads load, keeps no secret
    return int(backoff.delay_s(claimed.tries + 1, chance=chance, retry_after_s=retry_after_s) * SECOND_US)
