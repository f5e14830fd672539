"""Tasks in SQL: what NanoBanana was asked for, and the step of the work loop that is due for each."""

from collections.abc import Sequence
from typing import Final, NamedTuple

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
_LIST: Final = ", ".join(_COLUMNS)
_SPOT: Final = len(line.Spot._fields)
_KEY: Final = "job_id = :job_id AND attempt = :attempt AND idx = :idx"
_INSERTED: Final = [*_COLUMNS, *line.Spot._fields]
_INSERT: Final = (
    f"INSERT INTO tasks ({', '.join(_INSERTED)}) VALUES ({', '.join(f':{name}' for name in _INSERTED)})"
)
_OF_ATTEMPT: Final = f"SELECT {_LIST} FROM tasks WHERE job_id = :job_id AND attempt = :attempt ORDER BY idx"
# For every callback: no index is touched, and its values come by place.
_COUNT_DELIVERY: Final = (
    "UPDATE tasks SET deliveries = deliveries + 1, stage = ?, progress = ? "
    "WHERE job_id = ? AND attempt = ? AND idx = ?"
)
_LOAD: Final = f"SELECT {_LIST} FROM tasks WHERE {_KEY}"
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
    f"said = :said, may_buy = :may_buy WHERE {_KEY}"
)
_CLAIM: Final = (
    "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until, "
    "asked_at = CASE WHEN step = 'ask' THEN :now ELSE asked_at END WHERE rowid IN ("
    "SELECT rowid FROM tasks WHERE step = :step AND due_at <= :now "
    "AND (suspect_deaths IS NOT NULL) = :is_suspect ORDER BY due_at LIMIT :most) "
    f"RETURNING {_LIST}"
)
# In line, whatever is due: one that is put off keeps its place and is passed by.
_CLAIM_NEXT: Final = (
    "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until WHERE rowid IN ("
    "SELECT rowid FROM tasks INDEXED BY ix_tasks_line WHERE step = 'submit' AND due_at <= :now "
    f"ORDER BY turn, priority, queued_at LIMIT :most) RETURNING turn, priority, queued_at, {_LIST}"
)
_HOLDS: Final = f"{_KEY} AND claim = :claim AND step = :step"


async def insert(tx: Transaction, task: Task, *, priority: str, now_us: int) -> None:
    """Store a new task; it stands in line from now on, in case it has to be submitted."""
    spot = await line.next_spot(tx, owner_id=task.owner_id, priority=priority, now_us=now_us)
    await tx.run(_INSERT, {**_values(task), "claim": task.claim, **spot._asdict()})


async def of_attempt(tx: Transaction, *, job_id: str, attempt: int) -> list[Task]:
    """Fetch the tasks of one attempt by index."""
    return [_task(row) for row in await tx.all(_OF_ATTEMPT, {"job_id": job_id, "attempt": attempt})]


async def canceled(tx: Transaction, job_id: str) -> list[Task]:
    """List the tasks of a job that were canceled when NanoBanana had them, and of which there is no picture."""
    rows = await tx.all(
        f"SELECT {_LIST} FROM tasks WHERE job_id = ? AND stage = 'canceled' AND submit_started_at IS NOT NULL "
        "AND (task_id IS NOT NULL OR candidates IS NOT NULL) AND NOT EXISTS (SELECT 1 FROM tasks AS done "
        "WHERE done.job_id = tasks.job_id AND done.task_id = tasks.task_id AND done.stage = 'completed') "
        "ORDER BY attempt, idx",
        (job_id,),
    )
    return [_task(row) for row in rows]


async def of_jobs(tx: Transaction, job_ids: Sequence[str]) -> dict[str, list[Task]]:
    """Fetch the tasks of several jobs, of the attempt that each is in, by index."""
    found: dict[str, list[Task]] = {job_id: [] for job_id in job_ids}
    rows = await tx.all(
        f"SELECT {', '.join(f'tasks.{name}' for name in _COLUMNS)} FROM jobs "
        "JOIN tasks ON tasks.job_id = jobs.id AND tasks.attempt = jobs.attempt "
        f"WHERE jobs.id IN ({', '.join('?' * len(job_ids))}) ORDER BY jobs.id, idx",
        tuple(job_ids),
    )
    for task in map(_task, rows):
        found[task.job_id].append(task)
    return found


async def load(tx: Transaction, *, job_id: str, attempt: int, index: int) -> Task | None:
    """Fetch a task as it is now, whoever holds it, of a deleted job too."""
    row = await tx.one(_LOAD, {"job_id": job_id, "attempt": attempt, "idx": index})
    return None if row is None else _task(row)


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
    return Standing(_task(row, start=3), deliveries, job_attempt, deleted_at is not None)


