"""(f) Lists of a person with 100,000 images, beside those of one with 1,000: the number must not matter."""

import asyncio
import contextlib
import pathlib
import sqlite3
import urllib.parse

from nanohook import database, migrations
from nanohook.app import database_path
from nanohook.cli import people
from nanohook.settings import fixed
from tests.bench import line_a, load, processes
from tests.bench.processes import Address
from tests.bench.report import Run, median
from tests.bench.seed import Seeded

_FEW, _MANY, _QUICK = 1_000, 100_000, 20_000
_PROJECTS = 5
_NEED = 1.30
_WARM = 5
"""Answers of each that are not counted."""
_ROUNDS = 65
"""The routes together stay below the 600 reads a minute of a person."""

_PROJECT = "01900000-0000-7000-9000-000000000003"
_ROUTES = {
    "/api/images": {},
    "/api/images?status": {"status": "COMPLETED"},
    "/api/images?status&status": {"status": ["FAILED", "CANCELED"]},
    "/api/images?project_id": {"project_id": _PROJECT},
    "/api/images?q": {"q": "nowhere to be found"},
    "/api/images?scope=all": {"scope": "all"},
    "/api/projects": {},
    "/api/credits": {},
}

# Twenty images in a row have every status; every second twenty are in a project, in turn: a full page of each.
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)"
_JOB = "printf('01900000-0000-7000-8000-%012x', i)"
_STATUS = "CASE WHEN i % 20 = 0 THEN 'CANCELED' WHEN i % 10 = 3 THEN 'FAILED' ELSE 'COMPLETED' END"
_STAGE = f"lower({_STATUS})"
_INTO = f"CASE WHEN i / 20 % 2 THEN printf('01900000-0000-7000-9000-%012x', i / 40 % {_PROJECTS}) END"
_FILE = f"'results/' || {_JOB} || '/1-0-1'"
_FILL = f"""
INSERT INTO projects (id, owner_id, name, created_at, updated_at)
SELECT printf('01900000-0000-7000-9000-%012x', i - 1), :owner, 'Project ' || i, i, i FROM n WHERE i <= {_PROJECTS};

INSERT INTO originals
    (id, owner_id, key, thumbnail_key, content_type, width_px, height_px, bytes, created_at)
SELECT {_JOB}, :owner, 'originals/' || {_JOB}, 'originals/small-' || {_JOB}, 'image/jpeg', 1024, 576, 9, i FROM n;

INSERT INTO jobs
    (id, owner_id, project_id, original_id, status, stage, progress, attempt, prompt, transformation_type, model,
     options, priority, language, metadata, last_event_id, created_at, updated_at, completed_at)
SELECT {_JOB}, :owner, {_INTO}, {_JOB}, {_STATUS}, {_STAGE}, 100, 1, 'a kite over the sea ' || i, 'custom',
    'nano-banana', '{{"num_images":1,"fit":"cover"}}', 'normal', 'en', '{{}}', i, i, i, i FROM n;

INSERT INTO tasks (job_id, attempt, idx, owner_id, task_id, stage, progress)
SELECT {_JOB}, 1, 0, :owner, 'task-' || i, {_STAGE}, 100 FROM n;

INSERT INTO pictures
    (job_id, idx, owner_id, attempt, key, thumbnail_key, content_type, width_px, height_px, bytes, sha256,
     created_at)
SELECT {_JOB}, 0, :owner, 1, {_FILE} || '.jpg', {_FILE} || '-small.jpg', 'image/jpeg', 1024, 576, 9, x'00', i
FROM n WHERE {_STATUS} = 'COMPLETED';

INSERT INTO ledger (owner_id, kind, available, reserved, job_id, attempt, idx, created_at)
SELECT :owner, 'reserve', -4, 4, {_JOB}, 1, 0, i FROM n;

INSERT INTO ledger (owner_id, kind, available, reserved, job_id, attempt, idx, created_at)
SELECT :owner, CASE {_STATUS} WHEN 'COMPLETED' THEN 'charge' ELSE 'return' END,
    CASE {_STATUS} WHEN 'COMPLETED' THEN 0 ELSE 4 END, -4, {_JOB}, 1, 0, i FROM n;
"""
_SUMS = (
    "INSERT INTO job_counts "
    "SELECT owner_id, COALESCE(project_id, ''), status, COUNT(*) FROM jobs GROUP BY 1, 2, 3;"
    "UPDATE balances SET (available, reserved) = (SELECT SUM(available), SUM(reserved) FROM ledger);"
)


def measure(run: Run) -> None:
    """Measure every list on both, in turn."""
    many = _QUICK if run.is_quick else _MANY
    sides = [_seed(run.folder / f"f{count}", count) for count in (_FEW, many)]
    run.say(f"f: seeded {_FEW:,} and {many:,}")
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in _ROUTES}
    for _ in range(run.pairs):
        with contextlib.ExitStack() as stack:
            addresses = [
                stack.enter_context(
                    processes.serving("serve_nanohook", run.folder / "f.log", **line_a.settings(side))
                )
                for side in sides
            ]
            for name, pair in load.run(_pair(run, addresses, sides)).items():
                took[name].append(pair)
    for side in sides:
        side.remove()
    for name, pairs in took.items():
        few, more = median([pair[0] for pair in pairs]), median([pair[1] for pair in pairs])
        ratio = median([pair[1] / pair[0] for pair in pairs])
        run.add(
            f"f  {name}, of {many:,}",
            f"p50 {more * 1e3:.2f} ms",
            yardstick=f"of {_FEW:,} {few * 1e3:.2f} ms",
            ratio=f"{ratio:.2f}",
            need=f"<= {_NEED}",
            is_met=ratio <= _NEED,
        )


async def _pair(run: Run, addresses: list[Address], sides: list[Seeded]) -> dict[str, tuple[float, float]]:
    """Ask both for each list, one after the other."""
    found = {}
    for name, query in _ROUTES.items():
        path = f"{name.partition('?')[0]}?{urllib.parse.urlencode(query, doseq=True)}"
        calls = [
            (address, load.browser_get(address, path, side.api_key))
            for address, side in zip(addresses, sides, strict=True)
        ]
        results = await load.call_in_turn(calls, rounds=_WARM + _ROUNDS)
        for result in results:
            run.check(not result.bad, f"f: {name} was answered {result.bad}")
        few, many = (median(result.took[_WARM:]) for result in results)
        found[name] = few, many
    return found


def _seed(folder: pathlib.Path, count: int) -> Seeded:
    """Make a person with *count* images that have ended, by SQL alone; with what belongs to them but files."""
    where = database_path(fixed(data_dir=folder))
    migrations.upgrade(where)
    api_key, owner_id = asyncio.run(_person(where))
    with contextlib.closing(sqlite3.connect(where)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        for statement in _FILL.split(";\n"):
            if statement.strip():
                into, selected = statement.split("SELECT", 1)
                connection.execute(f"{into}{_NUMBERS} SELECT{selected}", {"count": count, "owner": owner_id})
        connection.executescript(_SUMS)
    return Seeded(folder, api_key, [])


async def _person(where: pathlib.Path) -> tuple[str, str]:
    async with database.open_database(where) as opened:
        account = people.NewAccount(
            email="bench@example.org", is_verified=True, is_admin=True, credits=900_000_000
        )
        api_key = await people.create_in(opened, account)
        return api_key, (await people.person(opened, account.email, credits=0)).id
