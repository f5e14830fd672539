"""
The log of deliveries in SQL, as an operator looks at it: those that were taken and those refused, one list.

Two tables, one order: ids of both are UUIDv7, made as a request came in.
"""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import orjson

from nanohook import ids
from nanohook.database import Row, Transaction, Value
from nanohook.stores import shorthand
from nanohook.stores.deliveries import Effect, Source
from nanohook.values import frozen

LOOKED_THROUGH: Final = 1_000
"""Lines looked through for one page where no index finds what is asked for; the next page goes on from there."""
_SLACK_US: Final = 60_000_000
"""A time is looked for by ids, which are made a little before it is noted."""


_FEW: Final = frozenset({Effect.PARKED, Effect.UNAPPLIED, Effect.DEAD})
"""Effects that have an index."""


class Verdict(enum.StrEnum):
    """What the door said."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"


@frozen
class Line:
    """One request to the webhook, or one answer of ``record-info``, without its bytes; times are µs."""

    id: str
    verdict: Verdict
    source: Source | None
    job_id: str | None
    attempt: int | None
    index: int | None
    task_id: str | None
    """As the body names it."""
    effect: Effect | None
    reason: str | None
    received_at: int
    tries: int
    repeats: int
    """How often the same came again."""
    repeated_at: int | None
    bytes: int
    peer: str | None
    """Who sent what was refused."""


@frozen
class Whole:
    """A line, with what came."""

    line: Line
    headers: str
    body: bytes


@frozen
class Filter:
    """Which deliveries; ``None`` means all."""

    verdict: Verdict | None = None
    effect: Effect | None = None
    source: Source | None = None
    job_id: str | None = None
    task_id: str | None = None
    """Of NanoBanana: deliveries of the tasks that have it, and parked ones that name it."""
    since_us: int | None = None
    until_us: int | None = None
    """The first moment that is no longer meant."""

    @property
    def is_of_rejected(self) -> bool:
        """A refused request can be among them: it was never read, so it has no job, no source, no effect."""
        narrows = (self.effect, self.source, self.job_id, self.task_id)
        return self.verdict is not Verdict.ACCEPTED and narrows == (None,) * len(narrows)

    @property
    def is_looked_for(self) -> bool:
        """It takes looking at lines: no index finds it."""
        asked = (self.effect not in _FEW and self.effect, self.source, self.since_us, self.until_us)
        return any(value not in {None, False} for value in asked)

    def written(self) -> str:
        """Write it as JSON, for the audit."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return orjson.dumps(given).decode()

    def holds(self, line: Line) -> bool:
        """Tell whether *line* is meant, beyond what an index has found."""
        return (
            (self.effect is None or line.effect is self.effect)
            and (self.source is None or line.source is self.source)
            and (self.since_us is None or line.received_at >= self.since_us)
            and (self.until_us is None or line.received_at < self.until_us)
        )


class _Part(NamedTuple):
    """What one table gave."""

    lines: list[Line]
    looked_to: str | None
    """The last id that was looked at, if there is more behind it."""


_TAKEN: Final = (
    "SELECT id, source, job_id, attempt, idx, task_id, effect, reason, received_at, tries, repeats, repeated_at, "
    "length(body) AS bytes FROM deliveries"
)
_REFUSED: Final = "SELECT id, reason, received_at, length(body) AS bytes, peer FROM rejections"
_OF_TASK: Final = (
    "id IN (SELECT d.id FROM tasks AS t JOIN deliveries AS d ON d.job_id = t.job_id AND d.attempt = t.attempt "
    "AND d.idx = t.idx WHERE t.task_id = :task_id "
    # Named, or the index of all that are parked is taken.
    "UNION SELECT id FROM deliveries INDEXED BY ix_deliveries_task_id "
    "WHERE task_id = :task_id AND effect = 'parked')"
)


async def page(
    tx: Transaction, wanted: Filter, *, before_id: str | None, most: int
) -> tuple[list[Line], str | None]:
    """
    List deliveries, newest first.

    Returns:
        The page, and the id below which the next one begins; ``None`` after the last. A page may be short, or
        empty, and have a next.
    """
    parts = []
    if wanted.verdict is not Verdict.REJECTED:
        parts.append(await _taken(tx, wanted, beyond=before_id, most=most + 1))
    if wanted.is_of_rejected:
        parts.append(await _refused(tx, wanted, beyond=before_id, most=most + 1))
    # Below where one of the two stopped looking, the other's lines are for the next page.
    horizon = max((part.looked_to for part in parts if part.looked_to is not None), default=None)
    lines = sorted((line for part in parts for line in part.lines), key=lambda line: line.id, reverse=True)
    lines = [line for line in lines if horizon is None or line.id >= horizon]
    return lines[:most], lines[most - 1].id if len(lines) > most else horizon


async def oldest(
    tx: Transaction, wanted: Filter, *, after_id: str | None, most: int
) -> tuple[list[str], str | None]:
    """
    List the ids of deliveries that were taken, oldest first.

    Returns:
        The ids, and the one after which the next begin; ``None`` after the last.
    """
    part = await _taken(tx, wanted, beyond=after_id, most=most + 1, is_oldest_first=True)
    found = [line.id for line in part.lines]
    return found[:most], found[most - 1] if len(found) > most else part.looked_to


