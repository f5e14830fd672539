"""Control over the work: many retried at once, pause and drain, figures, the place in the line."""

import orjson
import pytest
import pytest_asyncio

from nanohook.sandbox.options import Options
from nanohook.web import docs, jobs
from tests import books, live, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = orjson.loads(docs.written()[0])
RUNNING = "[sandbox:latency=60]"
FAILS = "[sandbox:fail=500] a kite"
REFUSED = "[sandbox:submit=422] a kite"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("work"), open_tasks=500) as running:
        yield running
        books.check(running.parts.settings.data_dir)


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    made = await rig.person(service, document=DOCUMENT)
    async with made.client:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def admin(service):
    made = await rig.person(service, document=DOCUMENT, is_admin=True)
    async with made.client:
        yield made


async def ended(one, *prompts, **more):
    """Jobs of *prompts* that have ended, by id."""
    made = [(await one.generate(prompt, **more))["job_id"] for prompt in prompts]
    for job_id in made:
        await one.ended(job_id)
    return made


async def retry(one, scope=None, **body):
    params = {} if scope is None else {"scope": scope}
    answer = await one.client.post("/api/jobs/retry", json=body, params=params)
    assert answer.status_code == 202, answer.text
    return answer.json()


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


async def attempts(one, *job_ids):
    return [(await one.job(job_id))["attempt"] for job_id in job_ids]


async def unknown(one):
    """A job of which nobody knows whether NanoBanana took it."""
    [job_id] = await ended(one, REFUSED)
    rows(one, "UPDATE tasks SET submit_started_at = 1 WHERE job_id = ?", job_id)
    rows(one, "UPDATE jobs SET error_code = 'unknown_outcome' WHERE id = ?", job_id)
    return job_id


# Many retried at once.


async def test_those_named_are_retried_and_the_others_told_why_not(service, one):
    failed, refused_one = await ended(one, FAILS, REFUSED)
    done, running = (await ended(one, "a kite"))[0], (await one.generate(RUNNING))["job_id"]
    lost, another = await unknown(one), (await ended(service, FAILS))[0]
    asked = [failed, failed, refused_one, done, running, lost, another, "unknown"]
    assert await retry(one, job_ids=asked) == {
        "retried": [failed, refused_one],
        "skipped": [
            {"job_id": done, "code": "not_failed"},
            {"job_id": running, "code": "not_failed"},
            {"job_id": lost, "code": "may_be_paid"},
            {"job_id": another, "code": "not_found"},
            {"job_id": "unknown", "code": "not_found"},
        ],
        "next_cursor": None,
    }
    assert await attempts(one, failed, refused_one, lost) == [2, 2, 1]


async def test_all_that_failed_are_those_for_whom_it_can_help(one):
    failed, refused_one, canceled = [*await ended(one, FAILS, REFUSED), (await one.generate(RUNNING))["job_id"]]
    await one.client.post(f"/api/images/{canceled}/cancel")
    lost = await unknown(one)
    assert await retry(one, all_failed=True) == {
        "retried": [failed],
        "skipped": [{"job_id": lost, "code": "may_be_paid"}],
        "next_cursor": None,
    }
    assert await attempts(one, failed, refused_one, canceled) == [2, 1, 1]


async def test_all_that_failed_go_on_from_a_cursor(one):
    made = await ended(one, FAILS, FAILS, FAILS)
    # Newest first, below the cursor.
    assert (await retry(one, all_failed=True, cursor=made[1]))["retried"] == [made[0]]
    assert (await retry(one, all_failed=True))["retried"] == [made[2], made[1]]


