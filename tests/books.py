"""The books of a data folder: the ledger against the balances and the tasks, the counts against the jobs."""

import collections
import pathlib
import sqlite3
from typing import Any

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


def check(data_dir: pathlib.Path) -> None:
    """Check the books of a service that is running or has stopped, in one snapshot."""
    with sqlite3.connect(data_dir / "nanohook.db", isolation_level=None) as connection:
        connection.execute("BEGIN")
        audit(connection)


def audit(connection: sqlite3.Connection) -> None:
    """
    Check that the ledger is the balance, that what is reserved is reserved for an open task, and the counts.

    Each task of an attempt is entered in one of four ways: reserved; reserved and charged; reserved and returned;
    reserved, charged, and returned after all.
    """
    ledger = of(connection, "SELECT * FROM ledger")
    _check_sums(connection, ledger)
    _check_entries(connection, [entry for entry in ledger if entry["job_id"] is not None])
    counted = of(connection, "SELECT owner_id, project_id, status, number FROM job_counts WHERE number > 0")
    there_are = of(
        connection,
        "SELECT owner_id, COALESCE(project_id, '') AS project_id, status, COUNT(*) AS number FROM jobs "
        "WHERE deleted_at IS NULL GROUP BY 1, 2, 3",
    )
    assert sorted(map(tuple, map(dict.values, counted))) == sorted(map(tuple, map(dict.values, there_are)))


def _check_sums(connection: sqlite3.Connection, ledger: list[dict[str, Any]]) -> None:
    sums: collections.Counter[tuple[str, str]] = collections.Counter()
    for entry in ledger:
        for half in ("available", "reserved"):
            sums[entry["owner_id"], half] += entry[half]
    for balance in of(connection, "SELECT * FROM balances"):
        for half in ("available", "reserved"):
            assert balance[half] == sums.pop((balance["owner_id"], half), 0)
            assert balance[half] >= 0
    assert not sums


def _check_entries(connection: sqlite3.Connection, ledger: list[dict[str, Any]]) -> None:
    of_task: dict[tuple[str, int, int], dict[str, tuple[int, int]]] = collections.defaultdict(dict)
    for entry in ledger:
        kinds = of_task[entry["job_id"], entry["attempt"], entry["idx"]]
        assert entry["kind"] not in kinds
        kinds[entry["kind"]] = entry["available"], entry["reserved"]
    open_tasks = {
        (task["job_id"], task["attempt"], task["idx"])
        for task in of(connection, "SELECT * FROM tasks")
        if task["stage"] not in FINAL_STAGES
    }
    for key, kinds in of_task.items():
        price = kinds["reserve"][1]
        assert kinds["reserve"] == (-price, price)
        if "charge" in kinds:
            assert kinds["charge"] == (0, -price)
            assert kinds.get("return") in {None, (price, 0)}
        elif "return" in kinds:
            assert kinds["return"] == (price, -price)
        # Set aside exactly as long as the task may still bring a picture.
        assert (set(kinds) == {"reserve"}) is (key in open_tasks), key
