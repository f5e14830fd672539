"""Lists of jobs in SQL: along an index, or looked through for words."""

import time
from dataclasses import dataclass
from typing import Final

from nanohook.database import Row, Transaction, Value
from nanohook.rules.job import Job
from nanohook.rules.status import ImageJobStatus
from nanohook.stores import jobs
from nanohook.values import replace

LOOKED_THROUGH: Final = 1_000
"""Jobs whose prompts are looked through for one page: no index finds a part of a text."""
SEARCH_S: Final = 1.0
"""How long prompts are looked through for one page, rests and all: a page that is short has a next."""
_WORK_S: Final = 0.0005
_REST_S: Final = 0.004
_REST_MORE: Final = 0.02
"""
After some prompts, or one long one, a search rests: others need the interpreter for a fraction of that. A long one
rests for longer, by a part of what it has taken: most are over in a few hundredths of a second.
"""
LISTED_PROMPT_CHARS: Final = 500
"""Of each prompt in a list; the whole of it is fetched with its job."""
# One more than is shown: so it is known whether there is more.
_LISTED: Final = jobs.SELECT.replace("jobs.prompt", f"substr(jobs.prompt, 1, {LISTED_PROMPT_CHARS + 1}) AS prompt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which jobs to list; ``None`` or nothing means all."""

    owner_id: str | None
    statuses: tuple[ImageJobStatus, ...] = ()
    project_id: str | None = None
    text: str | None = None
    """Part of the prompt."""
    task_id: str | None = None
    ids: tuple[str, ...] = ()
    """These alone."""
    before_id: str | None = None
    """The page begins below this id."""


async def page(tx: Transaction, wanted: Filter, *, most: int) -> tuple[list[Job], str | None]:
    """
    List jobs, newest first, of each prompt the beginning alone: these are to be looked at, and never stored.

    Returns:
        The page, and the id below which the next one begins; ``None`` after the last. A page of a search may be
        short, or empty, and have a next.
    """
    if wanted.text:
        return await _search(tx, wanted, wanted.text.casefold(), most=most)
    found = [_listed(row) for row in await _rows(tx, _LISTED, wanted, most=most + 1)]
    return found[:most], found[most - 1].id if len(found) > most else None


async def _search(tx: Transaction, wanted: Filter, words: str, *, most: int) -> tuple[list[Job], str | None]:
    names = [row["id"] for row in await _rows(tx, "SELECT id FROM jobs", wanted, most=LOOKED_THROUGH)]
    found: list[Job] = []
    look = _Look()
    for number, name in enumerate(names, start=1):
        # Compared here: LIKE takes the product of two lengths, which a person may choose. One by one: SQLite lets
        # go of the interpreter for each, so that others have their turn, and no two prompts are in memory.
        row = await tx.one("SELECT prompt FROM jobs WHERE id = ?", (name,))
        if row is not None and words in (row["prompt"] or "").casefold():
            listed = await tx.one(f"{_LISTED} WHERE id = ?", (name,))
            if listed is not None:
                found.append(_listed(listed))
        is_last = number == len(names) < LOOKED_THROUGH
        if not is_last and (len(found) == most or look.is_over()):
            return found, name
    return found, names[-1] if len(names) == LOOKED_THROUGH else None


class _Look:
    """The time of one search, which leaves most of the interpreter's to others."""

    def __init__(self) -> None:
        self._began = time.thread_time()
        self._ends_at = time.monotonic() + SEARCH_S
        self._rest_at = self._began + _WORK_S

    def is_over(self) -> bool:
        """Tell whether the time is over; rest, if it is time for that."""
        now = time.thread_time()
        if now > self._rest_at:
            time.sleep(_REST_S + _REST_MORE * (now - self._began))
            self._rest_at = now + _WORK_S
        return time.monotonic() > self._ends_at


async def _rows(tx: Transaction, select: str, wanted: Filter, *, most: int) -> list[Row]:
    """Read the newest jobs that are wanted, whatever their prompts are."""
    where, values = _conditions(wanted)
    sql = _newest(select, where, wanted.statuses)
    return await tx.all(sql, {**values, **_named(wanted.statuses), "most": most})


def _conditions(wanted: Filter) -> tuple[list[str], dict[str, Value]]:
    where = ["deleted_at IS NULL"]
    values: dict[str, Value] = {}
    for condition, name, value in (
        ("owner_id = :owner_id", "owner_id", wanted.owner_id),
        ("project_id = :project_id", "project_id", wanted.project_id),
        ("id IN (SELECT job_id FROM tasks WHERE task_id = :task_id)", "task_id", wanted.task_id),
        ("id < :before_id", "before_id", wanted.before_id),
    ):
        if value is not None:
            where.append(condition)
            values[name] = value
    if wanted.ids:
        named = {f"id{number}": job_id for number, job_id in enumerate(wanted.ids)}
        where.append(f"id IN ({', '.join(f':{name}' for name in named)})")
        values.update(named)
    return where, values


def _newest(select: str, where: list[str], statuses: tuple[ImageJobStatus, ...]) -> str:
    """Compose the newest ``:most`` of each status, together: each is read along its own stretch of an index."""
    end = "ORDER BY id DESC LIMIT :most"
    if not statuses:
        return f"{select} WHERE {' AND '.join(where)} {end}"
    each = [f"SELECT * FROM ({_newest(select, [*where, f'status = :{name}'], ())})" for name in _named(statuses)]
    return each[0] if len(each) == 1 else f"{' UNION ALL '.join(each)} {end}"


def _named(statuses: tuple[ImageJobStatus, ...]) -> dict[str, Value]:
    return {f"status{number}": status.value for number, status in enumerate(statuses)}


def _listed(row: Row) -> Job:
    """Read a job from ``_LISTED``."""
    job = jobs.read(row)
    if job.prompt is None or len(job.prompt) <= LISTED_PROMPT_CHARS:
        return job
    return replace(job, prompt=job.prompt[:LISTED_PROMPT_CHARS], is_prompt_cut=True)
