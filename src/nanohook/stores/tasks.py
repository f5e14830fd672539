"""Tasks in SQL: what NanoBanana was asked for, and the step of the work loop that is due for each."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from nanohook.database import Row, Transaction, Value
from nanohook.rules.downloads import Candidate, Outcome
from nanohook.rules.job import Fault, Step, Task
from nanohook.rules.status import Stage
from nanohook.stores import line

_COLUMNS: Final = [
    "job_id",
    "attempt",
    "idx",
    "owner_id",
    "task_id",
    "stage",
    "progress",
    "error_code",
    "error_detail",
    "step",
    "due_at",
    "claim",
    "tries",
    "asks",
    "submit_started_at",
    "accepted_at",
    "finish_since",
    "candidates",
    "suspect_deaths",
    "said",
    "may_buy",
    "held",
]
COLUMNS: Final = ", ".join(_COLUMNS)
"""As ``read`` takes them."""
KEY: Final = "job_id = :job_id AND attempt = :attempt AND idx = :idx"
_INSERTED: Final = [*_COLUMNS, *line.Spot._fields]
_INSERT: Final = (
    f"INSERT INTO tasks ({', '.join(_INSERTED)}) VALUES ({', '.join(f':{name}' for name in _INSERTED)})"
)
_OF_ATTEMPT: Final = f"SELECT {COLUMNS} FROM tasks WHERE job_id = :job_id AND attempt = :attempt ORDER BY idx"
# For every callback: no index is touched, and its values come by place.
_COUNT_DELIVERY: Final = (
    "UPDATE tasks SET deliveries = deliveries + 1, stage = ?, progress = ? "
    "WHERE job_id = ? AND attempt = ? AND idx = ?"
)
_LOAD: Final = f"SELECT {COLUMNS} FROM tasks WHERE {KEY}"
_STANDING: Final = (
    "SELECT tasks.deliveries, jobs.attempt, jobs.deleted_at, "
    f"{', '.join(f'tasks.{name}' for name in _COLUMNS)} FROM tasks JOIN jobs ON jobs.id = tasks.job_id "
    "WHERE tasks.job_id = ? AND tasks.attempt = ? AND tasks.idx = ?"
)
# A step that is not given another time is still held by whoever does it.
_UPDATE: Final = (
    "UPDATE tasks SET task_id = :task_id, stage = :stage, progress = :progress, error_code = :error_code, "
    "error_detail = :error_detail, step = :step, due_at = :due_at, tries = :tries, asks = :asks, "
    "submit_started_at = :submit_started_at, accepted_at = :accepted_at, finish_since = :finish_since, "
    "candidates = :candidates, suspect_deaths = :suspect_deaths, "
    "held = CASE WHEN due_at = :due_at THEN held ELSE 0 END, "
    f"said = :said, may_buy = :may_buy WHERE {KEY}"
)


async def insert(tx: Transaction, task: Task, *, priority: str, now_us: int) -> None:
    """Store a new task; it stands in line from now on, in case it has to be submitted."""
    spot = await line.next_spot(tx, owner_id=task.owner_id, priority=priority, now_us=now_us)
    await tx.run(_INSERT, {**_values(task), "claim": task.claim, **spot._asdict()})


async def of_attempt(tx: Transaction, *, job_id: str, attempt: int) -> list[Task]:
    """Fetch the tasks of one attempt by index."""
    return [read(row) for row in await tx.all(_OF_ATTEMPT, {"job_id": job_id, "attempt": attempt})]


async def canceled(tx: Transaction, job_id: str) -> list[Task]:
    """List the tasks of a job that were canceled when NanoBanana had them, and of which there is no picture."""
    rows = await tx.all(
        f"SELECT {COLUMNS} FROM tasks WHERE job_id = ? AND stage = 'canceled' AND submit_started_at IS NOT NULL "
        "AND (task_id IS NOT NULL OR candidates IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM tasks AS done "
        "WHERE done.job_id = tasks.job_id AND done.task_id = tasks.task_id AND done.stage = 'completed') "
        "ORDER BY attempt, idx",
        (job_id,),
    )
    return [read(row) for row in rows]


async def of_jobs(tx: Transaction, job_ids: Sequence[str]) -> dict[str, list[Task]]:
    """Fetch the tasks of several jobs, of the attempt that each is in, by index."""
    found: dict[str, list[Task]] = {job_id: [] for job_id in job_ids}
    rows = await tx.all(
        f"SELECT {', '.join(f'tasks.{name}' for name in _COLUMNS)} FROM jobs "
        "JOIN tasks ON tasks.job_id = jobs.id AND tasks.attempt = jobs.attempt "
        f"WHERE jobs.id IN ({', '.join('?' * len(job_ids))}) ORDER BY jobs.id, idx",
        tuple(job_ids),
    )
    for task in map(read, rows):
        found[task.job_id].append(task)
    return found


async def load(tx: Transaction, *, job_id: str, attempt: int, index: int) -> Task | None:
    """Fetch a task as it is now, whoever holds it, of a deleted job too."""
    row = await tx.one(_LOAD, {"job_id": job_id, "attempt": attempt, "idx": index})
    return None if row is None else read(row)


class Standing(NamedTuple):
    """A task, and what a delivery for it must know of its job."""

    task: Task
    deliveries: int
    """How many came before this one."""
    job_attempt: int
    job_is_deleted: bool


async def standing(tx: Transaction, *, job_id: str, attempt: int, index: int) -> Standing | None:
    """Tell how a task stands for which a delivery has come."""
    row = await tx.one(_STANDING, (job_id, attempt, index))
    if row is None:
        return None
    deliveries, job_attempt, deleted_at = row[:3]
    return Standing(read(row, start=3), deliveries, job_attempt, deleted_at is not None)


async def took_delivery(tx: Transaction, task: Task) -> None:
    """Count a delivery for *task*, and store how far that brought it: its stage and progress, nothing else."""
    await tx.run(_COUNT_DELIVERY, (task.stage.value, task.progress, task.job_id, task.attempt, task.index))


async def by_task_id(tx: Transaction, task_id: str) -> Task | None:
    """Find the newest task that NanoBanana knows by *task_id*."""
    row = await tx.one(
        f"SELECT {COLUMNS} FROM tasks WHERE task_id = :task_id ORDER BY attempt DESC, idx LIMIT 1",
        {"task_id": task_id},
    )
    return None if row is None else read(row)


async def update(tx: Transaction, task: Task) -> None:
    """Store what may change of a task; its claim is changed by ``claim`` alone."""
    await tx.run(_UPDATE, _values(task))


async def knows(tx: Transaction, *, job_id: str, task_id: str) -> bool:
    """Tell whether *task_id* is one of a job's tasks, of whichever attempt."""
    row = await tx.one("SELECT 1 FROM tasks WHERE task_id = ? AND job_id = ? LIMIT 1", (task_id, job_id))
    return row is not None


