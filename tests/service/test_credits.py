"""Credits over HTTP: what is set aside, spent and given back; and the ledger is the balance after everything."""

import asyncio
import contextlib
import dataclasses
import random

import httpx
import pytest
import pytest_asyncio

from nanohook import clock
from nanohook.sandbox.options import Options
from nanohook.work.sweep import Sweeper
from tests import books, live, rig
from tests.process.upstream import Patient

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
PRICE = 4
DAY = 24 * 3600 * 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("credits")) as running:
        yield running
        books.check(running.parts.settings.data_dir)


@contextlib.asynccontextmanager
async def person(service, *, credits=100, **more):
    """Somebody of their own for a test; in the end the books are right."""
    email = f"p{clock.now_us()}@example.org"
    key = await rig.make_account(service, email, credits=credits, **more)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=30) as client:
        yield dataclasses.replace(service, client=client)
        books.check(service.parts.settings.data_dir)


async def ledger(one, **query):
    return (await one.client.get("/api/credits", params=query)).raise_for_status().json()


async def balance(one):
    told = await ledger(one, limit=1)
    return told["available"], told["reserved"]


async def kinds(one, job_id):
    """What was entered for a job, oldest first."""
    entries = (await ledger(one, limit=200))["entries"][::-1]
    return [(entry["attempt"], entry["index"], entry["kind"]) for entry in entries if entry["job_id"] == job_id]


async def retry(one, job_id, **body):
    return await one.client.post(f"/api/images/{job_id}/retry", json=body)


async def cancel(one, job_id):
    return (await one.client.post(f"/api/images/{job_id}/cancel")).raise_for_status().json()


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


async def accepted(service, job_id, attempt=1):
    """Wait until every task of a job has its id."""
    sql = "SELECT task_id FROM tasks WHERE job_id = ? AND attempt = ?"
    await live.until(lambda: all(task["task_id"] for task in rows(service, sql, job_id, attempt)))


# What it costs.


@pytest.mark.parametrize(
    ("asked", "each", "number"),
    [
        ({}, 4, 1),
        ({"num_images": 3}, 4, 3),
        ({"model": "nano-banana-2"}, 8, 1),
        ({"model": "nano-banana-2", "resolution": "2K", "num_images": 2}, 12, 2),
        ({"model": "nano-banana-pro", "resolution": "4K", "num_images": 4}, 24, 4),
    ],
)
async def test_an_estimate_tells_what_is_reserved_then(service, asked, each, number):
    async with person(service, credits=200) as one:
        told = (await one.client.get("/api/credits/estimate", params=asked)).raise_for_status().json()
        assert told == {"credits": each * number, "per_image": each, "available": 200, "enough": True}
        made = await one.generate(RUNNING, **asked)
        assert made["credits"] == each * number
        assert await balance(one) == (200 - each * number, each * number)
        assert (await one.job(made["job_id"]))["credits"] == each * number


async def test_an_estimate_says_whether_it_is_enough(service):
    async with person(service, credits=8) as one:
        for number, enough in ((1, True), (2, True), (3, False)):
            told = await one.client.get("/api/credits/estimate", params={"num_images": number})
            assert (told.json()["enough"], told.json()["available"]) == (enough, 8)


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "dall-e"},
        {"model": "nano-banana", "resolution": "1K"},
        {"model": "nano-banana-2", "resolution": "8K"},
        {"model": "nano-banana-2", "resolution": ""},
        {"num_images": 0},
        {"num_images": 5},
        {"num_images": "two"},
        {"num_images": ""},
        {"other": 1},
    ],
    ids=str,
)
async def test_what_cannot_be_asked_has_no_estimate(service, asked):
    refused(await service.client.get("/api/credits/estimate", params=asked), 422, "invalid")