async def test_one_request_looks_at_a_thousand_and_says_where_to_go_on(tmp_path):
    async with rig.running(tmp_path) as service:
        [failed] = await ended(service, FAILS)
        names = [row["name"] for row in rows(service, "SELECT name FROM pragma_table_info('jobs')")]
        copied = ", ".join({"id": "'z' || n", "error_code": "'too_large'"}.get(name, name) for name in names)
        rows(
            service,
            "WITH RECURSIVE numbers(n) AS (SELECT 1001 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000 + 1) "
            f"INSERT INTO jobs SELECT {copied} FROM jobs, numbers WHERE id = ?",
            failed,
        )
        first = await retry(service, all_failed=True)
        assert first == {"retried": [], "skipped": [], "next_cursor": "z1002"}
        assert jobs.MOST == 1_000
        second = await retry(service, all_failed=True, cursor=first["next_cursor"])
        assert second == {"retried": [failed], "skipped": [], "next_cursor": None}


async def test_who_cannot_pay_for_one_is_told_so_and_pays_for_the_others(service):
    poor = await rig.person(service, document=DOCUMENT, credits=8)
    async with poor.client:
        two, single = [(await ended(poor, FAILS, numImages=number))[0] for number in (2, 1)]
        await poor.generate(RUNNING)
        told = await retry(poor, job_ids=[two, single])
        assert (told["retried"], told["skipped"]) == ([single], [{"job_id": two, "code": "insufficient_credits"}])


async def test_an_admin_retries_everybody_s_only_when_asking_for_that(service, one, admin):
    [failed] = await ended(one, FAILS)
    assert (await retry(admin, job_ids=[failed]))["skipped"] == [{"job_id": failed, "code": "not_found"}]
    assert (await retry(admin, job_ids=[failed], scope="all"))["retried"] == [failed]
    assert rows(service, "SELECT action, after FROM audit WHERE subject = ?", failed) == [
        {"action": "job.retry", "after": "PENDING"}
    ]
    answer = await one.client.post("/api/jobs/retry?scope=all", json={"all_failed": True})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_asked_twice_what_runs_is_left_alone_and_no_answer_is_kept(one):
    [failed] = await ended(one, FAILS)
    rows(one, "UPDATE jobs SET prompt = ? WHERE id = ?", RUNNING, failed)
    asked = {"json": {"job_ids": [failed]}, "headers": {"Idempotency-Key": "a-key"}}
    first, again = [(await one.client.post("/api/jobs/retry", **asked)) for _ in range(2)]
    assert (first.json()["retried"], again.json()["retried"]) == ([failed], [])
    assert again.json()["skipped"] == [{"job_id": failed, "code": "not_failed"}]
    assert "idempotent-replayed" not in again.headers
    assert await attempts(one, failed) == [2]
    assert rows(one, "SELECT 1 FROM idempotency WHERE route = 'jobs/retry'") == []