async def let_go(tx: Transaction, job_id: str) -> None:
    """
    Do nothing more for any task of a job, of whichever attempt.

    One that was canceled while nobody knew whether NanoBanana has it waits for its deadline all the same: until
    then its price stays set aside.
    """
    await tx.run(
        "UPDATE tasks SET step = NULL, due_at = NULL WHERE job_id = ? AND step IS NOT NULL "
        "AND NOT (step = 'ask' AND stage = 'canceled' AND task_id IS NULL AND candidates IS NULL)",
        (job_id,),
    )


async def may_try_once_more(tx: Transaction, task: Task) -> bool:
    """Note a "server error" that took nothing; ``False``: it was not the first."""
    return bool(
        await tx.run(
            f"UPDATE tasks SET server_faults = 1 WHERE {KEY} AND server_faults = 0",
            key(task),
        )
    )


async def cut_off(tx: Transaction) -> list[Task]:
    """List tasks whose submit was begun, or that NanoBanana has named, and that nobody holds."""
    rows = await tx.all(
        f"SELECT {COLUMNS} FROM tasks INDEXED BY ix_tasks_line WHERE step = 'submit' AND held = 0 "
        "AND (submit_started_at IS NOT NULL OR task_id IS NOT NULL)"
    )
    return [read(row) for row in rows]


