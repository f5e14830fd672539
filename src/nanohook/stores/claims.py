"""Tasks in SQL as the rows of a queue: which step is due, who has claimed it and until when."""

from collections.abc import Collection
from typing import Final

import orjson

from nanohook.database import Transaction, Value
from nanohook.rules.job import Step, Task
from nanohook.stores import line, tasks

_SPOT: Final = len(line.Spot._fields)
# Only decoding is suspected of anything: asking about such a task is as asking about any other.
_IS_SUSPECT: Final = "step = 'finish' AND suspect_deaths IS NOT NULL"
_SUSPECTS: Final = f"tasks INDEXED BY ix_tasks_suspect WHERE {_IS_SUSPECT}"
# Each of the others is looked for by name: of those who are passed by, thousands of tasks may be due.
_OTHERS: Final = (
    "WITH RECURSIVE people(owner_id) AS ("
    "SELECT MIN(owner_id) FROM tasks INDEXED BY ix_tasks_step_owner WHERE step = :step UNION ALL "
    "SELECT (SELECT MIN(owner_id) FROM tasks INDEXED BY ix_tasks_step_owner "
    "WHERE step = :step AND owner_id > people.owner_id) FROM people WHERE owner_id IS NOT NULL), "
    "others AS (SELECT owner_id FROM people "
    "WHERE owner_id IS NOT NULL AND owner_id NOT IN (SELECT value FROM json_each(:without)))"
)
_OF_OTHERS: Final = "owner_id NOT IN (SELECT value FROM json_each(:without))"
# In line, whatever is due: one that is put off keeps its place and is passed by.
_CLAIM_NEXT: Final = (
    "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until WHERE rowid IN ("
    "SELECT rowid FROM tasks INDEXED BY ix_tasks_line WHERE step = 'submit' AND due_at <= :now "
    f"AND {_OF_OTHERS} ORDER BY turn, priority, queued_at LIMIT :most) "
    f"RETURNING turn, priority, queued_at, {tasks.COLUMNS}"
)
_HOLDS: Final = f"{tasks.KEY} AND claim = :claim AND step = :step"


async def next_due(
    tx: Transaction, step: Step, *, is_suspect: bool = False, without: Collection[str] = ()
) -> int | None:
    """Tell when the next task is due for *step*, µs; of suspects alone, or of others; *without* these people's."""
    values: dict[str, Value] = {"step": step, "without": _json_list(without)}
    if is_suspect:
        found = f"SELECT MIN(due_at) AS due_at FROM {_SUSPECTS} AND {_OF_OTHERS}"
    elif without:
        of_one = f"SELECT MIN(due_at) FROM {_tasks(by='ix_tasks_step_owner')} AND owner_id = others.owner_id"
        found = f"{_OTHERS} SELECT MIN(({of_one})) AS due_at FROM others"
    else:
        found = f"SELECT MIN(due_at) AS due_at FROM {_tasks(by='ix_tasks_step_due_at')}"
    row = await tx.one(found, values)
    return None if row is None else row["due_at"]


async def claim(
    tx: Transaction,
    step: Step,
    *,
    is_suspect: bool = False,
    began_before_us: int | None = None,
    now_us: int,
    lease_until_us: int,
    most: int,
    without: Collection[str] = (),
) -> list[Task]:
    """
    Take up to *most* due tasks, submits in the order of the line; nobody sees them before *lease_until_us*.

    Args:
        is_suspect: Those alone whose decoding may have killed the process; else those alone of which that is not
            suspected.
        began_before_us: Those come first that NanoBanana has had since before this.
        without: People whose tasks are passed by.
    """
    values: dict[str, Value] = {
        "now": now_us,
        "lease_until": lease_until_us,
        "most": most,
        "without": _json_list(without),
    }
    if step is not Step.SUBMIT:
        values |= {"step": step}
        if began_before_us is not None:
            values["began_before"] = began_before_us
        sql = _claim(is_suspect=is_suspect, is_late_first=began_before_us is not None, of_others=bool(without))
        return [tasks.read(row) for row in await tx.all(sql, values)]
    rows = await tx.all(_CLAIM_NEXT, values)
    rows.sort(key=lambda row: row[:_SPOT])
    await line.move_on(tx, [line.Spot(*row[:_SPOT]) for row in rows])
    return [tasks.read(row, start=_SPOT) for row in rows]


ASK_AGAIN_US: Final = 5_000_000
"""NanoBanana is asked after a task once in this for people, however many want to know."""
# A time to come was written by a clock that has been set back.
_MAY_BE_ASKED: Final = (
    "step = 'ask' AND held = 0 AND task_id IS NOT NULL "
    "AND (asked_at IS NULL OR asked_at <= :asked_before OR asked_at > :now)"
)


