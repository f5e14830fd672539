"""Jobs in SQL for who looks after them: which one is meant, which are stuck, and hurrying those that wait."""

from collections.abc import Sequence
from typing import Final

from nanohook.database import Transaction, Value
from nanohook.rules.job import Task
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import shorthand

_OPEN: Final = ("PENDING", "INITIALIZING", "GENERATING")
_BY_ID: Final = "SELECT id FROM jobs WHERE deleted_at IS NULL AND id = ?"
_BY_TASK: Final = (
    "SELECT DISTINCT job_id AS id FROM tasks JOIN jobs ON jobs.id = job_id "
    "WHERE tasks.task_id = ? AND deleted_at IS NULL"
)
_BY_TASK_PART: Final = (
    "SELECT DISTINCT job_id AS id FROM tasks JOIN jobs ON jobs.id = job_id WHERE deleted_at IS NULL "
    "AND ((tasks.task_id >= ? AND tasks.task_id < ?) OR substr(tasks.task_id, ?) = ?) LIMIT 2"
)
_WAITING: Final = "held = 0 AND due_at > :now AND (step = 'finish' OR (step = 'ask' AND task_id IS NOT NULL))"


async def named(tx: Transaction, text: str) -> list[str]:
    """List the ids of jobs that *text* may mean: an id, NanoBanana's task id, or the beginning or end of one."""
    for sql in (_BY_ID, _BY_TASK):
        rows = await tx.all(sql, (text,))
        if rows:
            return [row["id"] for row in rows]
    found = await shorthand.meant(tx, "jobs", text)
    if found or len(text) < shorthand.LEAST_CHARS:
        return found
    rows = await tx.all(_BY_TASK_PART, (text, f"{text}\uffff", -len(text), text))
    return [row["id"] for row in rows]


async def quiet(
    tx: Transaction,
    *,
    owner_id: str | None,
    statuses: Sequence[ImageJobStatus],
    since_us: int,
    most: int,
) -> list[str]:
    """List ids of open jobs to which nothing has happened since *since_us*, newest first; uploads aside."""
    wanted = [status for status in _OPEN if not statuses or status in statuses]
    values: dict[str, Value] = {"since": since_us, "most": most}
    whose = ""
    if owner_id is not None:
        whose, values["owner_id"] = "AND owner_id = :owner_id ", owner_id
    if not wanted:
        return []
    either = ", ".join(f"'{status}'" for status in wanted)
    rows = await tx.all(
        f"SELECT id FROM jobs WHERE deleted_at IS NULL {whose}AND status IN ({either}) AND stage != 'uploaded' "
        "AND updated_at < :since ORDER BY id DESC LIMIT :most",
        values,
    )
    return [row["id"] for row in rows]


async def hurry(tx: Transaction, tasks: Sequence[Task] | None, *, now_us: int) -> int:
    """
    Make due at once what waits to be asked or finished.

    Args:
        tasks: These; ``None``: everybody's.

    Returns:
        How many tasks that are.
    """
    sql = f"UPDATE tasks SET due_at = :now WHERE step IN ('ask', 'finish') AND {_WAITING}"
    if tasks is None:
        return await tx.run(sql, {"now": now_us})
    done = 0
    for task in tasks:
        of_one = f"{sql} AND job_id = :job_id AND attempt = :attempt AND idx = :idx"
        done += await tx.run(
            of_one, {"now": now_us, "job_id": task.job_id, "attempt": task.attempt, "idx": task.index}
        )
    return done


async def unknown(tx: Transaction) -> list[str]:
    """List ids of jobs with a task of unknown outcome, for which there is nothing to ask by."""
    rows = await tx.all(
        "SELECT DISTINCT job_id FROM tasks WHERE step = 'ask' AND task_id IS NULL ORDER BY job_id", ()
    )
    return [row["job_id"] for row in rows]