async def waits_since(tx: Transaction, *, before_us: int, most: int) -> list[Task]:
    """
    List tasks that stand in line since before *before_us*, the first in line first, none that is held.

    None, either, that NanoBanana may have: whose submit was begun, or that a callback has named.
    """
    rows = await tx.all(
        f"SELECT {COLUMNS} FROM tasks WHERE step = 'submit' AND held = 0 AND queued_at < ? "
        "AND submit_started_at IS NULL AND task_id IS NULL "
        "ORDER BY turn, priority, queued_at LIMIT ?",
        (before_us, most),
    )
    return [read(row) for row in rows]


def key(task: Task) -> dict[str, Value]:
    """Give the values of ``KEY``."""
    return {"job_id": task.job_id, "attempt": task.attempt, "idx": task.index}


def _values(task: Task) -> dict[str, Value]:
    return {
        "job_id": task.job_id,
        "attempt": task.attempt,
        "idx": task.index,
        "owner_id": task.owner_id,
        "task_id": task.task_id,
        "stage": task.stage,
        "progress": task.progress,
        "error_code": None if task.fault is None else task.fault.code,
        "error_detail": None if task.fault is None else task.fault.detail,
        "step": task.step,
        "due_at": task.due_at,
        "tries": task.tries,
        "asks": task.asks,
        "submit_started_at": task.submit_started_at,
        "accepted_at": task.accepted_at,
        "finish_since": task.finish_since,
        "candidates": _written(task.candidates),
        "suspect_deaths": task.suspect_deaths,
        "said": task.said,
        "may_buy": int(task.may_buy),
        "held": int(task.is_held),
    }


def read(row: Row, *, start: int = 0) -> Task:
    """Read a task from ``_COLUMNS``, beginning at *start*: by place, a search by name costs more."""
    (
        job_id,
        attempt,
        index,
        owner_id,
        task_id,
        stage,
        progress,
        error_code,
        error_detail,
        step,
        due_at,
        claim,
        tries,
        asks,
        submit_started_at,
        accepted_at,
        finish_since,
        candidates,
        suspect_deaths,
        said,
        may_buy,
        held,
    ) = row[start:]
    return Task(
        job_id=job_id,
        attempt=attempt,
        index=index,
        owner_id=owner_id,
        task_id=task_id,
        stage=Stage(stage),
        progress=progress,
        fault=None if error_code is None else Fault(code=error_code, detail=error_detail),
        step=None if step is None else Step(step),
        due_at=due_at,
        claim=claim,
        tries=tries,
        asks=asks,
        submit_started_at=submit_started_at,
        accepted_at=accepted_at,
        finish_since=finish_since,
        candidates=() if candidates is None else _candidates(candidates),
        suspect_deaths=suspect_deaths,
        is_held=bool(held),
        said=said,
        may_buy=bool(may_buy),
    )


def _written(candidates: Sequence[Candidate]) -> str | None:
    if not candidates:
        return None
    names = Candidate.__dataclass_fields__
    return orjson.dumps([{name: getattr(each, name) for name in names} for each in candidates]).decode()


def _candidates(text: str) -> tuple[Candidate, ...]:
    return tuple(map(_candidate, orjson.loads(text)))


def _candidate(kept: dict[str, Any]) -> Candidate:
    outcome = kept.get("outcome")
    began = tuple((for_us, at) for for_us, at in kept.get("began", ()))
    return Candidate(**{**kept, "outcome": None if outcome is None else Outcome(outcome), "began": began})