async def one(tx: Transaction, delivery_id: str) -> Whole | None:
    """Fetch one, taken or refused, with what came."""
    row = await tx.one(f"{_TAKEN.replace(' FROM', ', headers, body FROM')} WHERE id = ?", (delivery_id,))
    if row is not None:
        return Whole(line=_line_taken(row), headers=row["headers"], body=row["body"])
    row = await tx.one(f"{_REFUSED.replace(' FROM', ', headers, body FROM')} WHERE id = ?", (delivery_id,))
    return None if row is None else Whole(line=_line_refused(row), headers=row["headers"], body=row["body"])


async def taken(tx: Transaction, delivery_ids: Sequence[str]) -> list[str]:
    """List those of the ids that deliveries have which were taken, in no order."""
    sql = f"SELECT id FROM deliveries WHERE id IN ({', '.join('?' * len(delivery_ids))})"
    return [row["id"] for row in await tx.all(sql, tuple(delivery_ids))]


async def named(tx: Transaction, part: str) -> list[str]:
    """List ids, taken or refused, that begin or end with *part*, as ``shorthand.meant`` does."""
    found = await shorthand.meant(tx, "deliveries", part)
    return found + await shorthand.meant(tx, "rejections", part)


async def waiting(tx: Transaction) -> dict[str, int]:
    """Count those that somebody may have to look at, by effect."""
    counted = {}
    for effect in sorted(_FEW):
        row = await tx.one(f"SELECT COUNT(*) AS found FROM deliveries WHERE effect = '{effect.value}'")
        counted[effect.value] = 0 if row is None else int(row["found"])
    return counted


async def _taken(
    tx: Transaction, wanted: Filter, *, beyond: str | None, most: int, is_oldest_first: bool = False
) -> _Part:
    where, values = _bounds(wanted, beyond=beyond, is_oldest_first=is_oldest_first)
    for condition, name, value in (
        ("job_id = :job_id", "job_id", wanted.job_id),
        (_OF_TASK, "task_id", wanted.task_id),
        # The word stands in the statement: the index is of rows with certain words alone.
        (f"effect = '{wanted.effect}'", "effect", wanted.effect if wanted.effect in _FEW else None),
    ):
        if value is not None:
            where.append(condition)
            values[name] = value
    order = "ASC" if is_oldest_first else "DESC"
    sql = f"{_TAKEN} {_where(where)} ORDER BY id {order} LIMIT :most"
    return await _part(tx, sql, values, wanted, _line_taken, most=most)


async def _refused(tx: Transaction, wanted: Filter, *, beyond: str | None, most: int) -> _Part:
    where, values = _bounds(wanted, beyond=beyond)
    sql = f"{_REFUSED} {_where(where)} ORDER BY id DESC LIMIT :most"
    return await _part(tx, sql, values, wanted, _line_refused, most=most)


async def _part(
    tx: Transaction,
    sql: str,
    values: dict[str, Value],
    wanted: Filter,
    line: Callable[[Row], Line],
    *,
    most: int,
) -> _Part:
    limit = max(most, LOOKED_THROUGH) if wanted.is_looked_for else most
    looked = [line(row) for row in await tx.all(sql, {**values, "most": limit})]
    found = [seen for seen in looked if wanted.holds(seen)][:most]
    if len(found) == most:
        return _Part(found, found[-1].id)
    return _Part(found, looked[-1].id if len(looked) == limit else None)


def _bounds(
    wanted: Filter, *, beyond: str | None, is_oldest_first: bool = False
) -> tuple[list[str], dict[str, Value]]:
    """Bound the ids: by the times that are meant, and by the page before."""
    since, until = wanted.since_us, wanted.until_us
    where: list[str] = []
    values: dict[str, Value] = {}
    for condition, name, value in (
        ("id >= :least", "least", None if since is None else ids.earliest(since - _SLACK_US)),
        ("id < :end", "end", None if until is None else ids.earliest(until + _SLACK_US)),
        ("id > :beyond" if is_oldest_first else "id < :beyond", "beyond", beyond),
    ):
        if value is not None:
            where.append(condition)
            values[name] = value
    return where, values


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _line_taken(row: Row) -> Line:
    return Line(
        id=row["id"],
        verdict=Verdict.ACCEPTED,
        source=Source(row["source"]),
        job_id=row["job_id"],
        attempt=row["attempt"],
        index=row["idx"],
        task_id=row["task_id"],
        effect=Effect(row["effect"]),
        reason=row["reason"],
        received_at=row["received_at"],
        tries=row["tries"],
        repeats=row["repeats"],
        repeated_at=row["repeated_at"],
        bytes=row["bytes"],
        peer=None,
    )


def _line_refused(row: Row) -> Line:
    return Line(
        id=row["id"],
        verdict=Verdict.REJECTED,
        source=None,
        job_id=None,
        attempt=None,
        index=None,
        task_id=None,
        effect=None,
        reason=row["reason"],
        received_at=row["received_at"],
        tries=0,
        repeats=0,
        repeated_at=None,
        bytes=row["bytes"],
        peer=row["peer"],
    )