async def to_ask(tx: Transaction, *, job_id: str, attempt: int, now_us: int) -> list[Task]:
    """List the tasks of an attempt that ``claim_to_ask`` would give now."""
    rows = await tx.all(
        f"SELECT {tasks.COLUMNS} FROM tasks WHERE job_id = :job_id AND attempt = :attempt AND {_MAY_BE_ASKED} "
        "ORDER BY idx",
        {"job_id": job_id, "attempt": attempt, "asked_before": now_us - ASK_AGAIN_US, "now": now_us},
    )
    return [tasks.read(row) for row in rows]


async def claim_to_ask(tx: Transaction, task: Task, *, now_us: int, lease_until_us: int) -> Task | None:
    """
    Take *task*, to ask for it because a person wants to know.

    Returns:
        ``None`` if it is being worked on, if there is nothing to ask, or if it was asked for within
        ``ASK_AGAIN_US``.
    """
    row = await tx.one(
        "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until, asked_at = :now "
        f"WHERE {tasks.KEY} AND {_MAY_BE_ASKED} RETURNING {tasks.COLUMNS}",
        {
            **tasks.key(task),
            "asked_before": now_us - ASK_AGAIN_US,
            "now": now_us,
            "lease_until": lease_until_us,
        },
    )
    return None if row is None else tasks.read(row)


async def put_off(tx: Transaction, claimed: Task, *, until_us: int) -> None:
    """Let the next question wait until *until_us* at least, if nothing came of the one that *claimed* was for."""
    await tx.run(
        f"UPDATE tasks SET due_at = :until WHERE {_HOLDS} AND held = 0 AND due_at < :until",
        {**_holding(claimed, Step.ASK), "until": until_us},
    )


async def held(tx: Transaction, task: Task, step: Step) -> Task | None:
    """Fetch *task* as it is now, if the claim it was taken with still holds."""
    row = await tx.one(f"SELECT {tasks.COLUMNS} FROM tasks WHERE {_HOLDS}", _holding(task, step))
    return None if row is None else tasks.read(row)


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


_AHEAD: Final = (
    "step IN ('ask', 'finish') AND (accepted_at > :now OR submit_started_at > :now OR finish_since > :now)"
)
_FURTHER: Final = "step IN ('submit', 'ask', 'finish') AND due_at > :furthest"


async def is_ahead(tx: Transaction, *, now_us: int, furthest_us: int) -> bool:
    """Tell whether any step is due more than *furthest_us* from now, or says that it began only after now."""
    values: dict[str, Value] = {"now": now_us, "furthest": now_us + furthest_us}
    for condition in (_FURTHER, _AHEAD):
        if await tx.one(f"SELECT 1 FROM tasks WHERE {condition} LIMIT 1", values) is not None:
            return True
    return False


async def pull_in(tx: Transaction, *, now_us: int, furthest_us: int) -> int:
    """
    Put right what was written by a clock that has been set back: no step waits for its time, no deadline for it.

    What is due more than *furthest_us* from now is due, and what is said to have begun only after now began now. A
    submit keeps its time: its answer is known by it.

    Returns:
        How many tasks are due by it.
    """
    await tx.run(
        "UPDATE tasks SET accepted_at = MIN(accepted_at, :now), submit_started_at = MIN(submit_started_at, :now), "
        f"finish_since = MIN(finish_since, :now) WHERE {_AHEAD}",
        {"now": now_us},
    )
    return await tx.run(
        f"UPDATE tasks SET held = 0, due_at = :now WHERE {_FURTHER}",
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


def _holding(task: Task, step: Step) -> dict[str, Value]:
    return {**tasks.key(task), "claim": task.claim, "step": step}


def _claim(*, is_suspect: bool, is_late_first: bool, of_others: bool) -> str:
    """Compose the UPDATE that takes tasks by when they are due."""
    # The place of a task in line is no later than its deadline, but others may have stood there for long before.
    late = "COALESCE(accepted_at, submit_started_at, 0) > :began_before, " if is_late_first else ""
    if is_suspect:
        found = f"SELECT rowid FROM {_SUSPECTS} AND {_OF_OTHERS}"
    elif of_others:
        of_each = f"SELECT rowid FROM {_tasks(by='ix_tasks_step_owner')}"
        found = f"{_OTHERS} {of_each} AND owner_id IN (SELECT owner_id FROM others)"
    else:
        found = f"SELECT rowid FROM {_tasks(by='ix_tasks_step_due_at')}"
    return (
        "UPDATE tasks SET claim = claim + 1, held = 1, due_at = :lease_until, "
        "asked_at = CASE WHEN step = 'ask' THEN :now ELSE asked_at END "
        f"WHERE rowid IN ({found} AND due_at <= :now ORDER BY {late}due_at LIMIT :most) RETURNING {tasks.COLUMNS}"
    )


def _tasks(*, by: str) -> str:
    """Compose which tasks are meant, but for suspects, and the index that they are found by."""
    return f"tasks INDEXED BY {by} WHERE step = :step AND NOT ({_IS_SUSPECT})"


def _json_list(names: Collection[str]) -> str:
    return orjson.dumps(list(names)).decode()
