"""The same request under the same Idempotency-Key: done once, answered as often as it comes."""

import asyncio
import socket

import pytest
import pytest_asyncio

from tests import books, live, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
DAY = 24 * 3600 * 1_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("once")) as running:
        yield running
        books.check(running.parts.settings.data_dir)


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    made = await rig.person(service)
    async with made.client:
        yield made


async def generate(one, key, body=None, **more):
    headers = {} if key is None else {"Idempotency-Key": key}
    content = more or {"json": body or {"prompt": RUNNING}}
    return await one.client.post("/api/generate-image", headers=headers, **content)


async def retry(one, job_id, key, **body):
    path = f"/api/images/{job_id}/retry"
    return await one.client.post(path, headers={"Idempotency-Key": key}, json=body)


async def job_ids(one):
    images = (await one.client.get("/api/images", params={"limit": 200})).raise_for_status().json()["images"]
    return [job["job_id"] for job in images]


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert "idempotent-replayed" not in answer.headers


async def test_the_same_request_again_gets_the_first_answer_and_starts_nothing(one):
    bought = one.upstream.submitted
    first = await generate(one, "a-key")
    assert (first.status_code, first.headers.get("idempotent-replayed")) == (202, None)
    job_id = first.json()["job_id"]
    await live.until(lambda: one.upstream.submitted == bought + 1)
    assert (await one.client.post(f"/api/images/{job_id}/cancel")).status_code == 200
    # The job has moved on; the answer has not.
    for _ in range(2):
        again = await generate(one, "a-key")
        assert (again.status_code, again.content) == (202, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.headers["content-type"] == first.headers["content-type"]
    assert await job_ids(one) == [job_id]
    assert one.upstream.submitted == bought + 1


async def test_without_a_key_each_request_is_one_of_its_own(one):
    assert len({(await generate(one, None)).json()["job_id"] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"json": {"prompt": RUNNING + "!"}},
        {"json": {"prompt": RUNNING, "numImages": 1}},
        {"content": b'{"prompt":  "[sandbox:latency=60]"}'},
    ],
    ids=["other", "more", "spaced"],
)
async def test_the_key_of_another_request_is_refused(one, other):
    first = await generate(one, "a-key", content=b'{"prompt": "[sandbox:latency=60]"}')
    refused(await generate(one, "a-key", **other), 422, "key_reused")
    assert await job_ids(one) == [first.json()["job_id"]]


async def test_keys_are_each_persons_own(service, one):
    other = await rig.person(service)
    async with other.client:
        first, second = await generate(one, "a-key"), await generate(other, "a-key")
        third = await generate(other, "a-key", {"prompt": RUNNING + " another"})
        assert first.json()["job_id"] != second.json()["job_id"]
        assert "idempotent-replayed" not in second.headers
        refused(third, 422, "key_reused")


async def test_keys_are_each_routes_own(one):
    first = await generate(one, "a-key", {"prompt": "[sandbox:submit=422] a kite"})
    job_id = first.json()["job_id"]
    await one.ended(job_id)
    second = await retry(one, job_id, "a-key")
    assert (second.status_code, second.json()["attempt"]) == (202, 2)
    assert "idempotent-replayed" not in second.headers


async def test_a_retry_is_done_once(one):
    made = [(await one.generate("[sandbox:submit=422] a kite"))["job_id"] for _ in range(2)]
    for job_id in made:
        await one.ended(job_id)
    first = await retry(one, made[0], "again")
    await one.ended(made[0])
    # Failed once more, so that without the key this would be a third attempt.
    again = await retry(one, made[0], "again")
    assert (again.status_code, again.content, again.headers["idempotent-replayed"]) == (202, first.content, "true")
    assert (await one.job(made[0]))["attempt"] == 2
    refused(await retry(one, made[0], "again", buy_again=True), 422, "key_reused")
    # Another job is another request, though the body is the same.
    refused(await retry(one, made[1], "again"), 422, "key_reused")
    assert (await one.job(made[1]))["attempt"] == 1