async def test_of_names_that_are_none_only_the_first_is_told(one):
    answer = await one.client.post("/api/jobs/retry", json={"job_ids": [1] * 7_000})
    assert [line["field"] for line in answer.json()["errors"]] == ["job_ids.0"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"job_ids": []},
        {"job_ids": ["x"] * 201},
        {"job_ids": ["x"], "all_failed": True},
        {"all_failed": False},
        {"job_ids": ["x"], "cursor": "x"},
        {"job_ids": ["x"], "buy_again": True},
    ],
)
async def test_either_names_or_all(one, body):
    answer = await one.client.post("/api/jobs/retry", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_what_needs_its_picture_fetched_anew_is_not_retried_without_a_public_address(tmp_path):
    async with rig.running(tmp_path) as service:
        image, known = (await service.upload())["job_id"], (await service.upload())["job_id"]
        for job_id, prompt in ((image, "[sandbox:submit=422] a kite"), (known, FAILS)):
            await service.generate(prompt, imageId=job_id)
            await service.ended(job_id)
        rows(service, "UPDATE jobs SET error_code = 'upstream_failed' WHERE id = ?", image)
        key = service.client.headers["Authorization"]
    async with rig.running(tmp_path, sign_up=False, public_url=None) as service:
        service.client.headers["Authorization"] = key
        told = await retry(service, all_failed=True)
        assert told["skipped"] == [{"job_id": image, "code": "no_public_url"}]
        # NanoBanana is asked first for what it has of the other.
        assert told["retried"] == [known]


# Pause, drain, and the place in the line.


@pytest_asyncio.fixture(loop_scope="module")
async def quiet(tmp_path):
    """A service of its own, whose work may stand still, and its admin."""
    async with rig.running(tmp_path, sandbox=Options(latency_s=0.2, callback_pause_s=0.05)) as running:
        boss = await rig.person(running, document=DOCUMENT, is_admin=True)
        async with boss.client:
            yield running, boss


async def work(boss, verb):
    return (await boss.client.post(f"/api/work/{verb}")).raise_for_status().json()


async def status(one, job_id, language="en"):
    return (await one.client.get(f"/api/images/{job_id}/status")).raise_for_status().json()


async def test_a_pause_holds_every_submit_until_it_is_taken_back(quiet):
    service, boss = quiet
    paused = await work(boss, "pause")
    assert {**paused, "since": None} == {
        "state": "paused",
        "reason": "paused",
        "since": None,
        "under_way": 0,
        "waiting": 0,
    }
    first = (await service.generate())["job_id"]
    answer = await service.client.post(
        "/api/generate-image", json={"prompt": "un cerf-volant"}, headers={"Accept-Language": "fr"}
    )
    second = answer.json()["job_id"]
    told = await status(service, first)
    assert (told["status"], told["stage"], told["progress"]) == ("PENDING", "queued", 10)
    assert (told["place"], told["estimated_wait_s"]) == (1, None)
    assert told["message"] == "Waiting: the operator has paused the work"
    assert (await status(service, second))["message"] == "En attente : l'exploitant a suspendu le travail"
    assert (await service.job(second))["message"].startswith("En attente : ")
    listed = (await service.client.get("/api/images")).json()["images"]
    assert [job["message"][:10] for job in listed] == ["En attente", "Waiting: t"]
    assert ((await status(service, second))["place"], service.upstream.submitted) == (2, 0)
    # A second pause keeps the time of the first.
    assert await work(boss, "pause") == {**paused, "waiting": 2}
    resumed = await work(boss, "resume")
    assert (resumed["state"], resumed["reason"], resumed["since"]) == ("running", None, None)
    for job_id in (first, second):
        assert (await service.ended(job_id))["status"] == "COMPLETED"
    told = await status(service, first)
    assert (told["place"], told["estimated_wait_s"], told["message"]) == (None, None, "The picture is ready")
    acts = rows(service, "SELECT action FROM audit WHERE subject = 'work'")
    assert [act["action"] for act in acts] == ["work.pause", "work.resume"]


async def test_draining_ends_when_nothing_is_under_way(quiet):
    service, boss = quiet
    job_id = (await service.generate())["job_id"]
    await live.until(lambda: service.upstream.submitted == 1)
    draining = await work(boss, "drain")
    assert (draining["state"], draining["under_way"]) == ("draining", 1)
    waits = (await service.generate())["job_id"]
    assert (await service.ended(job_id))["status"] == "COMPLETED"
    drained = (await boss.client.get("/api/stats?scope=all")).json()["work"]
    assert (drained["state"], drained["under_way"], drained["waiting"]) == ("drained", 0, 1)
    assert drained["since"] == draining["since"]
    await work(boss, "resume")
    assert (await service.ended(waits))["status"] == "COMPLETED"


async def test_who_waits_is_told_the_place_and_how_long(tmp_path):
    async with rig.running(tmp_path, open_tasks=1) as service:
        running = (await service.generate(RUNNING))["job_id"]
        await live.until(lambda: service.upstream.submitted == 1)
        waits = [(await service.generate(RUNNING))["job_id"] for _ in range(3)]
        told = [await status(service, job_id) for job_id in waits]
        assert [each["place"] for each in told] == [1, 2, 3]
        # One at a time, 45 seconds each as long as none has ended.
        assert [each["estimated_wait_s"] for each in told] == [45.0, 90.0, 135.0]
        assert [each["message"] for each in told] == ["Waiting for its turn"] * 3
        last = (await service.generate(RUNNING, priority="high"))["job_id"]
        assert [(await status(service, job_id))["place"] for job_id in (last, *waits)] == [1, 2, 3, 4]
        assert (await status(service, running))["place"] is None


async def test_the_figures_are_ones_own_or_everybody_s(quiet):
    service, boss = quiet
    other = await rig.person(service, document=DOCUMENT)
    async with other.client:
        for _ in range(3):
            await service.ended((await service.generate())["job_id"])
        await service.ended((await service.generate(REFUSED))["job_id"])
        await work(boss, "pause")
        await other.generate()
        own = (await service.client.get("/api/stats")).json()
        theirs = (await other.client.get("/api/stats")).json()
        mine = (await boss.client.get("/api/stats")).json()
        everybody_s = (await boss.client.get("/api/stats", params={"scope": "all"})).json()
        assert (await other.client.get("/api/stats?scope=all")).status_code == 403
    assert (own["counts"]["COMPLETED"], own["counts"]["FAILED"], own["counts"]["PENDING"]) == (3, 1, 0)
    assert (own["waiting"], own["oldest_waiting_s"], own["under_way"], own["attention"]) == (0, None, 0, None)
    assert (theirs["waiting"], theirs["counts"]["PENDING"], theirs["run_s"]) == (1, 1, {"p50": None, "p95": None})
    assert 0 <= theirs["oldest_waiting_s"] < 10
    assert (everybody_s["waiting"], everybody_s["counts"]["COMPLETED"]) == (1, 3)
    assert everybody_s["attention"] == {"parked": 0, "unapplied": 0, "dead": 0, "unclaimed": 0}
    # Why one's own wait is everybody's to know; how much there is of others' is an admin's.
    paused = {"state": "paused", "reason": "paused", "since": everybody_s["work"]["since"]}
    assert own["work"] == theirs["work"] == mine["work"] == paused
    assert everybody_s["work"] == {**paused, "waiting": 1, "under_way": 0}
    assert everybody_s["throughput_per_hour"] == own["throughput_per_hour"] >= 3
    for told in (own, everybody_s):
        assert 0.2 <= told["run_s"]["p50"] <= told["run_s"]["p95"] < 10
        assert 0 <= told["wait_s"]["p50"] <= told["wait_s"]["p95"] < 10


async def test_only_admins_hold_the_work(one):
    for verb in ("pause", "resume", "drain"):
        answer = await one.client.post(f"/api/work/{verb}")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


# Results that came too late.


async def test_a_result_that_came_after_the_cancel_is_taken_when_its_owner_or_an_admin_wants_it(
    service, one, admin
):
    for who in (one, admin):
        job_id = (await one.generate("[sandbox:latency=0.3] a kite"))["job_id"]
        path = f"/api/images/{job_id}/accept-late"
        running = await who.client.post(path)
        assert (running.status_code, running.json()["code"]) == (409, "job_running")
        await live.until(lambda: rows(one, "SELECT 1 FROM tasks WHERE job_id = ? AND task_id > ''", job_id))  # noqa: B023
        await one.client.post(f"/api/images/{job_id}/cancel")
        await live.until(lambda: rows(one, "SELECT 1 FROM unclaimed WHERE job_id = ?", job_id))  # noqa: B023
        job = (await who.client.post(path)).raise_for_status().json()
        assert (job["status"], len(job["images"]), job["credits"]) == ("COMPLETED", 1, 4)
        again = await who.client.post(path)
        assert (again.status_code, again.json()["code"]) == (409, "nothing_late")
        acts = rows(service, "SELECT action FROM audit WHERE subject = ?", job_id)
        assert [act["action"] for act in acts] == ["job.accept_late"] * (who is admin)
