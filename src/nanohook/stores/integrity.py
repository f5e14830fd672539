"""
Whether the rows agree with each other, in SQL that only reads: each statement finds what is wrong.

What the schema cannot prove is that a second purchase was right. A retry buys anew where NanoBanana has failed or
no longer knows the task, or because its caller said so; which of these it was is in the log and in the deliveries,
not in a column. Nor do the rows know of a task that NanoBanana took without our hearing of it. So three things are
looked for that are wrong whatever the reason: one task for two pictures, a second task beside one that is still
open, and a second task where the first has brought its picture.
"""

from typing import Final

from nanohook.database import Transaction
from nanohook.rules.job import Step
from nanohook.rules.status import ImageJobStatus, Stage
from nanohook.stores import events
from nanohook.values import frozen

MOST_EXAMPLES: Final = 10

_FINAL: Final = ", ".join(f"'{status}'" for status in ImageJobStatus if status.is_final)
_ENDED: Final = ", ".join(f"'{stage}'" for stage in Stage if stage.is_final)
_TASK: Final = "{0}.job_id || ' attempt ' || {0}.attempt || ' task ' || {0}.idx"


@frozen
class Check:
    """One thing that must be so."""

    name: str
    title: str
    sql: str
    """Its rows are what is wrong: each has an ``example``, in words and ids."""
    is_warning: bool = False
    """What is found is for a person to look at, and no fault of the books."""


@frozen
class Wrong:
    """What a check found."""

    number: int
    examples: tuple[str, ...]
    """``MOST_EXAMPLES`` of them at most."""


_BALANCE: Final = """
SELECT owner_id || ' available ' || SUM(available) || ' reserved ' || SUM(reserved) || ' too many' AS example
FROM (
    SELECT owner_id, available, reserved FROM balances
    UNION ALL SELECT owner_id, -available, -reserved FROM ledger
) GROUP BY owner_id HAVING SUM(available) != 0 OR SUM(reserved) != 0
"""

# A task that is open has its price set aside; so has one that was canceled, while nobody knows whether NanoBanana
# has it. Any other that has ended cost its price, or nothing.
_RESERVED: Final = f"""
SELECT {_TASK.format("entries")} || ' reserved ' || entries.reserved || ' spent ' || -entries.available AS example
FROM (
    SELECT job_id, attempt, idx, SUM(available) AS available, SUM(reserved) AS reserved,
        SUM(CASE kind WHEN 'reserve' THEN reserved ELSE 0 END) AS price
    FROM ledger WHERE job_id IS NOT NULL GROUP BY job_id, attempt, idx
) AS entries
LEFT JOIN tasks ON tasks.job_id = entries.job_id AND tasks.attempt = entries.attempt AND tasks.idx = entries.idx
WHERE CASE WHEN tasks.stage NOT IN ({_ENDED}) OR (tasks.stage = '{Stage.CANCELED}' AND tasks.step = '{Step.ASK}'
        AND tasks.task_id IS NULL AND tasks.candidates IS NULL AND entries.reserved != 0)
    THEN entries.reserved != entries.price OR entries.available != -entries.price
    ELSE entries.reserved != 0 OR entries.available NOT IN (0, -entries.price) END
"""

_COUNTS: Final = """
SELECT owner_id || ' ' || status || ' ' || SUM(number) || ' too many' AS example FROM (
    SELECT owner_id, project_id, status, number FROM job_counts
    UNION ALL SELECT owner_id, COALESCE(project_id, ''), status, -1 FROM jobs WHERE deleted_at IS NULL
) GROUP BY owner_id, project_id, status HAVING SUM(number) != 0
"""

# Who waits for a callback alone has its deadline as its due time; who is being worked on, the end of a lease.
_OWNED: Final = f"""
SELECT jobs.id || ' ' || jobs.status || ': ' || COUNT(tasks.idx) || ' open tasks, '
    || COUNT(tasks.due_at) || ' of them due' AS example
FROM jobs LEFT JOIN tasks
    ON tasks.job_id = jobs.id AND tasks.attempt = jobs.attempt AND tasks.stage NOT IN ({_ENDED})
WHERE jobs.attempt > 0 AND jobs.purged_at IS NULL GROUP BY jobs.id
HAVING COUNT(tasks.idx) != COUNT(CASE WHEN tasks.due_at IS NOT NULL THEN tasks.step END)
    OR (COUNT(tasks.idx) = 0) != (jobs.status IN ({_FINAL}))
"""