async def test_the_operator_sets_the_prices(tmp_path):
    async with rig.running(tmp_path, prices='{"nano-banana": 7}') as other, person(other, credits=20) as one:
        assert (await one.generate(numImages=2))["credits"] == 14
        refused(await one.client.post("/api/generate-image", json={"prompt": "x"}), 402, "insufficient_credits")


# Reserved with the attempt.


async def test_whoever_has_too_little_gets_402_and_nothing_is_stored(service):
    async with person(service, credits=11) as one:
        uploaded = await one.upload()
        before = rows(service, "SELECT (SELECT COUNT(*) FROM events), (SELECT COUNT(*) FROM ledger)")
        for body in ({"imageId": uploaded["job_id"]}, {}, {"model": "nano-banana-2", "resolution": "2K"}):
            number = 1 if "model" in body else 3
            answer = await one.client.post(
                "/api/generate-image", json={"prompt": "x", "numImages": number, **body}
            )
            refused(answer, 402, "insufficient_credits")
        assert await one.job(uploaded["job_id"]) == uploaded
        listed = (await one.client.get("/api/images")).json()["images"]
        assert [job["job_id"] for job in listed] == [uploaded["job_id"]]
        assert rows(service, "SELECT (SELECT COUNT(*) FROM events), (SELECT COUNT(*) FROM ledger)") == before
        assert await balance(one) == (11, 0)
        assert rows(service, "SELECT 1 FROM tasks WHERE job_id = ?", uploaded["job_id"]) == []


async def test_just_enough_is_enough(service):
    async with person(service, credits=PRICE) as one:
        await one.ended((await one.generate())["job_id"])
        assert await balance(one) == (0, 0)


