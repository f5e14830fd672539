"""``nanohook jobs`` beside a running service: what it prints, what it does to everybody's jobs, its exit codes."""

import dataclasses
import signal
import sys

import orjson
import pytest
import pytest_asyncio

from nanohook.sandbox.options import Options
from tests import books, live, rig
from tests.process import child

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = "ada@example.org"
RUNNING = "[sandbox:latency=60]"
FAILS = "[sandbox:fail=500]"
DAY_US = 24 * 3600 * 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    sandbox = Options(latency_s=0.05, callback_pause_s=0.05)
    async with rig.running(folder / "data", sandbox=sandbox, reconcile_after_s=3600) as running:
        yield running
        books.check(folder / "data")


class Desk:
    """Runs commands beside a service."""

    def __init__(self, service, folder):
        self.folder = folder
        self.env = {
            "NANOHOOK_DATA_DIR": str(service.parts.settings.data_dir),
            "NANOHOOK_PUBLIC_URL": service.base,
        }

    async def all(self, *commands):
        """Run one after the other; returns what came of each."""
        words = orjson.dumps([["jobs", *each] for each in commands]).decode()
        command = (sys.executable, "-m", "tests.process.several", words)
        with child.started(command, self.folder / "several", env=self.env) as running:
            await running.exited(timeout_s=60)
        runs = [Run(**orjson.loads(line)) for line in running.printed.splitlines()]
        assert len(runs) == len(commands), running.said
        return runs


@dataclasses.dataclass(frozen=True)
class Run:
    """A command that has ended."""

    code: int
    printed: str
    said: str


@pytest.fixture
def desk(service, tmp_path):
    return Desk(service, tmp_path)


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def told(run, code=0):
    assert run.code == code, run.said + run.printed
    return orjson.loads(run.printed)


def refused(run, why):
    assert (run.code, run.printed) == (2, "")
    assert why in run.said
    assert "Traceback" not in run.said


async def taken(service, job_id):
    """Wait until NanoBanana has the job's task; return its id."""
    sql = "SELECT task_id FROM tasks WHERE job_id = ? AND task_id IS NOT NULL"
    await live.until(lambda: rows(service, sql, job_id))
    return rows(service, sql, job_id)[0]["task_id"]


async def ended(service, prompt):
    job_id = (await service.generate(prompt))["job_id"]
    await service.ended(job_id)
    return job_id


async def test_a_stuck_job_is_listed_with_its_task_and_told_whole_by_any_of_its_names(service, desk):
    stuck, moving = [(await service.generate(RUNNING))["job_id"] for _ in range(2)]
    uploaded = (await service.upload())["job_id"]
    task_id = await taken(service, stuck)
    await taken(service, moving)
    old = "updated_at = updated_at - 720000000, created_at = created_at - 7500000000"
    rows(service, f"UPDATE jobs SET {old} WHERE id IN (?, ?)", stuck, uploaded)
    done = (await service.upload())["job_id"]
    await service.generate("a kite", imageId=done)
    await service.ended(done)
    runs = await desk.all(
        ("list", "--stuck"),
        ("list", "--stuck", "--json"),
        ("list", "--status", "generating", "--json"),
        ("list", "--owner", "nobody@example.org"),
        ("list", "--owner", ADA, "--limit", "1", "--json"),
        ("show", stuck, "--json"),
        ("show", task_id, "--json"),
        ("show", stuck[-12:], "--json"),
        ("show", stuck),
        ("show", stuck[-7:]),
        ("show", "no-such-job"),
        ("show", moving[:8]),
        ("show", done, "--json"),
    )
    as_text, as_json, listed, of_nobody, of_ada = runs[:5]
    head, line = as_text.printed.splitlines()
    assert head.split() == ["JOB", "STATUS", "STAGE", "%", "AGE", "QUIET", "TASK", "OWNER"]
    assert line.split() == [stuck, "GENERATING", "generating", "60", "2h5m", line.split()[5], task_id, ADA]
    assert line.split()[5].startswith("12m")
    assert [(job["job_id"], job["task_id"], job["owner"]) for job in told(as_json)] == [(stuck, task_id, ADA)]
    assert [job["job_id"] for job in told(listed)] == [moving, stuck]
    assert [job["job_id"] for job in told(of_ada)] == [done]
    refused(of_nobody, "there is no account of this address")

    by_id, by_task, by_end, by_text, short, unknown, several, of_done = runs[5:]
    whole = told(by_id)
    assert whole["job_id"] == told(by_task)["job_id"] == told(by_end)["job_id"] == stuck
    assert (whole["tasks"][0]["task_id"], whole["tasks"][0]["next"], whole["prompt"]) == (task_id, "ask", RUNNING)
    assert [event["stage"] for event in whole["events"]] == ["queued", "submitting", "generating"]
    assert (len(whole["attempts"]), whole["deliveries"], whole["files"]) == (1, [], [])
    lines = by_text.printed.splitlines()
    assert lines[0] == f"job_id         {stuck}"
    assert {"tasks", "attempts", "events", "deliveries: none", "files: none"} <= set(lines)
    refused(short, "there is no such job")
    refused(unknown, "there is no such job")
    refused(several, "several jobs have that")
    whole = told(of_done)
    assert [file["what"] for file in whole["files"]] == ["original", "result 0"]
    assert {(line["source"], line["effect"]) for line in whole["deliveries"]} == {("token", "applied")}
    assert whole["events"][-1]["progress"] == 100