_COMPLETED: Final = f"""
SELECT jobs.id || ' has no picture' AS example FROM jobs
WHERE status = '{ImageJobStatus.COMPLETED}' AND purged_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM pictures WHERE pictures.job_id = jobs.id)
UNION ALL SELECT {_TASK.format("tasks")} || ' has no picture' FROM tasks
JOIN jobs ON jobs.id = tasks.job_id AND jobs.attempt = tasks.attempt AND jobs.purged_at IS NULL
WHERE tasks.stage = '{Stage.COMPLETED}'
    AND NOT EXISTS (SELECT 1 FROM pictures WHERE pictures.job_id = tasks.job_id AND pictures.idx = tasks.idx)
"""

_TWICE: Final = f"""
SELECT 'task ' || task_id || ' of ' || COUNT(DISTINCT job_id || ' ' || idx) || ' pictures' AS example
FROM tasks WHERE task_id IS NOT NULL
GROUP BY task_id HAVING MIN(job_id) != MAX(job_id) OR MIN(idx) != MAX(idx)
UNION ALL SELECT {_TASK.format("tasks")} || ' is open beside a later attempt' FROM tasks
JOIN tasks AS later ON later.job_id = tasks.job_id AND later.idx = tasks.idx AND later.attempt = tasks.attempt + 1
WHERE tasks.stage NOT IN ({_ENDED})
UNION ALL SELECT {_TASK.format("later")} || ' was bought where there was a picture' FROM tasks
JOIN tasks AS later ON later.job_id = tasks.job_id AND later.idx = tasks.idx AND later.attempt = tasks.attempt + 1
WHERE tasks.stage = '{Stage.COMPLETED}' AND later.task_id IS NOT NULL AND later.task_id IS NOT tasks.task_id
"""

# An ended job's events may have gone with the years; an open one's are there.
_TOLD: Final = f"""
SELECT jobs.id || ' is ' || jobs.status || ' ' || jobs.progress || ' %, its event ' || jobs.last_event_id
    || CASE WHEN told.id IS NULL THEN ' is missing' WHEN newest.id != told.id THEN ' is not the newest'
    ELSE ' says ' || COALESCE(json_extract(told.payload, '$.status'), 'nothing') || ' '
        || COALESCE(json_extract(told.payload, '$.progress'), '') END AS example
FROM jobs LEFT JOIN events AS told ON told.id = jobs.last_event_id AND told.job_id = jobs.id
LEFT JOIN events AS newest ON newest.id = (SELECT MAX(id) FROM events WHERE job_id = jobs.id)
WHERE jobs.deleted_at IS NULL AND CASE WHEN told.id IS NULL
    THEN newest.id IS NOT NULL OR jobs.last_event_id > COALESCE(
        (SELECT CAST(value AS INTEGER) FROM facts WHERE name = '{events.REMOVED_TO}'), 0)
    ELSE newest.id != told.id OR json_extract(told.payload, '$.status') IS NOT jobs.status
        OR json_extract(told.payload, '$.stage') IS NOT jobs.stage
        OR json_extract(told.payload, '$.progress') IS NOT jobs.progress
        OR json_extract(told.payload, '$.attempt') IS NOT jobs.attempt END
"""

_LEFT: Final = """
SELECT id || ' ' || effect || COALESCE(': ' || reason, '') AS example FROM deliveries
WHERE effect = 'dead' UNION ALL
SELECT id || ' ' || effect || COALESCE(': ' || reason, '') FROM deliveries WHERE effect = 'unapplied'
"""

CHECKS: Final = (
    Check(name="ledger", title="the ledger is the balance", sql=_BALANCE),
    Check(name="reserved", title="what is reserved is reserved for an open task", sql=_RESERVED),
    Check(name="counts", title="the counts are those of the jobs", sql=_COUNTS),
    Check(name="open", title="every open job has a due time or an owner, no ended one an open task", sql=_OWNED),
    Check(name="completed", title="every completed job has its pictures", sql=_COMPLETED),
    Check(name="paid_once", title="no task was submitted twice", sql=_TWICE),
    Check(name="events", title="the last event is the job's state", sql=_TOLD),
    Check(name="deliveries", title="no delivery is dead or unapplied", sql=_LEFT, is_warning=True),
)


async def wrong(tx: Transaction, check: Check) -> Wrong:
    """Do *check*."""
    rows = await tx.all(f"SELECT example, COUNT(*) OVER () AS number FROM ({check.sql}) LIMIT {MOST_EXAMPLES}")
    return Wrong(number=rows[0]["number"] if rows else 0, examples=tuple(str(row["example"]) for row in rows))
