"""Many jobs at once: the next attempts of those that are named, or of all that failed; deleting and restoring."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from starlette.responses import Response

from nanohook import clock
from nanohook.database import Transaction, Unit
from nanohook.flow import bulk, retries
from nanohook.flow.bulk import BulkResult
from nanohook.flow.retries import Retried, Rights
from nanohook.web import acceptance, wire, work_wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call

AT_ONCE: Final = 50
"""Jobs of one transaction: a callback never waits behind more."""
MOST: Final = 1_000
"""Failed jobs that one request looks at; its cursor leads on."""


async def again(call: Call) -> Response:
    """Retry many; 202 with those that were, those that were not and why, and where to go on."""
    asked = await wire.body_of(call.request, work_wire.RetryMany)
    rights = Rights(
        # Only who asks for everybody's gets at them, even as an admin.
        owner_id=call.whose(),
        actor=call.person.id,
        can_fetch=call.parts.terms.has_public_url,
        prices=call.parts.settings.prices,
    )
    refused = await acceptance.refusal(call.parts)
    if refused is not None:
        raise refused
    if asked.job_ids is None:
        done, cursor = await _failed(call, rights, asked.cursor)
    else:
        done, cursor = await _named(call, rights, list(dict.fromkeys(asked.job_ids))), None
    skipped = [{"job_id": job_id, "code": code} for job_id, code in done.skipped]
    return json_answer({"retried": done.retried, "skipped": skipped, "next_cursor": cursor}, status=202)


async def delete(call: Call) -> Response:
    """Hide many images at once; 200 with those that are hidden now, and those that are not and why."""
    return await _each(call, bulk.delete)


async def restore(call: Call) -> Response:
    """Take many deletions back; 200 as ``delete`` answers."""
    return await _each(call, bulk.restore)


async def _each(call: Call, change: Callable[..., Awaitable[BulkResult]]) -> Response:
    """Do *change* with the jobs that are named, all of the caller's own, a bounded number in a transaction."""
    asked = await wire.body_of(call.request, work_wire.JobIds)
    whole = BulkResult(done=[], refused=[])

    def unit(chunk: Sequence[str]) -> Unit[BulkResult]:
        async def run(tx: Transaction) -> BulkResult:
            return await change(tx, chunk, owner_id=call.person.id, now_us=clock.now_us())

        return run

    for chunk in _chunks(list(dict.fromkeys(asked.job_ids))):
        part = await call.write(unit(chunk))
        whole.done.extend(part.done)
        whole.refused.extend(part.refused)
    refused = [{"job_id": job_id, "code": code} for job_id, code in whole.refused]
    return json_answer({"done": whole.done, "refused": refused})


def _chunks(job_ids: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(job_ids), AT_ONCE):
        yield job_ids[first : first + AT_ONCE]


async def _named(call: Call, rights: Rights, job_ids: list[str]) -> Retried:
    done = Retried(retried=[], skipped=[])
    for chunk in _chunks(job_ids):
        _add(done, await call.write(_unit(chunk, rights)))
    return done


def _unit(chunk: list[str], rights: Rights) -> Unit[Retried]:
    return lambda tx: retries.some(tx, chunk, rights=rights, now_us=clock.now_us())


async def _failed(call: Call, rights: Rights, cursor: str | None) -> tuple[Retried, str | None]:
    done = Retried(retried=[], skipped=[])
    for _ in range(MOST // AT_ONCE):
        more, cursor = await call.write(_next_failed(cursor, rights))
        _add(done, more)
        if cursor is None:
            break
    return done, cursor


def _next_failed(cursor: str | None, rights: Rights) -> Unit[tuple[Retried, str | None]]:
    return lambda tx: retries.failed(tx, before_id=cursor, most=AT_ONCE, rights=rights, now_us=clock.now_us())


def _add(done: Retried, more: Retried) -> None:
    done.retried.extend(more.retried)
    done.skipped.extend(more.skipped)
