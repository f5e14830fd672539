"""``nanohook deliveries``, beside a running service on the same file."""

import asyncio
import contextlib
import sqlite3

import httpx
import orjson

from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from tests import live
from tests.process import child


@contextlib.asynccontextmanager
async def desk(tmp_path):
    """A service with a job under way; yields how to run a command, how to ask SQL, a client, and a callback."""
    async with (
        live.serve(create_sandbox(Options(latency_s=60))) as upstream,
        child.serving(tmp_path, upstream=upstream) as (_, base, env),
    ):

        async def run(*words):
            folder = tmp_path / f"run-{abs(hash(words))}"
            return await child.ran(*words, folder=folder, env=env, cwd=tmp_path)

        def rows(sql, *values):
            with contextlib.closing(sqlite3.connect(tmp_path / "data" / "nanohook.db", timeout=10)) as opened:
                with opened:
                    return opened.execute(sql, values).fetchall()

        made = await run("user", "create", "ada@example.org", "--verified", "--credits", "100")
        headers = {"Authorization": f"Bearer {made.printed.split()[-1]}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
            answer = await client.post("/api/generate-image", json={"prompt": "a kite"})
            job_id = answer.raise_for_status().json()["job_id"]
            await live.until(lambda: rows("SELECT 1 FROM tasks WHERE step = 'ask'"))
            address = (await run("sign", job_id)).printed.strip()

            async def call_back(**said):
                body = {"status": "generating", "data": said}
                return (await client.post(address, json=body)).raise_for_status().json()["delivery_id"]

            yield run, rows, client, call_back, job_id


def refused(run, why):
    assert run.code == 2, run.said + run.printed
    assert why in run.said
    assert run.printed == ""


async def test_deliveries_are_listed_shown_and_replayed_beside_the_service(tmp_path):
    async with desk(tmp_path) as (run, rows, client, call_back, job_id):
        first = await call_back(progress=62)
        second = await call_back(progress=61, note="\x1b[2J\x07é")
        assert (await client.post("/api/webhooks/image-completion/x\x1b", json={})).status_code == 401
        await live.until(lambda: rows("SELECT 1 FROM rejections"))
        rows("UPDATE tasks SET progress = 60")
        rows("UPDATE deliveries SET effect = 'dead', reason = 'KeyError', tries = 8 WHERE id = ?", first)

        text, listed, of_dead, shown, short, none, unknown, nothing, rejected = await asyncio.gather(
            run("deliveries", "list"),
            run("deliveries", "list", "--json", "--limit", "1"),
            run("deliveries", "list", "--effect", "dead", "--job-id", job_id, "--json"),
            run("deliveries", "show", second),
            run("deliveries", "show", first[:7]),
            run("deliveries", "list", "--since", "yesterday"),
            run("deliveries", "show", "ffffffff-ff"),
            run("deliveries", "replay"),
            run("deliveries", "list", "--verdict", "rejected", "--json"),
        )
        refused(short, "at least 8 characters")
        refused(none, "--since must be a time such as")
        refused(unknown, "no delivery whose id begins so")
        refused(nothing, "name deliveries, or a filter")
        lines = text.printed.splitlines()
        assert [second in lines[1], first in lines[2], "dead" in lines[2], "KeyError" in lines[2]] == [True] * 4
        assert f"…{job_id[-8:]}/1/0" in lines[1]
        page = orjson.loads(listed.printed)
        assert (len(page["deliveries"]), page["next_cursor"]) == (1, page["deliveries"][0]["delivery_id"])
        assert [line["delivery_id"] for line in orjson.loads(of_dead.printed)["deliveries"]] == [first]
        # What came from outside is no command to a terminal.
        assert "\\x1b" not in shown.printed
        assert "\x1b" not in shown.printed
        assert "progress" in shown.printed

        [refusal] = orjson.loads(rejected.printed)["deliveries"]
        both = [refusal["delivery_id"], first]
        refused(await run("deliveries", "replay", *both), "does not verify again")
        assert rows("SELECT effect FROM deliveries WHERE id = ?", first) == [("dead",)]

        done = await run("deliveries", "replay", "--effect", "dead", "--json")
        assert done.code == 0, done.said
        assert orjson.loads(done.printed)["effects"] == {"applied": 1}
        assert rows("SELECT effect, reason FROM deliveries WHERE id = ?", first) == [("applied", None)]
        # The service beside us tells whoever looks.
        assert (await client.get(f"/api/images/{job_id}")).json()["progress"] == 62
        again, several = await asyncio.gather(
            run("deliveries", "replay", first), run("deliveries", "show", first[:8], "--json")
        )
        assert f"{first}  no_effect" in again.printed
        # The first digits of an id are its time: deliveries of one minute share them.
        refused(several, "several deliveries")
        audit = rows("SELECT actor, action, subject FROM audit WHERE action LIKE 'deliver%' ORDER BY id")
        assert audit == [
            ("command line", "deliveries.replay", '{"effect":"dead"}'),
            ("command line", "delivery.replay", first),
        ]


async def test_a_replay_that_could_not_be_is_told_by_its_exit_code(tmp_path):
    async with desk(tmp_path) as (run, rows, _, call_back, _):
        delivery_id = await call_back(progress=62)
        rows("UPDATE deliveries SET effect = 'dead', body = x'ff' WHERE id = ?", delivery_id)
        done = await run("deliveries", "replay", delivery_id)
        assert done.code == 1, done.said
        assert f"{delivery_id}  unapplied  NotJson: the body is not JSON" in done.printed