async def took_delivery(tx: Transaction, task: Task) -> None:
    """Count a delivery for *task*, and store how far that brought it: its stage and progress, nothing else."""
    await tx.run(_COUNT_DELIVERY, (task.stage.value, task.progress, task.job_id, task.attempt, task.index))


async def by_task_id(tx: Transaction, task_id: str) -> Task | None:
    """Find the newest task that NanoBanana knows by *task_id*."""
    row = await tx.one(
        f"SELECT {_LIST} FROM tasks WHERE task_id = :task_id ORDER BY attempt DESC, idx LIMIT 1",
        {"task_id": task_id},
    )
    return None if row is None else _task(row)


async def update(tx: Transaction, task: Task) -> None:
    """Store what may change of a task; its claim is changed by ``claim`` alone."""
    await tx.run(_UPDATE, _values(task))


async def next_due(tx: Transaction, step: Step, *, is_suspect: bool = False) -> int | None:
    """Tell when the next task is due for *step*, µs; of suspects alone, or of all others."""
    row = await tx.one(
        "SELECT MIN(due_at) AS due FROM tasks WHERE step = ? AND (suspect_deaths IS NOT NULL) = ?",
        (step.value, int(is_suspect)),
    )
    return None if row is None else row["due"]


async def claim(
    tx: Transaction, step: Step, *, is_suspect: bool = False, now_us: int, lease_until_us: int, most: int
) -> list[Task]:
    """
    Take up to *most* due tasks, submits in the order of the line; nobody sees them before *lease_until_us*.

    Args:
        is_suspect: Those alone whose decoding may have killed the process; else those alone of which that is not
            suspected.
    """
    values: dict[str, Value] = {"now": now_us, "lease_until": lease_until_us, "most": most}
    if step is not Step.SUBMIT:
        found = await tx.all(_CLAIM, {**values, "step": step, "is_suspect": int(is_suspect)})
        return [_task(row) for row in found]
    rows = await tx.all(_CLAIM_NEXT, values)
    rows.sort(key=lambda row: row[:_SPOT])
    await line.move_on(tx, [line.Spot(*row[:_SPOT]) for row in rows])
    return [_task(row, start=_SPOT) for row in rows]


async def claim_to_ask(
    tx: Transaction, task: Task, *, asked_before_us: int, now_us: int, lease_until_us: int
) -> Task | None:
    """
    Take *task*, to ask for it because a person wants to know.

    Returns:
        ``None`` if it is being worked on, if there is nothing to ask, or if it was asked for since
        *asked_before_us*.
    """
    row = await tx.one(
        "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until, asked_at = :now "
        f"WHERE {_KEY} AND step = 'ask' AND held = 0 AND task_id IS NOT NULL "
        # A time to come was written by a clock that has been set back.
        f"AND (asked_at IS NULL OR asked_at <= :asked_before OR asked_at > :now) RETURNING {_LIST}",
        {
            "job_id": task.job_id,
            "attempt": task.attempt,
            "idx": task.index,
            "asked_before": asked_before_us,
            "now": now_us,
            "lease_until": lease_until_us,
        },
    )
    return None if row is None else _task(row)


async def put_off(tx: Transaction, claimed: Task, *, until_us: int) -> None:
    """Let the next question wait until *until_us* at least, if nothing came of the one that *claimed* was for."""
    await tx.run(
        f"UPDATE tasks SET due_at = :until WHERE {_KEY} AND claim = :claim AND step = 'ask' AND held = 0 "
        "AND due_at < :until",
        {
            "job_id": claimed.job_id,
            "attempt": claimed.attempt,
            "idx": claimed.index,
            "claim": claimed.claim,
            "until": until_us,
        },
    )


async def knows(tx: Transaction, *, job_id: str, task_id: str) -> bool:
    """Tell whether *task_id* is one of a job's tasks, of whichever attempt."""
    row = await tx.one("SELECT 1 FROM tasks WHERE task_id = ? AND job_id = ? LIMIT 1", (task_id, job_id))
    return row is not None


async def held(tx: Transaction, task: Task, step: Step) -> Task | None:
    """Fetch *task* as it is now, if the claim it was taken with still holds."""
    row = await tx.one(f"SELECT {_LIST} FROM tasks WHERE {_HOLDS}", _holding(task, step))
    return None if row is None else _task(row)