async def test_an_uploaded_picture_is_started_once_and_its_twin_hears_of_no_conflict(one):
    uploaded = (await one.upload())["job_id"]
    body = {"prompt": RUNNING, "imageId": uploaded}
    answers = await asyncio.gather(*(generate(one, "a-key", body) for _ in range(5)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    refused(await generate(one, "b-key", body), 409, "job_running")


async def test_twenty_twins_at_once_are_one(one):
    bought = one.upstream.submitted
    answers = await asyncio.gather(*(generate(one, "twins") for _ in range(20)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(202, answers[0].content)}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await job_ids(one) == [answers[0].json()["job_id"]]
    await live.until(
        lambda: rows(
            one, "SELECT 1 FROM tasks WHERE task_id IS NOT NULL AND job_id = ?", answers[0].json()["job_id"]
        )
    )
    assert one.upstream.submitted == bought + 1


async def test_twenty_at_once_that_only_share_the_key_are_one_too(one):
    answers = await asyncio.gather(
        *(generate(one, "shared", {"prompt": f"{RUNNING} {number}"}) for number in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [202] + [422] * 19
    assert len(await job_ids(one)) == 1


async def test_only_what_was_taken_is_remembered(service):
    poor = await rig.person(service, credits=3)
    async with poor.client:
        refused(await generate(poor, "a-key"), 402, "insufficient_credits")
        refused(await generate(poor, "a-key", {"prompt": ""}), 422, "invalid")
        given = "UPDATE balances SET available = available + 97 WHERE available = 3 RETURNING owner_id"
        [owner] = rows(service, given)
        rows(
            service,
            "INSERT INTO ledger (owner_id, kind, available, reserved, created_at) VALUES (?, 'grant', 97, 0, 1)",
            owner["owner_id"],
        )
        taken = await generate(poor, "a-key")
        assert (taken.status_code, taken.headers.get("idempotent-replayed")) == (202, None)
        again = await generate(poor, "a-key")
        assert (again.content, again.headers["idempotent-replayed"]) == (taken.content, "true")


@pytest.mark.parametrize("key", ["k", "k" * 255, "with spaces inside", "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"])
async def test_a_key_is_any_printable_ascii(one, key):
    assert (await generate(one, key)).status_code == 202
    assert (await generate(one, key)).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", [b"", b"k" * 256, b"a\tb", b"caf\xe9", "clé".encode(), b"\xff"])
async def test_any_other_key_is_refused(one, key):
    for path, body in (("/api/generate-image", {"prompt": "x"}), ("/api/images/x/retry", {})):
        answer = await one.client.post(path, headers={b"Idempotency-Key": key}, json=body)
        refused(answer, 422, "invalid")
        assert [line["field"] for line in answer.json()["errors"]] == ["Idempotency-Key"]
    assert await job_ids(one) == []


async def test_a_key_with_control_characters_starts_nothing(one):
    """The HTTP layer may be the one that refuses it."""
    host, port = one.base.removeprefix("http://").split(":")
    body = b'{"prompt": "x"}'
    head = (
        f"POST /api/generate-image HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Authorization: {one.client.headers['Authorization']}\r\nContent-Length: {len(body)}\r\n"
    )

    def send(key):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + b"Idempotency-Key: " + key + b"\r\n\r\n" + body)
            return connection.recv(100)

    for key in (b"  ", b"a\x00b", b"a\x01b", b"a\x7fb", b"a\nb"):
        said = await asyncio.to_thread(send, key)
        assert said.split()[1] in {b"400", b"422"}
    assert await job_ids(one) == []


async def test_after_a_day_it_is_a_new_request(one):
    first = await generate(one, "a-key")
    owner = "(SELECT owner_id FROM jobs WHERE id = ?)"
    older = f"UPDATE idempotency SET created_at = created_at - ? WHERE owner_id = {owner}"
    rows(one, older, DAY - 60_000_000, first.json()["job_id"])
    assert (await generate(one, "a-key")).content == first.content
    rows(one, older, 60_000_001, first.json()["job_id"])
    second = await generate(one, "a-key", {"prompt": RUNNING + " new"})
    assert (second.status_code, second.headers.get("idempotent-replayed")) == (202, None)
    # From here on the key is the new request's.
    again = await generate(one, "a-key", {"prompt": RUNNING + " new"})
    assert (again.content, again.headers["idempotent-replayed"]) == (second.content, "true")
    refused(await generate(one, "a-key"), 422, "key_reused")
    assert len(await job_ids(one)) == 2


async def test_the_answer_stays_after_the_job_was_deleted(one):
    first = await generate(one, "a-key")
    await one.client.delete(first.json()["links"]["self"])
    again = await generate(one, "a-key")
    assert (again.status_code, again.content) == (202, first.content)
    assert await job_ids(one) == []


async def test_what_was_taken_is_answered_even_where_nothing_new_would_be(tmp_path):
    """Its job runs: whoever lost the first answer must not be told that there is none."""
    async with rig.running(tmp_path) as service:
        first = await generate(service, "a-key")
        failed = (await service.generate("[sandbox:submit=422] a kite"))["job_id"]
        await service.ended(failed)
        again = await retry(service, failed, "again")
        key = service.client.headers["Authorization"]
    for less in ({"nanobanana_api_key": None}, {"disk_reserve_bytes": 2**62}):
        async with rig.running(tmp_path, sign_up=False, **less) as service:
            service.client.headers["Authorization"] = key
            answer = await generate(service, "a-key")
            assert (answer.status_code, answer.content) == (202, first.content)
            answer = await retry(service, failed, "again")
            assert (answer.status_code, answer.content) == (202, again.content)
            assert (await generate(service, "b-key")).status_code in {409, 507}
            assert len(await job_ids(service)) == 2