async def test_fifty_at_once_spend_what_is_there_and_no_more(service):
    async with person(service, credits=7 * PRICE) as one:
        bought = service.upstream.submitted
        asked = {"prompt": RUNNING}
        answers = await asyncio.gather(*(one.client.post("/api/generate-image", json=asked) for _ in range(50)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [202] * 7 + [402] * 43
        assert await balance(one) == (0, 7 * PRICE)
        assert len((await one.client.get("/api/images", params={"limit": 200})).json()["images"]) == 7
        await live.until(lambda: service.upstream.submitted == bought + 7)


# Spent, and given back.


async def test_a_stored_picture_is_charged_once_however_often_it_is_told(service):
    async with person(service) as one:
        job_id = (await one.generate("a kite [sandbox:duplicate=3]", numImages=2))["job_id"]
        assert await balance(one) in {(92, 8), (92, 4), (92, 0)}
        ended = await one.ended(job_id)
        assert (ended["status"], ended["credits"]) == ("COMPLETED", 8)
        await live.until(
            lambda: all(service.upstream.by_id[task["task_id"]].ended.is_set() for task in ended["tasks"])
        )
        assert await balance(one) == (92, 0)
        assert sorted(await kinds(one, job_id)) == [
            (1, index, kind) for index in (0, 1) for kind in ("charge", "reserve")
        ]


@pytest.mark.parametrize("word", ["fail=501", "fail=400", "submit=422"])
async def test_a_failure_is_given_back_and_a_retry_is_owed_again(service, word):
    async with person(service) as one:
        job_id = (await one.generate(f"a kite [sandbox:{word}]"))["job_id"]
        ended = await one.ended(job_id)
        assert (ended["status"], ended["credits"]) == ("FAILED", 0)
        assert await balance(one) == (100, 0)
        assert (await retry(one, job_id)).json()["credits"] == PRICE
        assert (await one.ended(job_id))["status"] == "FAILED"
        assert await balance(one) == (100, 0)
        assert await kinds(one, job_id) == [(n, 0, kind) for n in (1, 2) for kind in ("reserve", "return")]


async def test_a_retry_that_cannot_be_paid_leaves_everything_as_it_was(service):
    async with person(service, credits=PRICE) as one:
        failed = await one.ended((await one.generate("a kite [sandbox:fail=501]"))["job_id"])
        await one.generate(RUNNING)
        refused(await retry(one, failed["job_id"]), 402, "insufficient_credits")
        assert await one.job(failed["job_id"]) == failed


async def test_a_deadline_and_an_unknown_outcome_give_it_back(tmp_path):
    soon = {"job_deadline_s": 0.3, "reconcile_after_s": 0.1, "reconcile_every_s": 0.1}
    async with rig.running(tmp_path, **soon) as other, person(other) as one:
        late = (await one.generate("a kite [sandbox:latency=60]"))["job_id"]
        lost = (await one.generate("a kite [sandbox:reset][sandbox:drop]"))["job_id"]
        for job_id, code in ((late, "deadline"), (lost, "unknown_outcome")):
            ended = await one.ended(job_id)
            assert (ended["error"]["code"], ended["credits"]) == (code, 0)
        assert await balance(one) == (100, 0)
        # What came of the one is not known: buying again is said aloud, and owed.
        refused(await retry(one, lost), 409, "may_be_paid")
        assert (await retry(one, lost, buy_again=True)).json()["credits"] == PRICE


async def test_what_is_canceled_before_its_submit_costs_nothing(tmp_path):
    async with rig.running(tmp_path, open_tasks=1) as other, person(other) as one:
        first = (await one.generate(RUNNING))["job_id"]
        await accepted(other, first)
        waiting = (await one.generate("a kite", numImages=2))["job_id"]
        assert await balance(one) == (100 - 3 * PRICE, 3 * PRICE)
        assert (await cancel(one, waiting))["credits"] == 0
        assert await balance(one) == (100 - PRICE, PRICE)
        assert (await retry(one, waiting)).json()["credits"] == 2 * PRICE
        assert (await one.client.delete(f"/api/images/{waiting}")).status_code == 204
        assert await balance(one) == (100 - PRICE, PRICE)
        assert other.upstream.submitted == 1


async def test_what_is_canceled_later_is_charged_and_had_by_a_retry_for_nothing(service):
    async with person(service) as one:
        bought = service.upstream.submitted
        job_id = (await one.generate("a kite [sandbox:latency=0.3]"))["job_id"]
        await accepted(service, job_id)
        canceled = await cancel(one, job_id)
        assert (canceled["status"], canceled["credits"]) == ("CANCELED", PRICE)
        assert await balance(one) == (100 - PRICE, 0)
        await live.until(service.upstream.by_id[canceled["tasks"][0]["task_id"]].ended.is_set)
        assert await balance(one) == (100 - PRICE, 0)
        answer = await retry(one, job_id)
        assert (answer.status_code, answer.json()["credits"]) == (202, PRICE)
        ended = await one.ended(job_id)
        assert (ended["status"], ended["credits"]) == ("COMPLETED", PRICE)
        assert await kinds(one, job_id) == [(1, 0, "reserve"), (1, 0, "charge")]
        assert service.upstream.submitted == bought + 1


@contextlib.asynccontextmanager
async def holding(folder, **chosen):
    """A NanoBanana that takes or refuses submits at once and tells it only when the gate is open."""
    gate = asyncio.Event()
    options = Options(latency_s=60, callback_pause_s=0.05)
    upstream = Patient(options, held=("POST", "/api/v1/nanobanana"), until=lambda _: gate.is_set())
    async with (
        live.serve(upstream) as url,
        rig.running(folder, nanobanana_url=url, **chosen) as service,
        person(service) as one,
    ):
        try:
            yield one, upstream, gate
        finally:
            gate.set()


@pytest.mark.parametrize(
    ("word", "then"),
    [
        ("submit=422", "nothing"),
        ("submit=422", "retry"),
        ("submit=422", "delete"),
        ("submit=429", "retry"),
        ("submit=402", "nothing"),
    ],
)
async def test_what_nanobanana_refuses_after_a_late_cancel_is_given_back(tmp_path, word, then):
    async with holding(tmp_path) as (one, upstream, gate):
        job_id = (await one.generate(f"a kite [sandbox:{word}]"))["job_id"]
        await upstream.waiting.wait()
        assert (await cancel(one, job_id))["credits"] == PRICE
        assert await balance(one) == (100 - PRICE, PRICE)  # nobody knows yet whether it was taken
        if then == "retry":
            refused(await retry(one, job_id), 409, "may_be_paid")
            assert (await retry(one, job_id, buy_again=True)).status_code == 202
            await cancel(one, job_id)
        elif then == "delete":
            await one.client.delete(f"/api/images/{job_id}")
        gate.set()
        given = "SELECT 1 FROM ledger WHERE job_id = ? AND attempt = 1 AND kind = 'return'"
        await live.until(lambda: rows(one, given, job_id))
        await live.until(lambda: rows(one, "SELECT available FROM balances WHERE available = 100"))
        assert upstream.tasks.submitted == 0


async def test_nobody_gets_two_for_one_by_canceling_while_the_submit_is_on_its_way(tmp_path):
    async with holding(tmp_path) as (one, upstream, gate):
        for number in range(1, 4):
            job_id = (await one.generate(f"kite {number}"))["job_id"]
            await live.until(lambda: upstream.tasks.submitted == 2 * number - 1)  # noqa: B023
            await cancel(one, job_id)
            refused(await retry(one, job_id), 409, "may_be_paid")
            assert (await retry(one, job_id, buy_again=True)).json()["credits"] == 2 * PRICE
            await live.until(lambda: upstream.tasks.submitted == 2 * number)  # noqa: B023
            await cancel(one, job_id)
        gate.set()
        await live.until(lambda: not rows(one, "SELECT 1 FROM tasks WHERE task_id IS NULL"))
        assert upstream.tasks.submitted == 6
        assert await balance(one) == (100 - 6 * PRICE, 0)


async def test_asking_and_canceling_in_loops_buys_no_more_than_is_paid(service):
    chance = random.Random(7)
    async with person(service, credits=60) as one:
        bought = service.upstream.submitted

        async def round_trip(pause_s):
            answer = await one.client.post("/api/generate-image", json={"prompt": RUNNING})
            if answer.status_code == 402:
                return
            job_id = answer.json()["job_id"]
            await asyncio.sleep(pause_s)
            await cancel(one, job_id)
            if pause_s < 0.01:
                await retry(one, job_id, buy_again=True)
                await asyncio.sleep(pause_s)
                await cancel(one, job_id)

        for _ in range(8):
            await asyncio.gather(*(round_trip(chance.choice((0, 0.002, 0.01, 0.03))) for _ in range(5)))
        mine = "SELECT 1 FROM tasks WHERE task_id IS NULL AND submit_started_at IS NOT NULL"
        await live.until(lambda: not rows(service, mine))
        available, reserved = await balance(one)
        assert reserved == 0
        assert (service.upstream.submitted - bought) * PRICE <= 60 - available


async def test_three_pictures_of_which_one_fails(tmp_path):
    seed = one_of_three()
    options = Options(latency_s=0.05, callback_pause_s=0.05, fail_rate=0.4, seed=seed, fail_code=501)
    async with rig.running(tmp_path, sandbox=options) as other, person(other) as one:
        job_id = (await one.generate(numImages=3))["job_id"]
        ended = await one.ended(job_id)
        assert (ended["status"], ended["credits"], len(ended["images"])) == ("COMPLETED", 2 * PRICE, 2)
        assert await balance(one) == (100 - 2 * PRICE, 0)
        answer = await retry(one, job_id)
        assert answer.json()["credits"] == 3 * PRICE
        assert await balance(one) == (100 - 3 * PRICE, PRICE)
        ended = await one.ended(job_id)
        assert (ended["credits"], len(ended["images"]), ended["failed_tasks"]) == (3 * PRICE, 3, [])
        assert await balance(one) == (100 - 3 * PRICE, 0)
        assert len(await kinds(one, job_id)) == 8


def one_of_three():
    """Find a seed by which one of the first three tasks fails and the fourth does not."""
    options = Options(fail_rate=0.4, fail_code=501)
    for seed in range(1_000):
        chances = random.Random(seed)
        fails = [options.behaviour("a kite", chances=chances).fail_code is not None for _ in range(4)]
        if sum(fails) == 1 and not fails[3]:
            return seed
    raise AssertionError("no such seed")


async def test_an_admin_spends_the_owners_credits(service):
    async with person(service, credits=PRICE) as one, person(service, credits=50, is_admin=True) as admin:
        job_id = (await one.generate("a kite [sandbox:fail=501]"))["job_id"]
        await one.ended(job_id)
        assert (await retry(admin, job_id)).status_code == 202
        await one.ended(job_id)
        assert await balance(admin) == (50, 0)
        await one.generate(RUNNING)
        refused(await retry(admin, job_id), 402, "insufficient_credits")


# The ledger.


async def test_the_ledger_outlives_the_job(tmp_path):
    async with rig.running(tmp_path) as other, person(other) as one:
        job_id = (await one.generate())["job_id"]
        await one.ended(job_id)
        before = await ledger(one)
        assert (await one.client.delete(f"/api/images/{job_id}")).status_code == 204
        await Sweeper(other.parts.database, other.parts.storage).sweep(now_us=clock.now_us() + 2 * DAY)
        assert rows(one, "SELECT purged_at IS NOT NULL AS gone FROM jobs") == [{"gone": 1}]
        assert await ledger(one) == before
        assert [entry["job_id"] for entry in before["entries"]] == [job_id, job_id, None]


async def test_the_ledger_is_paged_newest_first_and_sums_to_the_balance(service):
    async with person(service) as one, person(service) as other:
        for _ in range(3):
            await one.ended((await one.generate())["job_id"])
            await one.ended((await one.generate("[sandbox:submit=422] x"))["job_id"])
        whole = await ledger(one, limit=200)
        entries = whole["entries"]
        assert [entry["id"] for entry in entries] == sorted((entry["id"] for entry in entries), reverse=True)
        assert (len(entries), whole["next_cursor"]) == (13, None)
        assert sum(entry["credits"] for entry in entries) == whole["available"] == 100 - 3 * PRICE
        assert sum(entry["reserved"] for entry in entries) == whole["reserved"] == 0
        assert entries[-1] | {"id": 0, "at": ""} == {
            "id": 0,
            "at": "",
            "kind": "grant",
            "credits": 100,
            "reserved": 0,
            "job_id": None,
            "attempt": None,
            "index": None,
            "note": "at the start",
        }
        for limit in (1, 5, 12, 13, 14):
            seen, cursor = [], None
            while cursor is not None or not seen:
                page = await ledger(one, limit=limit, **({} if cursor is None else {"cursor": cursor}))
                assert 1 <= len(page["entries"]) <= limit
                seen += page["entries"]
                cursor = page["next_cursor"]
            assert seen == entries
        assert len((await ledger(other))["entries"]) == 1


@pytest.mark.parametrize(
    "query", [{"cursor": "x"}, {"cursor": "-1"}, {"cursor": "9" * 19}, {"cursor": ""}, {"limit": "0"}], ids=str
)
async def test_a_wrong_cursor_is_named(service, query):
    answer = await service.client.get("/api/credits", params=query)
    refused(answer, 422, "invalid")
    assert [line["field"] for line in answer.json()["errors"]] == list(query)


async def test_nobody_reads_the_credits_of_another(service):
    async with httpx.AsyncClient(base_url=service.base, trust_env=False) as guest:
        for path in ("/api/credits", "/api/credits/estimate"):
            refused(await guest.get(path), 401, "unauthenticated")
