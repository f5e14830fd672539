"""Many pictures at once: deleted and restored by one request, listed by their ids, uploaded with a budget."""

import orjson
import pytest
import pytest_asyncio

from nanohook.web import docs, jobs, query, work_wire
from tests import books, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = orjson.loads(docs.written()[0])
RUNNING = "[sandbox:latency=60]"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("bulk")) as running:
        yield running
        books.check(running.parts.settings.data_dir)


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    made = await rig.person(service, document=DOCUMENT)
    async with made.client:
        yield made


async def change(one, what, job_ids):
    answer = await one.client.post(f"/api/images/{what}", json={"job_ids": job_ids})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(one):
    return [job["job_id"] for job in (await one.client.get("/api/images?limit=200")).json()["images"]]


async def test_many_are_deleted_and_restored_and_what_is_so_already_counts_as_done(one):
    ids = [(await one.upload(rig.picture(8, 8)))["job_id"] for _ in range(3)]
    open_id = (await one.generate(RUNNING))["job_id"]
    named = [*ids, open_id]
    assert await change(one, "delete", named) == {"done": named, "refused": []}
    assert await listed(one) == []
    # A twin, or a second click.
    assert await change(one, "delete", [*named, ids[0]]) == {"done": named, "refused": []}
    assert await change(one, "restore", named) == {"done": named, "refused": []}
    assert await change(one, "restore", named) == {"done": named, "refused": []}
    assert sorted(await listed(one)) == sorted(named)
    # As by the single routes: what was open stays canceled.
    assert (await one.job(open_id))["status"] == "CANCELED"


async def test_what_is_somebody_elses_or_unknown_is_named_and_the_rest_is_done(service, one):
    theirs = (await service.upload(rig.picture(8, 8)))["job_id"]
    mine = (await one.upload(rig.picture(8, 8)))["job_id"]
    strange = [theirs, NOBODY, "no id at all", ""]
    refused = [{"job_id": job_id, "code": "not_found"} for job_id in strange]
    for what in ("delete", "restore"):
        assert await change(one, what, [*strange, mine]) == {"done": [mine], "refused": refused}
    assert await service.job(theirs)


async def test_a_stream_tells_each_deletion(one):
    ids = [(await one.upload(rig.picture(8, 8)))["job_id"] for _ in range(2)]
    async with one.client.stream("GET", "/api/events") as stream:
        lines = stream.aiter_lines()
        await anext(lines)
        await change(one, "delete", ids)
        told = []
        async for line in lines:
            if line.startswith('data: {"job_id"'):
                told.append(orjson.loads(line[6:])["job_id"])
            if len(told) == 2:
                break
    assert told == ids


@pytest.mark.parametrize(
    "body",
    [
        {"job_ids": []},
        {"job_ids": ["x"] * (work_wire.MAX_JOB_IDS + 1)},
        {"job_ids": "x"},
        {"job_ids": [1]},
        {},
        {"jobIds": ["x"]},
    ],
)
async def test_what_names_no_jobs_or_too_many_is_refused(one, body):
    for what in ("delete", "restore"):
        answer = await one.client.post(f"/api/images/{what}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_two_hundred_are_one_write_of_the_rate_limit_and_bounded_transactions(tmp_path, monkeypatch):
    async with rig.running(tmp_path, rate_write="2/minute") as service:
        ids = [(await service.upload(rig.picture(8, 8)))["job_id"] for _ in range(jobs.AT_ONCE + 1)]
        strange = [f"x{number}" for number in range(work_wire.MAX_JOB_IDS - len(ids))]
        writes, write = [], service.parts.database.write

        async def counted(unit, **more):
            writes.append(unit)
            return await write(unit, **more)

        monkeypatch.setattr(service.parts.database, "write", counted)
        done = await change(service, "delete", [*ids, *strange])
        assert (done["done"], len(done["refused"])) == (ids, len(strange))
        assert len(writes) == work_wire.MAX_JOB_IDS // jobs.AT_ONCE
        assert (await change(service, "restore", ids))["done"] == ids
        answer = await service.client.post("/api/images/delete", json={"job_ids": ids})
        assert answer.status_code == 429
        # Pictures that come in are counted apart.
        await service.upload(rig.picture(8, 8))


async def test_uploads_have_a_budget_of_their_own(tmp_path):
    async with rig.running(tmp_path, rate_upload="2/minute") as service:
        for _ in range(2):
            await service.upload(rig.picture(8, 8))
        answer = await service.client.post("/api/images", files={"file": ("x.png", rig.picture(8, 8))})
        assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
        assert answer.headers["ratelimit-policy"] == '"upload";q=2;w=60'
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        await service.generate("a kite")


async def test_a_list_of_some_jobs_has_these_alone(one, service):
    ids = [(await one.upload(rig.picture(8, 8)))["job_id"] for _ in range(3)]
    theirs = (await service.upload(rig.picture(8, 8)))["job_id"]
    some = ",".join([ids[2], theirs, ids[0], ids[0], "x"])
    answer = (await one.client.get("/api/images", params={"ids": some, "status": "PENDING"})).json()
    assert [job["job_id"] for job in answer["images"]] == [ids[2], ids[0]]
    answer = await one.client.get("/api/images", params={"ids": ",".join(map(str, range(query.MAX_IDS + 1)))})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
