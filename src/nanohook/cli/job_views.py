"""What ``nanohook jobs`` tells: which jobs there are, and everything about one."""

from collections.abc import Sequence
from typing import Final

import orjson

from nanohook import clock, errors
from nanohook.clock import rfc3339
from nanohook.database import Database, Transaction
from nanohook.flow import gate
from nanohook.flow.terms import SECOND_US
from nanohook.rules import views
from nanohook.rules.job import Job, Stored, Task
from nanohook.rules.masking import masked
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import (
    accounts,
    delivery_log,
    events,
    job_lists,
    jobs,
    open_jobs,
    pictures,
    shorthand,
    tasks,
    unclaimed,
)
from nanohook.stores.delivery_log import Filter, Line

Shown = dict[str, object]

STUCK_S: Final = 600
"""An open job to which nothing has happened for so long is stuck."""
_MOST_SHOWN: Final = 200
"""Of each kind of line of one job."""


async def named(found: Database, names: Sequence[str]) -> list[str]:
    """
    Find the jobs that *names* mean, each once.

    Raises:
        ConfigError: One of them means none, or several.
    """
    resolved = []
    for name in names:
        meant = await found.read(lambda tx: open_jobs.named(tx, name))  # noqa: B023 - read here
        if len(meant) != 1:
            why = "several jobs have that" if meant else "there is no such job"
            raise errors.ConfigError(
                f"{name}: {why}; give an id, {shorthand.LEAST_CHARS} or more characters that only it begins or "
                "ends with, or NanoBanana's task id"
            )
        resolved += meant
    return list(dict.fromkeys(resolved))


async def listed(
    found: Database, *, statuses: tuple[ImageJobStatus, ...], email: str | None, is_stuck: bool, most: int
) -> list[Shown]:
    """
    List jobs, newest first, whosever they are.

    Raises:
        ConfigError: There is no account of *email*.
    """

    async def read(tx: Transaction) -> list[Shown]:
        owner_id = None
        if email is not None:
            account = await accounts.account(tx, email)
            if account is None:
                raise errors.ConfigError("there is no account of this address")
            owner_id = account.person.id
        now = clock.now_us()
        if is_stuck:
            since = now - STUCK_S * SECOND_US
            names = await open_jobs.quiet(tx, owner_id=owner_id, statuses=statuses, since_us=since, most=most)
            page = await jobs.some(tx, names, owner_id=None) if names else []
            page.sort(key=lambda job: job.id, reverse=True)
        else:
            page, _ = await job_lists.page(tx, job_lists.Filter(owner_id=owner_id, statuses=statuses), most=most)
        group = await tasks.of_jobs(tx, [job.id for job in page]) if page else {}
        emails = {job.owner_id: await _email(tx, job.owner_id) for job in page}
        return [_line(job, group[job.id], emails[job.owner_id], now_us=now) for job in page]

    return await found.read(read)


async def _email(tx: Transaction, user_id: str) -> str:
    account = await accounts.account_of(tx, user_id)
    return user_id if account is None else account.person.email


def _line(job: Job, group: Sequence[Task], email: str, *, now_us: int) -> Shown:
    return {
        "job_id": job.id,
        "status": job.status,
        "stage": job.stage,
        "progress": job.progress,
        "attempt": job.attempt,
        "task_id": next((task.task_id for task in group if task.task_id is not None), None),
        "owner": email,
        "error": None if job.fault is None else job.fault.code,
        "created_at": rfc3339(job.created_at),
        "updated_at": rfc3339(job.updated_at),
        "age_s": max(0, now_us - job.created_at) // SECOND_US,
        "quiet_s": max(0, now_us - job.updated_at) // SECOND_US,
    }


async def whole(found: Database, name: str) -> Shown:
    """
    Tell everything about one job: tasks, attempts, deliveries, events, files; what opens something is masked.

    Raises:
        ConfigError: *name* means none, or several.
    """
    [job_id] = await named(found, [name])

    async def read(tx: Transaction) -> Shown:
        job = await jobs.load(tx, job_id)
        if job is None:
            raise errors.ConfigError(f"{name}: the job was deleted a moment ago")
        group = await tasks.of_attempt(tx, job_id=job.id, attempt=job.attempt)
        history = await events.of_jobs_after(tx, 0, owner_id=None, job_ids=(job.id,), most=_MOST_SHOWN)
        came, _ = await delivery_log.page(tx, Filter(job_id=job.id), before_id=None, most=_MOST_SHOWN)
        tried = await jobs.attempts(tx, job.id, most=_MOST_SHOWN)
        return {
            **_line(job, group, await _email(tx, job.owner_id), now_us=clock.now_us()),
            "message": views.message(job, held_by=(await gate.read(tx)).reason),
            "detail": None if job.fault is None else _masked(job.fault.detail),
            "prompt": _masked(job.prompt),
            "model": job.model,
            "options": dict(job.options),
            "priority": job.priority,
            "batch_id": job.batch_id,
            "tasks": [_task(task) for task in group],
            "attempts": [
                {
                    "number": each.number,
                    "status": each.status,
                    "error": each.error_code,
                    "created_at": rfc3339(each.created_at),
                    "ended_at": _time(each.ended_at),
                }
                for each in tried
            ],
            "deliveries": [_delivery(line) for line in reversed(came)],
            "events": [{"id": event.id, "name": event.name, **_told(event.payload)} for event in history],
            "files": await _files(tx, job),
        }

    return await found.read(read)


def _task(task: Task) -> Shown:
    return {
        "index": task.index,
        "attempt": task.attempt,
        "task_id": task.task_id,
        "stage": task.stage,
        "progress": task.progress,
        "error": None if task.fault is None else task.fault.code,
        "detail": None if task.fault is None else _masked(task.fault.detail),
        "next": task.step,
        "due_at": _time(task.due_at),
        "tries": task.tries,
        "asks": task.asks,
        "submitted_at": _time(task.submit_started_at),
        "accepted_at": _time(task.accepted_at),
    }


def _delivery(line: Line) -> Shown:
    return {
        "delivery_id": line.id,
        "received_at": rfc3339(line.received_at),
        "source": line.source,
        "attempt": line.attempt,
        "index": line.index,
        "effect": line.effect,
        "reason": _masked(line.reason),
        "repeats": line.repeats,
    }


def _told(payload: str) -> Shown:
    told = orjson.loads(payload)
    return {name: told[name] for name in ("at", "status", "stage", "progress", "attempt") if name in told}


async def _files(tx: Transaction, job: Job) -> list[Shown]:
    original = await pictures.original(tx, job.original_id, owner_id=job.owner_id)
    results = await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
    late = (await unclaimed.of_jobs(tx, [job.id]))[job.id]
    return [
        *([] if original is None else [_file("original", original)]),
        *(_file(f"result {each.index}", each.stored) for each in results),
        *(_file(f"unclaimed {each.index}", each.stored) for each in late),
    ]


def _file(what: str, stored: Stored) -> Shown:
    size = {"width": stored.width_px, "height": stored.height_px, "bytes": stored.size_bytes}
    return {"what": what, "key": stored.key, "content_type": stored.content_type, **size}


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else rfc3339(time_us)


def _masked(text: str | None) -> str | None:
    """Upstream's words and people's own may hold an address of ours with its token."""
    return None if text is None else masked(text)