async def test_jobs_are_retried_and_canceled_by_name_and_exit_1_says_that_one_was_not(service, desk):
    failed, another, lost = [await ended(service, FAILS) for _ in range(3)]
    done = await ended(service, "a kite")
    running = (await service.generate(RUNNING))["job_id"]
    rows(service, "UPDATE tasks SET task_id = NULL, candidates = NULL WHERE job_id = ?", lost)
    rows(service, "UPDATE jobs SET error_code = 'unknown_outcome' WHERE id = ?", lost)
    # Once retried it does not fail again.
    rows(service, "UPDATE jobs SET prompt = ? WHERE id = ?", RUNNING, failed)
    retried, stopped, neither, both, unknown, all_failed, again = await desk.all(
        ("retry", failed, lost),
        ("cancel", running, done, "--json"),
        ("retry",),
        ("retry", "--all-failed", "--buy-again"),
        ("retry", failed, "no-such-job"),
        ("retry", "--all-failed", "--json"),
        ("retry", lost, "--buy-again", "--json"),
    )
    assert retried.code == 1
    assert retried.printed.splitlines() == [
        f"{failed}  retried",
        f"{lost}  not retried: NanoBanana may have taken it: --buy-again pays once more",
        "1 job retried, 1 not",
    ]
    assert told(stopped, code=1) == {"canceled": [running], "skipped": [{"job_id": done, "code": "job_ended"}]}
    refused(neither, "name jobs, or give --all-failed")
    refused(both, "--buy-again is for jobs that are named")
    refused(unknown, "no-such-job: there is no such job")
    assert told(all_failed) == {"retried": [another], "skipped": [{"job_id": lost, "code": "may_be_paid"}]}
    assert told(again) == {"retried": [lost], "skipped": []}
    acts = rows(service, "SELECT actor, action FROM audit WHERE subject IN (?, ?) ORDER BY id", lost, running)
    assert [(act["actor"], act["action"]) for act in acts] == [
        ("command line", "job.cancel"),
        ("command line", "job.retry"),
    ]
    for job_id in (failed, another, lost):
        assert (await service.job(job_id))["attempt"] == 2
    for job_id in (another, lost):
        await service.ended(job_id)


async def test_reconciling_asks_at_once_and_says_where_there_is_nothing_to_ask_by(service, desk):
    # Its callback never comes, and the first question is an hour away.
    dropped = (await service.generate("[sandbox:drop] a kite"))["job_id"]
    unknown = (await service.generate("[sandbox:drop][sandbox:reset] a kite"))["job_id"]
    await taken(service, dropped)
    await live.until(lambda: rows(service, "SELECT 1 FROM tasks WHERE job_id = ? AND step = 'ask'", unknown))
    run, neither, everybody_s = await desk.all(
        ("reconcile", dropped, unknown), ("reconcile",), ("reconcile", "--all", "--json")
    )
    assert run.code == 0
    first, second = run.printed.splitlines()
    assert first == "1 task asked for or finished at once"
    assert second.startswith(f"{unknown}  its submit was not answered")
    assert (await service.ended(dropped))["status"] == "COMPLETED"
    refused(neither, "name jobs, or give --all")
    assert told(everybody_s)["unknown"] == [unknown]


