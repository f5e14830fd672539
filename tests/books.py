"""The books of a data folder: what `doctor --audit` checks in the rows, and the ledger's entries one by one."""

import collections
import json
import pathlib
import sqlite3
from typing import Any

from nanohook import clock, settings, units
from nanohook.cli import integrity as audits
from nanohook.cli.findings import Level
from nanohook.stores import integrity

FINAL_STAGES = ("completed", "failed", "canceled")


def rows(data_dir: pathlib.Path, sql: str, *values: object) -> list[dict[str, Any]]:
    """Read the database of *data_dir*, or change it."""
    with sqlite3.connect(data_dir / "nanohook.db") as connection:
        return of(connection, sql, *values)


def of(connection: sqlite3.Connection, sql: str, *values: object) -> list[dict[str, Any]]:
    """Read an open database as dictionaries."""
    found = connection.execute(sql, values)
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def pass_time(data_dir: pathlib.Path, *, seconds: int) -> None:
    """Let *seconds* have passed for every result that waits to be fetched again."""
    with sqlite3.connect(data_dir / "nanohook.db", isolation_level=None, timeout=30) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for task in of(connection, "SELECT * FROM tasks WHERE step = 'finish' AND held = 0 AND due_at > 1"):
            candidates = json.loads(task["candidates"] or "[]")
            for each in candidates:
                each["began"] = [[for_us, at - seconds * 1_000_000] for for_us, at in each.get("began", ())]
            connection.execute(
                "UPDATE tasks SET due_at = 1, candidates = ? WHERE job_id = ? AND attempt = ? AND idx = ?",
                (json.dumps(candidates) if candidates else None, *_key(task)),
            )
        connection.execute("COMMIT")


def check(data_dir: pathlib.Path) -> None:
    """Check the books of a service that is running or has stopped, in one snapshot."""
    with sqlite3.connect(data_dir / "nanohook.db", isolation_level=None) as connection:
        connection.execute("BEGIN")
        audit(connection)


def audit(connection: sqlite3.Connection) -> None:
    """
    Check that the rows agree, and how the ledger came to what it is.

    Each task of an attempt is entered in one of four ways: reserved; reserved and charged; reserved and returned;
    reserved, charged, and returned after all; in the third, what came late may be charged after all.
    """
    for each in integrity.CHECKS:
        found = () if each.is_warning else wrong(connection, each)
        assert found == (), f"{each.title}: {found}"
    _check_entries(connection, of(connection, "SELECT * FROM ledger WHERE job_id IS NOT NULL"))


def wrong(connection: sqlite3.Connection, check: integrity.Check) -> tuple[str, ...]:
    """Examples of what *check* finds."""
    connection.row_factory, former = sqlite3.Row, connection.row_factory
    found = units.drive(lambda tx: integrity.wrong(tx, check), units.Transaction(connection))
    connection.row_factory = former
    return found.examples


def _check_entries(connection: sqlite3.Connection, ledger: list[dict[str, Any]]) -> None:
    of_task: dict[tuple[str, int, int], dict[str, tuple[int, int]]] = collections.defaultdict(dict)
    for entry in ledger:
        kinds = of_task[entry["job_id"], entry["attempt"], entry["idx"]]
        assert entry["kind"] not in kinds
        kinds[entry["kind"]] = entry["available"], entry["reserved"]
    every = of(connection, "SELECT * FROM tasks")
    open_tasks = {_key(task) for task in every if task["stage"] not in FINAL_STAGES}
    # Canceled, and nobody knows whether NanoBanana has it.
    unknown = {
        _key(task)
        for task in every
        if (task["stage"], task["step"], task["task_id"], task["candidates"]) == ("canceled", "ask", None, None)
    }
    for key, kinds in of_task.items():
        price = kinds["reserve"][1]
        assert kinds["reserve"] == (-price, price)
        if "charge" in kinds:
            turns = kinds["charge"], kinds.get("return")
            assert turns in {((0, -price), None), ((0, -price), (price, 0)), ((-price, 0), (price, -price))}
        elif "return" in kinds:
            assert kinds["return"] == (price, -price)
        # Set aside exactly as long as the task may still bring a picture.
        assert (set(kinds) == {"reserve"}) is (key in open_tasks) or key in unknown, key


def _key(task: dict[str, Any]) -> tuple[str, int, int]:
    return task["job_id"], task["attempt"], task["idx"]


async def audited(data_dir: pathlib.Path) -> list[str]:
    """What `doctor --audit` finds wrong in rows and files, in its own words."""
    chosen = settings.fixed(data_dir=data_dir)
    verdicts = audits.examine(chosen, now_us=clock.now_us(), progress=lambda _number: None)
    return [line async for verdict in verdicts if verdict.level is not Level.OK for line in verdict.lines()]
