"""``nanohook deliveries``, in a process of its own beside a running service on the same file."""

import asyncio
import contextlib
import sqlite3

import orjson
import pytest
from typer import testing

from nanohook import errors
from nanohook.cli import deliveries
from nanohook.sandbox.options import Options
from tests import live, rig
from tests.process import child


async def test_deliveries_are_listed_shown_and_replayed_beside_the_service(tmp_path):
    def rows(sql, *values):
        with contextlib.closing(sqlite3.connect(tmp_path / "nanohook.db", timeout=10)) as opened, opened:
            return opened.execute(sql, values).fetchall()

    async def run(*words):
        folder = tmp_path / "logs" / "-".join(words)[:60]
        return await child.ran(
            "deliveries", *words, folder=folder, env={"NANOHOOK_DATA_DIR": str(tmp_path)}, cwd=tmp_path
        )

    async with rig.running(tmp_path, sandbox=Options(latency_s=60)) as service:
        job_id = (await service.generate())["job_id"]
        await live.until(lambda: rows("SELECT 1 FROM tasks WHERE step = 'ask'"))
        first, second = [
            (await service.call_back(job_id, {"status": "generating", "data": {"progress": percent}})).json()[
                "delivery_id"
            ]
            for percent in (62, 61)
        ]
        assert (await service.call_back(job_id, "\x1b[2J\x07é".encode())).status_code == 400
        await service.parts.rejections.flush()
        [(odd,)] = rows("SELECT id FROM rejections")
        rows("UPDATE tasks SET progress = 60")
        rows("UPDATE deliveries SET effect = 'dead', reason = 'KeyError', tries = 8 WHERE id = ?", first)

        text, of_dead, shown = await asyncio.gather(
            run("list"),
            run("list", "--effect", "dead", "--job-id", job_id, "--limit", "1", "--json"),
            run("show", f"…{odd[-8:]}"),
        )
        lines = text.printed.splitlines()
        assert [odd[-8:] in lines[0], second[-8:] in lines[1], first[-8:] in lines[2]] == [True] * 3
        assert ["not_json" in lines[0], "dead" in lines[2], "KeyError" in lines[2]] == [True] * 3
        assert f"{job_id[-8:]}/1/0" in lines[1]
        page = orjson.loads(of_dead.printed)
        assert ([line["delivery_id"] for line in page["deliveries"]], page["next_cursor"]) == ([first], None)
        # What came from outside is no command to a terminal.
        assert shown.printed.endswith("\\x1b[2J\\x07é\n")

        done = await run("replay", "--effect", "dead", "--json")
        assert done.code == 0, done.said
        assert orjson.loads(done.printed)["effects"] == {"applied": 1}
        assert rows("SELECT effect, reason FROM deliveries WHERE id = ?", first) == [("applied", None)]
        # The service beside us tells whoever looks.
        assert (await service.job(job_id))["progress"] == 62

        rows("UPDATE deliveries SET effect = 'dead', body = x'ff' WHERE id = ?", second)
        failed = await run("replay", second)
        assert failed.code == 1, failed.said
        assert f"{second[-8:]}  unapplied  NotJson: the body is not JSON" in failed.printed
        audit = rows("SELECT actor, action, subject FROM audit WHERE action LIKE 'deliver%' ORDER BY id")
        assert audit == [
            ("command line", "deliveries.replay", '{"effect":"dead"}'),
            ("command line", "delivery.replay", second),
        ]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["list", "--since", "yesterday"], "--since must be a time such as"),
        (["replay", "--until", "2026-02-30T00:00:00Z", "--effect", "dead"], "--until there is no such day"),
        (["replay"], "name deliveries, or a filter"),
        (["replay", "0192a4b0", "--effect", "dead"], "name deliveries, or a filter"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(words, why):
    asked = testing.CliRunner().invoke(deliveries.commands, words)
    assert isinstance(asked.exception, errors.ConfigError)
    assert why in str(asked.exception)