async def test_old_failed_jobs_are_cleared_and_can_be_had_back_and_nothing_else_is(service, desk):
    old, young, canceled = [await ended(service, FAILS) for _ in range(3)]
    done, running = await ended(service, "a kite"), (await service.generate(RUNNING))["job_id"]
    rows(service, "UPDATE jobs SET status = 'CANCELED' WHERE id = ?", canceled)
    rows(service, "UPDATE job_counts SET number = number - 1 WHERE status = 'FAILED'")
    rows(
        service,
        "INSERT INTO job_counts SELECT owner_id, '', 'CANCELED', 1 FROM jobs WHERE id = ? "
        "ON CONFLICT DO UPDATE SET number = number + 1",
        canceled,
    )
    week_ago = "UPDATE jobs SET completed_at = completed_at - ? WHERE id IN (?, ?, ?)"
    rows(service, week_ago, 8 * DAY_US, old, canceled, done)
    help_, everything, unsure, completed, age, failed, rest = await desk.all(
        ("clear", "--help"),
        ("clear",),
        ("clear", "--older-than", "7d"),
        ("clear", "--status", "COMPLETED", "--yes"),
        ("clear", "--older-than", "7 days", "--yes"),
        ("clear", "--status", "failed", "--older-than", "7d", "--yes"),
        ("clear", "--older-than", "7d", "--yes", "--json"),
    )
    assert "all that ended" in help_.printed
    # Those of the other tests as well.
    refused(everything, "jobs: say so with --yes")
    assert "this clears 2 jobs" not in everything.said
    refused(unsure, "this clears 2 jobs: say so with --yes")
    refused(completed, "only FAILED and CANCELED jobs can be cleared")
    refused(age, "--older-than: a number and s, m, h or d")
    assert (failed.code, failed.printed) == (0, "1 job cleared\n")
    assert told(rest) == {"cleared": 1}
    found = {job_id: (await service.client.get(f"/api/images/{job_id}")).status_code for job_id in (old, canceled)}
    assert found == {old: 404, canceled: 404}
    for job_id in (young, done, running):
        assert (await service.job(job_id))["job_id"] == job_id
    assert (await service.client.post(f"/api/images/{old}/restore")).json()["status"] == "FAILED"
    assert rows(service, "SELECT action, before FROM audit WHERE subject = ?", old) == [
        {"action": "job.clear", "before": "FAILED"}
    ]


async def test_what_a_failure_and_a_prompt_hold_is_shown_without_what_opens_something(service, desk):
    token = f"1.1.0.{'s' * 43}"
    job_id = await ended(service, f"[sandbox:fail=500] {service.base}/api/webhooks/image-completion/{token}")
    for table, where in (("jobs", "id"), ("tasks", "job_id")):
        detail = f"\x1b[2J {service.base}/api/webhooks/image-completion/{token}"
        rows(service, f"UPDATE {table} SET error_detail = ? WHERE {where} = ?", detail, job_id)
    as_text, as_json = await desk.all(("show", job_id), ("show", job_id, "--json"))
    whole = told(as_json)
    assert (
        whole["detail"]
        == whole["tasks"][0]["detail"]
        == f"\x1b[2J {service.base}/api/webhooks/image-completion/***"
    )
    assert whole["prompt"].endswith("image-completion/***")
    assert as_text.printed.count("\\x1b[2J") == 2
    for run in (as_text, as_json):
        assert [token in run.printed, "\x1b" in run.printed] == [False, False]


async def test_the_work_is_held_drained_and_let_go(tmp_path):
    async with rig.running(tmp_path / "data") as service:
        desk = Desk(service, tmp_path)
        made = await service.ended((await service.generate())["job_id"])
        address = service.upstream.by_id[made["tasks"][0]["task_id"]].result_url
        running = (await service.generate("a kite [sandbox:latency=300]"))["job_id"]
        task_id = await taken(service, running)
        words = (*child.NANOHOOK, "jobs", "drain", "--wait")
        with child.started(words, tmp_path / "waiting", env=desk.env, cwd=tmp_path) as waiting:
            await live.until(lambda: "draining: 1 under way" in waiting.said)
            waiting.process.send_signal(signal.SIGINT)
            assert await waiting.exited() == 1
        assert "still draining; nanohook jobs resume takes it back" in waiting.said
        assert "Traceback" not in waiting.said
        waits = (await service.generate())["job_id"]
        finished = {"code": 200, "data": {"taskId": task_id, "info": {"resultImageUrl": address}}}
        await service.call_back(running, finished)
        drained, resumed, paused = await desk.all(("drain", "--wait"), ("resume",), ("pause", "--json"))
        assert (drained.code, drained.printed) == (0, "drained: 0 under way, 1 waiting\n")
        assert (await service.job(running))["status"] == "COMPLETED"
        assert resumed.printed == "running: 0 under way, 1 waiting\n"
        assert (told(paused)["state"], told(paused)["reason"]) == ("paused", "paused")
        assert (await service.job(waits))["job_id"] == waits