async def extend(tx: Transaction, task: Task, step: Step, *, until_us: int) -> bool:
    """Move the end of a lease; ``False`` if it is no longer ours."""
    return bool(
        await tx.run(
            f"UPDATE tasks SET due_at = :until WHERE {_HOLDS}", {**_holding(task, step), "until": until_us}
        )
    )


async def release(tx: Transaction, task: Task, step: Step, *, due_at: int) -> None:
    """Give a claim back; the step is due at *due_at* (µs)."""
    await tx.run(
        f"UPDATE tasks SET held = 0, due_at = :due_at WHERE {_HOLDS}",
        {**_holding(task, step), "due_at": due_at},
    )


async def take_over(tx: Transaction, *, now_us: int) -> int:
    """
    Make due what a former process held, and what NanoBanana may have answered meanwhile.

    Only for a process that knows it works alone: then every claim in the table is of one that is gone.

    Returns:
        How many tasks that are.
    """
    return await tx.run(
        "UPDATE tasks SET held = 0, due_at = :now WHERE step IS NOT NULL "
        "AND (held = 1 OR (due_at > :now AND step = 'ask' AND task_id IS NOT NULL))",
        {"now": now_us},
    )


async def is_further(tx: Transaction, *, after_us: int) -> bool:
    """Tell whether any step is due only after *after_us*."""
    row = await tx.one("SELECT 1 FROM tasks WHERE step IS NOT NULL AND due_at > ? LIMIT 1", (after_us,))
    return row is not None


async def pull_in(tx: Transaction, *, now_us: int, furthest_us: int) -> int:
    """
    Make due what would wait for longer than *furthest_us*: its time was written by a clock that has been set back.

    Returns:
        How many tasks that are.
    """
    return await tx.run(
        "UPDATE tasks SET held = 0, due_at = :now WHERE step IS NOT NULL AND due_at > :furthest",
        {"now": now_us, "furthest": now_us + furthest_us},
    )


async def ask_soon(tx: Transaction, *, now_us: int) -> int:
    """
    Make due at once every question that waits for its time: callbacks on their way may not find us any more.

    Returns:
        How many tasks that are.
    """
    return await tx.run(
        "UPDATE tasks SET due_at = :now WHERE step = 'ask' AND held = 0 AND due_at > :now AND task_id IS NOT NULL",
        {"now": now_us},
    )


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
            f"UPDATE tasks SET server_faults = 1 WHERE {_KEY} AND server_faults = 0",
            {"job_id": task.job_id, "attempt": task.attempt, "idx": task.index},
        )
    )


async def cut_off(tx: Transaction) -> list[Task]:
    """List tasks whose submit was begun, or that NanoBanana has named, and that nobody holds."""
    rows = await tx.all(
        f"SELECT {_LIST} FROM tasks INDEXED BY ix_tasks_line WHERE step = 'submit' AND held = 0 "
        "AND (submit_started_at IS NOT NULL OR task_id IS NOT NULL)"
    )
    return [_task(row) for row in rows]


async def waits_since(tx: Transaction, *, before_us: int, most: int) -> list[Task]:
    """
    List tasks that stand in line since before *before_us*, the first in line first, none that is held.

    None, either, that NanoBanana may have: whose submit was begun, or that a callback has named.
    """
    rows = await tx.all(
        f"SELECT {_LIST} FROM tasks WHERE step = 'submit' AND held = 0 AND queued_at < ? "
        "AND submit_started_at IS NULL AND task_id IS NULL "
        "ORDER BY turn, priority, queued_at LIMIT ?",
        (before_us, most),
    )
    return [_task(row) for row in rows]


async def again(tx: Transaction, task: Task, step: Step, *, due_at: int) -> None:
    """Note a failed try and make the step due at *due_at* (µs), if the claim still holds."""
    await tx.run(
        f"UPDATE tasks SET tries = tries + 1, held = 0, due_at = :due_at WHERE {_HOLDS}",
        {**_holding(task, step), "due_at": due_at},
    )


def _holding(task: Task, step: Step) -> dict[str, Value]:
    return {
        "job_id": task.job_id,
        "attempt": task.attempt,
        "idx": task.index,
        "claim": task.claim,
        "step": step,
    }


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


def _task(row: Row, *, start: int = 0) -> Task:
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
        candidates=() if candidates is None else _read(candidates),
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


def _read(text: str) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(**{**each, "outcome": None if each["outcome"] is None else Outcome(each["outcome"])})
        for each in orjson.loads(text)
    )
