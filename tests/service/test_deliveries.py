"""The log of deliveries: everything that came, for an admin to look at and apply again; nobody else."""

import asyncio
import contextlib
import datetime as dt
import sqlite3

import httpx
import orjson
import pytest
import pytest_asyncio

from nanohook import clock, errors, ids, replays
from nanohook.cli import deliveries as cli
from nanohook.flow import receive
from nanohook.sandbox.options import Options
from nanohook.stores import rejections as store
from nanohook.stores.rejections import Rejection
from nanohook.web import docs, rejections
from tests import conform, lag, live, rig, scripted

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "0192a4b0-0000-7000-8000-000000000000"
DOCUMENT = orjson.loads(docs.written()[0])
# A fault that is real: the database refuses what applying wants to write for one of the jobs.
FAULT = (
    "CREATE TRIGGER fault_{n} BEFORE INSERT ON events WHEN NEW.job_id = '{job_id}' "
    "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    path = tmp_path_factory.mktemp("deliveries")
    async with rig.running(path, sandbox=Options(latency_s=60), reconcile_after_s=3600) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(service):
    async with client_of(service, await rig.make_account(service, "root@example.org", is_admin=True)) as client:
        yield client


def client_of(service, key):
    return httpx.AsyncClient(
        base_url=service.base,
        headers={"Authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=20,
        event_hooks={"response": [conform.Document(DOCUMENT).check]},
    )


def sql(service, statement, *values):
    with sqlite3.connect(service.parts.settings.data_dir / "nanohook.db", timeout=20) as connection:
        return connection.execute(statement, values).fetchall()


async def running_job(service):
    """A job whose task NanoBanana has taken."""
    job_id = (await service.generate())["job_id"]
    await live.until(lambda: sql(service, "SELECT 1 FROM tasks WHERE step = 'ask' AND job_id = ?", job_id))
    return job_id


def progress(percent, **more):
    return {"status": "generating", "data": {"progress": percent, **more}}


async def took(service, job_id, body, **of):
    answer = await service.call_back(job_id, body, **of)
    assert answer.status_code == 200, answer.text
    return answer.json()["delivery_id"]


async def listed(admin, **query):
    answer = await admin.get("/api/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["deliveries"]


async def shown(admin, delivery_id):
    return (await admin.get(f"/api/deliveries/{delivery_id}")).raise_for_status().json()


async def replayed(admin, delivery_id):
    return (await admin.post(f"/api/deliveries/{delivery_id}/replay")).raise_for_status().json()


def audits(service):
    return sql(service, "SELECT action, subject, before, after FROM audit ORDER BY id")


# Looking.


async def test_everything_that_came_is_in_one_list_newest_first(service, admin):
    job_id = await running_job(service)
    first = await took(service, job_id, progress(61))
    refused = await service.client.post("/api/webhooks/image-completion/not-signed", json={"a": 1})
    assert refused.status_code == 401
    await live.until(lambda: sql(service, "SELECT 1 FROM rejections"))
    second = await took(service, job_id, progress(10))
    again = await service.call_back(job_id, progress(61))
    assert again.json() == {"status": "duplicate", "delivery_id": first}

    newest, rejected, oldest = (await listed(admin))[:3]
    assert [newest["delivery_id"], oldest["delivery_id"]] == [second, first]
    assert (newest["effect"], newest["verdict"], newest["source"]) == ("no_effect", "accepted", "token")
    assert newest["reason"]
    assert (rejected["verdict"], rejected["reason"], rejected["effect"]) == ("rejected", "signature_invalid", None)
    assert rejected["peer"] == "127.0.0.1"
    assert (oldest["effect"], oldest["job_id"], oldest["attempt"], oldest["index"]) == ("applied", job_id, 1, 0)
    # The same again is counted on the first, and stored once.
    assert (oldest["repeats"], newest["repeats"]) == (1, 0)
    assert oldest["repeated_at"] >= oldest["received_at"]
    assert oldest["bytes"] == len(orjson.dumps(progress(61)))


async def test_pages_hold_everything_once_in_order(service, admin):
    job_id = await running_job(service)
    for percent in range(61, 66):
        await took(service, job_id, progress(percent))
        await service.client.post("/api/webhooks/image-completion/x", content=b"%d" % percent)
    before = sql(service, "SELECT COUNT(*) FROM rejections")[0][0]
    await service.parts.rejections.flush()
    assert sql(service, "SELECT COUNT(*) FROM rejections")[0][0] >= before
    whole = [line["delivery_id"] for line in await listed(admin, limit=200)]
    assert whole == sorted(whole, reverse=True)
    assert len(whole) == len(set(whole)) >= 6
    for limit in (1, 2, 3):
        found, cursor = [], None
        while True:
            query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = (await admin.get("/api/deliveries", params=query)).json()
            assert len(page["deliveries"]) <= limit
            found += [line["delivery_id"] for line in page["deliveries"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert found == whole


async def test_filters_find_what_they_say(service, admin):
    job_id, other = await running_job(service), await running_job(service)
    [(task_id,)] = sql(service, "SELECT task_id FROM tasks WHERE job_id = ?", job_id)
    before = clock.rfc3339(clock.now_us())
    applied = await took(service, job_id, progress(64))
    idle = await took(service, job_id, progress(3))
    elsewhere = await took(service, other, progress(64))
    # Named by nothing here yet: it waits for a job that has this task.
    parked = await took(service, NOBODY, {"code": 501, "msg": "x", "data": {"taskId": task_id}})
    after = clock.rfc3339(clock.now_us() + 1_000)

    async def found(**query):
        return {line["delivery_id"] for line in await listed(admin, limit=200, **query)}

    assert await found(job_id=job_id) == {applied, idle}
    assert await found(job_id=job_id, effect="applied") == {applied}
    assert await found(task_id=task_id) == {applied, idle, parked}
    assert await found(task_id=task_id, effect="parked") == {parked}
    assert await found(effect="parked", job_id=NOBODY) == {parked}
    assert await found(since=before, until=after, verdict="accepted") == {applied, idle, elsewhere, parked}
    assert await found(since=before, until=before) == set()
    assert elsewhere in await found(source="token", effect="applied")
    assert await found(source="record") == set()
    assert await found(job_id="no such job") == set()
    assert {line["verdict"] for line in await listed(admin, verdict="rejected")} <= {"rejected"}
    assert await found(verdict="rejected", job_id=job_id) == set()
    # What no index finds is looked for a stretch at a time; here one is enough.
    assert await found(effect="no_effect", job_id=job_id, since=before) == {idle}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verdict", "maybe"),
        ("effect", "APPLIED"),
        ("source", "mail"),
        ("since", "yesterday"),
        ("until", "2026-02-30T00:00:00Z"),
        ("since", "2026-04-01T10:00:00"),
        ("limit", "201"),
    ],
)
async def test_a_filter_that_is_none_is_refused_by_name(admin, name, value):
    answer = await admin.get("/api/deliveries", params={name: value})
    assert answer.status_code == 422
    assert [each["field"] for each in answer.json()["errors"]] == [name]
    assert value not in answer.text


async def test_what_came_is_shown_without_what_opens_anything(service, admin):
    job_id = await running_job(service)
    token = service.token(job_id)
    address = f"https://hook.example.org/api/webhooks/image-completion/{token}"
    body = {
        **progress(62, note="é"),
        "paramJson": orjson.dumps({"prompt": "a kite", "callBackUrl": address}).decode(),
        "token": token,
        "key": rig_key(service),
    }
    path = f"/api/webhooks/image-completion/{token}"
    answer = await service.client.post(path, json=body, headers={"Cookie": "secret=1", "X-Origin": address})
    found = await shown(admin, answer.json()["delivery_id"])
    assert "a kite" in found["body"]
    assert "é" in found["body"]
    assert "content-type: application/json" in found["headers"]
    text = orjson.dumps(found).decode().lower()
    for secret in (token, token.rpartition(".")[2], rig_key(service)):
        assert secret.lower() not in text
    assert "authorization" not in text
    assert "cookie" not in text
    # It is masked when it is shown: the bytes are stored as they came.
    [(kept,)] = sql(service, "SELECT body FROM deliveries WHERE id = ?", found["delivery_id"])
    assert token.encode() in kept

    await service.client.post(f"/api/webhooks/image-completion/{token}x", content=b"\xff" + token.encode())
    await service.parts.rejections.flush()
    [rejected] = (await admin.get("/api/deliveries", params={"verdict": "rejected", "limit": 1})).json()[
        "deliveries"
    ]
    assert token.rpartition(".")[2] not in (await admin.get(f"/api/deliveries/{rejected['delivery_id']}")).text


def rig_key(service):
    return service.client.headers["Authorization"].removeprefix("Bearer ")


async def test_only_admins_may(service):
    asked = [
        ("GET", "/api/deliveries"),
        ("GET", f"/api/deliveries/{NOBODY}"),
        ("POST", f"/api/deliveries/{NOBODY}/replay"),
        ("POST", "/api/deliveries/replay"),
        ("POST", "/api/deliveries/test"),
    ]
    before = audits(service)
    async with httpx.AsyncClient(base_url=service.base, trust_env=False) as nobody:
        for method, path in asked:
            assert (await nobody.request(method, path)).status_code == 401
            answer = await service.client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert audits(service) == before


# Applying again.


async def test_the_log_keeps_that_a_delivery_was_applied_once(service, admin):
    job_id = await running_job(service)
    delivery_id = await took(service, job_id, progress(66))
    events = sql(service, "SELECT COUNT(*) FROM events")
    answer = await replayed(admin, delivery_id)
    assert (answer["delivery_id"], answer["effect"]) == (delivery_id, "no_effect")
    assert answer["reason"]
    assert (await shown(admin, delivery_id))["effect"] == "applied"
    assert sql(service, "SELECT COUNT(*) FROM events") == events
    assert audits(service)[-1] == ("delivery.replay", delivery_id, "applied", None)


async def test_what_was_refused_is_not_applied_and_what_is_not_there_is_unknown(service, admin):
    await service.client.post("/api/webhooks/image-completion/x", json=progress(61))
    await service.parts.rejections.flush()
    [rejected] = await listed(admin, verdict="rejected", limit=1)
    answer = await admin.post(f"/api/deliveries/{rejected['delivery_id']}/replay")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_accepted")
    before = audits(service)
    for method, path in (("GET", ""), ("POST", "/replay")):
        for name in (NOBODY, "x", "%00", "'"):
            answer = await admin.request(method, f"/api/deliveries/{name}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    for named in ([NOBODY], [rejected["delivery_id"]]):
        answer = await admin.post("/api/deliveries/replay", json={"delivery_ids": named})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert audits(service) == before


async def dead(service, job_id, percent):
    """A delivery that could not be applied in all its tries."""
    delivery_id = await took(service, job_id, progress(percent))
    sql(service, "UPDATE deliveries SET effect = 'dead', due_at = NULL, tries = 8 WHERE id = ?", delivery_id)
    return delivery_id


async def test_a_dead_one_is_applied_once_its_fault_is_gone(service, admin):
    job_id = await running_job(service)
    sql(service, FAULT.format(n=1, job_id=job_id))
    delivery_id = await dead(service, job_id, 67)

    # The fault is still there: told, and from now on tried again by itself.
    answer = await replayed(admin, delivery_id)
    assert answer == {
        "delivery_id": delivery_id,
        "effect": "unapplied",
        "reason": "IntegrityError: refused by the test",
    }
    waiting = (await admin.get("/metrics")).text
    assert 'nanohook_deliveries_waiting{effect="unapplied"} 1.0' in waiting
    sql(service, "DROP TRIGGER fault_1")
    await live.until(
        lambda: sql(service, "SELECT effect FROM deliveries WHERE id = ?", delivery_id) == [("applied",)],
        timeout_s=20,
    )
    assert (await service.job(job_id))["progress"] == 67

    again = await dead(service, job_id, 68)
    assert (await service.job(job_id))["progress"] == 68
    sql(service, "UPDATE tasks SET progress = 67 WHERE job_id = ?", job_id)
    assert (await replayed(admin, again))["effect"] == "applied"
    line = await shown(admin, again)
    assert (line["effect"], line["reason"]) == ("applied", None)


async def test_several_are_applied_oldest_first_and_a_poisonous_one_holds_up_none(service, admin):
    good, bad = await running_job(service), await running_job(service)
    sql(service, FAULT.format(n=2, job_id=bad))
    named = [await dead(service, good, 61), await dead(service, bad, 61), await dead(service, good, 62)]
    sql(service, "UPDATE tasks SET progress = 60 WHERE job_id = ?", good)
    body = {"effect": "dead", "since": "2020-01-01T00:00:00Z"}
    answer = await admin.post("/api/deliveries/replay", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"replayed": 3, "effects": {"applied": 2, "unapplied": 1}, "next_cursor": None}
    effects = dict(sql(service, "SELECT id, effect FROM deliveries"))
    assert [effects[name] for name in named] == ["applied", "unapplied", "applied"]
    action, subject, _, count = audits(service)[-1]
    assert (action, orjson.loads(subject)["effect"], count) == ("deliveries.replay", "dead", "3")
    sql(service, "DROP TRIGGER fault_2")

    answer = await admin.post("/api/deliveries/replay", json={"delivery_ids": [named[0], named[2], named[0]]})
    assert answer.json() == {"replayed": 2, "effects": {"no_effect": 2}, "next_cursor": None}
    of_none = await admin.post("/api/deliveries/replay", json={"job_id": "none"})
    assert of_none.json() == {"replayed": 0, "effects": {}, "next_cursor": None}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cursor": "x"},
        {"effect": None},
        {"effect": "gone"},
        {"since": 5},
        {"since": "soon"},
        {"delivery_ids": []},
        {"delivery_ids": ["x"] * 1_001},
        {"delivery_ids": ["x"], "effect": "dead"},
        {"everything": True},
        {"job_id": "x" * 513},
    ],
    ids=lambda body: str(body)[:30],
)
async def test_a_replay_of_nothing_in_particular_is_refused(service, admin, body):
    before = audits(service)
    answer = await admin.post("/api/deliveries/replay", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert audits(service) == before


async def test_a_request_replays_a_thousand_and_says_where_to_go_on(service, admin):
    job_id = await running_job(service)
    await took(service, job_id, progress(69))
    # So many more of the same, each with an id of its own.
    more = [(ids.new_id(), b"%d" % number) for number in range(1_004)]
    with sqlite3.connect(service.parts.settings.data_dir / "nanohook.db", timeout=20) as connection:
        connection.executemany(
            "INSERT INTO deliveries (id, owner_id, source, job_id, attempt, idx, headers, body, body_sha256, "
            "effect, received_at) SELECT ?1, owner_id, source, job_id, attempt, idx, headers, body, "
            "?2, 'no_effect', received_at FROM deliveries WHERE job_id = ?3 LIMIT 1",
            [(*each, job_id) for each in more],
        )
    answer = await admin.post("/api/deliveries/replay", json={"job_id": job_id})
    first = answer.json()
    assert first["replayed"] == 1_000
    body = {"job_id": job_id, "cursor": first["next_cursor"]}
    assert (await admin.post("/api/deliveries/replay", json=body)).json()["replayed"] == 5
    page = (await admin.get("/api/deliveries", params={"job_id": job_id, "source": "record", "limit": 200})).json()
    assert (page["deliveries"], page["next_cursor"] is not None) == ([], True)


async def test_large_ones_are_applied_again_without_holding_up_the_others(service, admin):
    job_id = await running_job(service)
    large = b'{"status":"generating","data":{"n":%d},"x":[' + b"{}," * 330_000 + b"1]}"
    for number in range(20):
        path = f"/api/webhooks/image-completion/{service.token(job_id)}"
        assert (await service.client.post(path, content=large % number)).status_code == 200
    await took(service, job_id, progress(61))
    async with lag.seen() as seen:
        answer = await admin.post("/api/deliveries/replay", json={"job_id": job_id})
    assert answer.json() == {"replayed": 21, "effects": {"no_effect": 21}, "next_cursor": None}
    assert seen.worst_s < 0.1


async def test_so_many_share_a_commit_as_are_small_together(service):
    job_id = await running_job(service)
    size = replays.AT_ONCE_BYTES // 3
    names = [await took(service, job_id, progress(61, pad="x" * size, n=number)) for number in range(3)]
    names += [await took(service, job_id, progress(61, n=number)) for number in range(2)]

    async def share(*chosen):
        chunk, looked_at = await service.parts.database.read(lambda tx: replays._load(tx, chosen))
        return [delivery.id for delivery in chunk], looked_at

    assert replays.AT_ONCE_BYTES == 256 * 1024
    assert await share(*names) == (names[:2], 2)
    assert await share(NOBODY, *names[2:], NOBODY) == (names[2:], 5)
    # In order, and none is left out.
    receipts = await replays.replay(service.parts.database, names, terms=service.parts.terms)
    assert [receipt.delivery_id for receipt in receipts] == names


# Testing the way in.


async def test_the_service_tests_its_own_public_address(service, admin):
    answer = (await admin.post("/api/deliveries/test")).raise_for_status().json()
    assert (answer["ok"], answer["http_status"], answer["reason"]) == (True, 200, None)
    assert answer["sent_to"] == service.base.removeprefix("http://")
    line = await shown(admin, answer["delivery_id"])
    assert (line["effect"], line["reason"], line["verdict"]) == ("no_effect", "a test callback", "accepted")
    assert audits(service)[-1][:2] == ("deliveries.test", answer["sent_to"])
    # Each is one of its own.
    assert (await admin.post("/api/deliveries/test")).json()["delivery_id"] != answer["delivery_id"]


@contextlib.contextmanager
def reached_at(service, url):
    """The internet reaches the service elsewhere, or nowhere."""
    address = service.parts.terms.address
    before, address.url = address.url, url
    try:
        yield
    finally:
        address.url = before


OURS = "x-request-id: 1\r\n"
"""What an answer of a service of this kind has."""


async def test_without_a_public_address_there_is_nothing_to_test(service, admin):
    before = audits(service)
    with reached_at(service, None):
        answer = await admin.post("/api/deliveries/test")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_public_url")
    assert audits(service) == before


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (scripted.http(b"<html>Visit site</html>", kind="text/html"), 200, "service (HTTP 200, text/html)"),
        (scripted.http({"code": "signature_invalid"}, status=401, headers=OURS), 401, "with other keys"),
        (scripted.http({"delivery_id": NOBODY}, headers=OURS), 200, "another data dir"),
        (scripted.http({"delivery_id": NOBODY}), 200, "another service (HTTP 200, application/json)"),
        (scripted.http([1], headers=OURS), 200, "another service"),
        (scripted.http(b"{", headers=OURS), 200, "another service"),
        (scripted.refused(401), 401, "lets nobody through"),
        (scripted.http(b"", status=302, headers="location: /x\r\n"), 302, "another service (HTTP 302"),
        (scripted.http(b"x" * 200_000, status=502, kind="text/plain"), 502, "another service (HTTP 502"),
        (scripted.CUT, None, "is not reached: no answer (RemoteProtocolError)"),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_a_test_that_does_not_come_in_says_why(service, admin, answer, status, reason):
    async with live.serve_raw(scripted.Server(answer).handle) as other:
        with reached_at(service, other):
            told = (await admin.post("/api/deliveries/test")).raise_for_status().json()
    assert (told["ok"], told["http_status"], told["delivery_id"]) == (False, status, None)
    assert reason in told["reason"]
    assert "image-completion" not in str(told)


async def test_a_test_of_an_address_where_nobody_answers_says_so(service, admin):
    with reached_at(service, f"http://127.0.0.1:{live.closed_port()}"):
        told = (await admin.post("/api/deliveries/test")).raise_for_status().json()
    assert (told["ok"], told["http_status"]) == (False, None)
    assert "is not reached: no connection" in told["reason"]


# By the command line; see also tests/process.


async def test_an_id_may_be_named_by_its_beginning_or_end_if_it_is_the_only_one(service, admin):
    job_id = await running_job(service)
    delivery_id = await took(service, job_id, progress(61))
    await took(service, job_id, progress(62))
    odd = "ffffffff-0000-7000-8000-00000000000a"
    sql(service, f"INSERT INTO rejections VALUES ('{odd}', 'x', 'p', '', x'', 1)")

    async def replay(*names):
        return await cli.replay_named(service.parts.database, list(names), terms=service.parts.terms)

    for names, why in (
        ([delivery_id[:7]], "at least 8 characters"),
        (["fffffffe"], "no delivery whose id begins or ends so"),
        (["%%%%%%%%"], "no delivery whose id begins or ends so"),
        # The first digits of an id are its time: deliveries of one minute share them.
        ([delivery_id[:8]], "several deliveries"),
        ([odd[:8], delivery_id], "does not verify again"),
    ):
        with pytest.raises(errors.ConfigError, match=why):
            await replay(*names)
    before = audits(service)
    [receipt] = await replay(delivery_id[:-1], delivery_id[-8:], delivery_id)
    assert (receipt.delivery_id, receipt.effect) == (delivery_id, "no_effect")
    assert audits(service) == [*before, ("delivery.replay", delivery_id, None, None)]
    sql(service, "DELETE FROM rejections")


# Bounds.


async def park(service, many, *, job_id):
    """Store *many* parked deliveries of a job that is not here, half of a second task."""
    with sqlite3.connect(service.parts.settings.data_dir / "nanohook.db", timeout=20) as connection:
        connection.executemany(
            "INSERT INTO deliveries (id, source, job_id, attempt, idx, headers, body, body_sha256, effect, "
            "received_at) VALUES (?, 'token', ?, 1, 0, '', x'7b7d', ?, 'parked', 1)",
            [(ids.new_id(), job_id, b"%d" % number) for number in range(many)],
        )


async def test_callbacks_for_jobs_that_are_not_here_have_bounds(service, admin):
    unknown, other = ids.new_id(), ids.new_id()
    await park(service, receive.TASK_DELIVERIES, job_id=unknown)
    answer = await service.call_back(unknown, progress(61))
    assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
    assert await took(service, unknown, progress(61), index=1)

    here = await running_job(service)
    await park(service, receive.MOST_PARKED - len(sql(service, PARKED)), job_id=other)
    assert (await service.call_back(ids.new_id(), progress(61))).status_code == 429
    # A real one is not theirs.
    assert await took(service, here, progress(61))
    assert len(sql(service, PARKED)) == receive.MOST_PARKED
    page = await listed(admin, effect="parked", job_id=other, limit=200)
    assert len(page) == 200
    sql(service, "DELETE FROM deliveries WHERE effect = 'parked'")


PARKED = "SELECT 1 FROM deliveries WHERE effect = 'parked'"


async def test_a_flood_of_rejections_stays_within_bounds_and_costs_no_callback_its_200(service):
    """Of 2,400 bad requests from 12 addresses, and 60 callbacks meanwhile."""
    service.parts.rejections.total = 0
    sql(service, "DELETE FROM rejections")
    job_id = await running_job(service)
    bad = b"".join(
        b"POST /api/webhooks/image-completion/%d.1.1 HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n%b"
        % (number, b"x" * 20)
        for number in range(100)
    )
    waiting = []

    async def flood(peer):
        host, port = service.base.removeprefix("http://").split(":")
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port), local_addr=(peer, 0))
            writer.write(bad)
            answered = b""
            while answered.count(b"HTTP/1.1 401") < 100:
                answered += await reader.read(65_536)
                waiting.append(service.parts.rejections.waiting)
            writer.close()
            await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(flood(f"127.0.0.{number + 1}"))
        codes = [(await service.call_back(job_id, progress(61, n=number))).status_code for number in range(60)]
    assert codes == [200] * 60
    assert service.parts.rejections.total == 2_400
    await service.parts.rejections.flush()
    kept = dict(sql(service, "SELECT peer, COUNT(*) FROM rejections GROUP BY peer"))
    # Twice as many where the minute changed in between.
    assert 0 < sum(kept.values()) <= 2 * rejections.KEPT_A_MINUTE
    assert max(kept.values()) <= 2 * rejections.KEPT_A_MINUTE_AND_PEER
    assert max(waiting) <= rejections.KEPT_A_MINUTE


async def test_rejections_are_kept_by_number_and_age(service):
    def refused(number, *, age_us):
        now = clock.now_us() - age_us
        name = ids.earliest(now)[:-12] + f"{number:012d}"
        return Rejection(id=name, reason="x", peer="p", headers="", body=b"", received_at=now)

    sql(service, "DELETE FROM rejections")
    some = [refused(number, age_us=10_000_000 - number) for number in range(8)]
    old = refused(99, age_us=100_000_000)
    database = service.parts.database
    oldest_us = clock.now_us() - 50_000_000
    await database.write(lambda tx: store.insert(tx, [old, *some], most=5, oldest_us=oldest_us))
    assert [name for (name,) in sql(service, "SELECT id FROM rejections ORDER BY id")] == [
        each.id for each in some[3:]
    ]
    await database.write(lambda tx: store.forget(tx, most=5, oldest_us=clock.now_us()))
    assert sql(service, "SELECT id FROM rejections") == []


async def test_times_are_utc(admin):
    [line] = await listed(admin, limit=1)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(line["received_at"])
    assert abs(age) < dt.timedelta(minutes=5)
