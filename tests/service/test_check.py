"""``POST /api/check-generation-status``: what those who still poll ask, and how they are answered, to the word."""

import asyncio
import contextlib
import functools

import httpx
import pytest
import pytest_asyncio

from nanohook import clock
from nanohook.flow.plans import UNSEEN_US
from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from nanohook.web import check, routes
from nanohook.web.rates import Rate
from tests import books, live, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/check-generation-status"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"
RUNNING = "[sandbox:latency=60]"
PROCESSING = {"success": True, "status": "processing", "message": "Image generation still in progress"}
FAILED = {"success": False, "status": "failed", "message": "Generation failed"}
CANCELED = {"success": False, "status": "failed", "message": "Generation canceled"}


class Watched:
    """The sandbox; counts the questions for each task, and answers them as it is told."""

    def __init__(self):
        self._sandbox = create_app(Options(latency_s=0.05, callback_pause_s=0.05))
        self.tasks = self._sandbox.state.tasks
        self.asked = []
        """The task of each question."""
        self.answer = None
        """HTTP status and body in place of the sandbox's."""
        self.go_on = asyncio.Event()
        """No question is answered until this is set."""
        self.go_on.set()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"].endswith("/record-info"):
            self.asked.append(scope["query_string"].decode().removeprefix("taskId="))
            answer = self.answer
            await self.go_on.wait()
            if answer is not None:
                status, body = answer
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self._sandbox(scope, receive, send)


@contextlib.asynccontextmanager
async def watched(folder, **chosen):
    upstream = Watched()
    async with live.serve(upstream) as url:
        hosts = {"nanobanana_url": url, "download_hosts": (url.removeprefix("http://"),)}
        # The service itself asks only much later.
        async with rig.running(folder, **{"reconcile_every_s": 60, **hosts, **chosen}) as service:
            service.upstream = upstream.tasks
            yield service, upstream
            upstream.go_on.set()
            books.check(service.parts.settings.data_dir)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory):
    async with watched(tmp_path_factory.mktemp("check")) as running:
        yield running


@pytest.fixture
def service(pair):
    return pair[0]


@pytest.fixture
def upstream(pair):
    pair[1].asked.clear()
    pair[1].answer = None
    return pair[1]


async def ask(service, client=None, **body):
    return await (client or service.client).post(PATH, json=body)


def told(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer, status, error):
    """Check an error of this route: a problem, and the words that its callers know."""
    said = answer.json()
    assert (answer.status_code, said["error"]) == (status, error), said
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code"} <= set(said)
    return said


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


async def running(service, prompt=RUNNING, **more):
    """Start a job and wait until NanoBanana has it; return its id and those of its tasks."""
    job_id = (await service.generate(prompt, **more))["job_id"]
    sql = "SELECT task_id FROM tasks WHERE job_id = ? AND step = 'ask' ORDER BY idx"
    number = more.get("numImages", 1)
    await live.until(lambda: sum(bool(task["task_id"]) for task in rows(service, sql, job_id)) == number)
    return job_id, [task["task_id"] for task in rows(service, sql, job_id)]


async def later(service, job_id):
    """Five seconds pass, as far as the questions for a job are concerned."""
    rows(service, "UPDATE tasks SET asked_at = asked_at - 5000000 WHERE job_id = ?", job_id)


@contextlib.asynccontextmanager
async def somebody(service, **more):
    key = await rig.make_account(service, f"p{clock.now_us()}@example.org", **more)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as client:
        yield client


# The three answers.


async def test_processing_in_every_spelling(service, upstream):
    job_id, [task_id] = await running(service)
    for body in (
        {"imageId": job_id, "taskId": task_id},
        {"imageId": job_id},
        {"image_id": job_id, "task_id": task_id},
        {"imageId": job_id, "image_id": job_id, "taskId": task_id, "task_id": task_id},
        {"imageId": job_id, "taskId": None},
    ):
        assert told(await ask(service, **body)) == PROCESSING


async def test_completed_with_the_address_of_the_picture(service):
    job = await service.upload(rig.picture(64, 48))
    await service.generate(imageId=job["job_id"], numImages=2)
    ended = await service.ended(job["job_id"])
    answer = told(await ask(service, imageId=job["job_id"], taskId=ended["tasks"][1]["task_id"]))
    assert answer == {
        "success": True,
        "status": "completed",
        "imageId": job["job_id"],
        "transformedUrl": ended["images"][0]["url"],
    }
    picture = await service.client.get(answer["transformedUrl"])
    assert (picture.status_code, len(picture.content)) == (200, ended["images"][0]["bytes"])


async def test_failed_and_canceled_are_told_with_200(service):
    failed = (await service.ended((await service.generate("[sandbox:fail=501] x"))["job_id"]))["job_id"]
    assert told(await ask(service, imageId=failed)) == FAILED
    refused_at_once = (await service.ended((await service.generate("[sandbox:submit=422] x"))["job_id"]))["job_id"]
    assert told(await ask(service, imageId=refused_at_once)) == FAILED
    job_id, [task_id] = await running(service)
    await service.client.post(f"/api/images/{job_id}/cancel")
    assert told(await ask(service, imageId=job_id, taskId=task_id)) == CANCELED


async def test_what_has_ended_is_not_asked_for(service, upstream):
    ended = await service.ended((await service.generate())["job_id"])
    upstream.asked.clear()
    for _ in range(3):
        assert told(await ask(service, imageId=ended["job_id"]))["status"] == "completed"
    assert upstream.asked == []


# The errors.


async def test_an_unknown_image(service):
    for image_id in (NOBODY, "x", "", "' OR 1=1", "🍌"):
        refused(await ask(service, imageId=image_id), 404, "Image not found")
    deleted, _ = await running(service)
    await service.client.delete(f"/api/images/{deleted}")
    refused(await ask(service, imageId=deleted), 404, "Image not found")


async def test_anothers_image(service, upstream):
    job_id, [task_id] = await running(service)
    async with somebody(service) as stranger, somebody(service, is_admin=True) as admin:
        said = refused(await ask(service, stranger, imageId=job_id, taskId=task_id), 403, "Forbidden")
        assert said["code"] == "forbidden"
        assert upstream.asked == []
        assert told(await ask(service, admin, imageId=job_id)) == PROCESSING


async def test_an_address_that_is_not_confirmed(service):
    async with somebody(service, is_verified=False) as new:
        refused(await ask(service, new, imageId=NOBODY), 403, "Email verification required")


async def test_without_a_login(service):
    async with httpx.AsyncClient(base_url=service.base, trust_env=False) as guest:
        answer = refused(await ask(service, guest, imageId=NOBODY), 401, "Unauthorized")
        assert answer["code"] == "unauthenticated"


async def test_an_image_that_nanobanana_was_not_given(tmp_path):
    async with watched(tmp_path, open_tasks=1) as (service, upstream):
        uploaded = (await service.upload())["job_id"]
        await running(service)
        queued = (await service.generate())["job_id"]
        for job_id in (uploaded, queued):
            said = refused(await ask(service, imageId=job_id), 409, "No task ID found for this image")
            assert said["code"] == "no_task_id"
        assert upstream.asked == []


async def test_a_task_of_another_image(service, upstream):
    first, [first_task] = await running(service)
    second, [second_task] = await running(service)
    for image_id, task_id in ((first, second_task), (second, first_task), (first, "x"), (first, first_task + " ")):
        refused(await ask(service, imageId=image_id, taskId=task_id), 404, "Failed to check task status: 404")
    assert upstream.asked == []


async def test_a_task_that_nanobanana_has_forgotten(service, upstream):
    job_id, [task_id] = await running(service)
    del upstream.tasks.by_id[task_id]
    said = refused(await ask(service, imageId=job_id, taskId=task_id), 404, "Failed to check task status: 404")
    assert said["code"] == "unknown_task"
    assert (await service.job(job_id))["status"] == "GENERATING"


async def test_too_often(tmp_path):
    async with watched(tmp_path, rate_status="3/minute") as (service, _):
        job_id, _ = await running(service)
        for _ in range(3):
            assert told(await ask(service, imageId=job_id)) == PROCESSING
        answer = await ask(service, imageId=job_id)
        refused(answer, 429, "Rate limit exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "image_id"),
        ({"taskId": "x"}, "image_id"),
        ({"imageId": None}, "image_id"),
        ({"imageId": 7}, "image_id"),
        ({"imageId": NOBODY, "taskId": 7}, "task_id"),
        ({"imageId": NOBODY, "other": 7}, "other"),
        ({"imageId": NOBODY, "image_id": "x"}, "body"),
        ({"imageId": NOBODY, "taskId": "x", "task_id": "y"}, "body"),
    ],
    ids=str,
)
async def test_a_body_that_cannot_be_used(service, body, field):
    answer = await ask(service, **body)
    said = refused(answer, 422, "some fields cannot be used")
    assert [line["field"] for line in said["errors"]] == [field]


async def test_a_body_that_is_no_json(service):
    answer = await service.client.post(PATH, content=b"imageId=x")
    assert refused(answer, 400, "the body is not JSON")["code"] == "not_json"


# Asking NanoBanana.


async def test_it_asks_once_in_five_seconds_however_many_want_to_know(service, upstream):
    job_id, [task_id] = await running(service)
    for expected in (1, 2):
        answers = await asyncio.gather(*(ask(service, imageId=job_id) for _ in range(20)))
        assert [told(answer) for answer in answers] == [PROCESSING] * 20
        assert upstream.asked == [task_id] * expected
        await later(service, job_id)


async def test_what_the_service_asked_a_moment_ago_is_not_asked_again(tmp_path):
    async with watched(tmp_path, reconcile_after_s=0.05) as (service, upstream):
        job_id, [task_id] = await running(service)
        await live.until(lambda: rows(service, "SELECT 1 FROM tasks WHERE asks = 1"))
        assert told(await ask(service, imageId=job_id)) == PROCESSING
        assert upstream.asked == [task_id]
        await later(service, job_id)
        assert told(await ask(service, imageId=job_id)) == PROCESSING
        assert upstream.asked == [task_id] * 2


async def test_each_of_several_tasks_is_asked_for(service, upstream):
    job_id, task_ids = await running(service, numImages=3)
    assert told(await ask(service, imageId=job_id, taskId=task_ids[2])) == PROCESSING
    assert sorted(upstream.asked) == sorted(task_ids)
    # One that is forgotten does not hide that the others go on.
    del upstream.tasks.by_id[task_ids[1]]
    await later(service, job_id)
    assert told(await ask(service, imageId=job_id)) == PROCESSING
    assert len(upstream.asked) == 6


async def test_its_answer_goes_the_way_of_a_callback_and_is_finished_behind(service, upstream):
    job_id, [task_id] = await running(service, "[sandbox:drop][sandbox:latency=0.3] x")
    assert told(await ask(service, imageId=job_id)) == PROCESSING
    await live.until(lambda: upstream.tasks.by_id[task_id].outcome)
    await later(service, job_id)
    # It is done there; here it is when it is stored.
    assert told(await ask(service, imageId=job_id)) == PROCESSING
    assert (await service.ended(job_id))["status"] == "COMPLETED"
    assert told(await ask(service, imageId=job_id))["status"] == "completed"
    assert upstream.asked == [task_id] * 2
    kept = rows(service, "SELECT source, effect, task_id FROM deliveries WHERE job_id = ? ORDER BY id", job_id)
    assert [(one["source"], one["effect"], one["task_id"]) for one in kept] == [
        ("record", "no_effect", task_id),
        ("record", "applied", task_id),
    ]


async def test_a_failure_that_no_callback_told_is_found(service, upstream):
    job_id, [task_id] = await running(service, "[sandbox:drop][sandbox:latency=0.1][sandbox:fail=400] x")
    await live.until(lambda: upstream.tasks.by_id[task_id].outcome)
    assert told(await ask(service, imageId=job_id)) == FAILED
    assert (await service.job(job_id))["error"]["code"] == "content_policy"


async def test_a_question_and_a_callback_at_once_make_one_result(service):
    jobs = [await running(service, "[sandbox:latency=0.15] x") for _ in range(6)]

    async def poll(job_id):
        while (answer := told(await ask(service, imageId=job_id)))["status"] == "processing":
            assert answer == PROCESSING
            await later(service, job_id)
        return answer["status"]

    assert await asyncio.gather(*(poll(job_id) for job_id, _ in jobs)) == ["completed"] * 6
    for job_id, [task_id] in jobs:
        await live.until(service.upstream.by_id[task_id].ended.is_set)
        assert len(rows(service, "SELECT 1 FROM pictures WHERE job_id = ?", job_id)) == 1
        events = rows(service, "SELECT is_last FROM events WHERE job_id = ? ORDER BY id", job_id)
        assert [event["is_last"] for event in events] == [0] * (len(events) - 1) + [1]
        folder = service.parts.settings.data_dir / "media" / "results" / job_id
        assert len(list(folder.iterdir())) == 2


ODD = {
    "error": (500, b"Internal Server Error"),
    "page": (200, b"<html><body>maintenance</body></html>"),
    "half": (200, b'{"code":200,"da'),
    "nothing": (200, b""),
    "refused": (200, b'{"code":401,"msg":"You do not have access permissions","data":null}'),
    "fault": (200, b'{"code":500,"msg":"Server exception, please check the parameters or try later","data":null}'),
    "too early": (200, b'{"code":422,"msg":"recordInfo is null","data":null}'),
    "not yet": (200, b'{"code":200,"msg":"success","data":null}'),
    "lost page": (404, b"<html>not found</html>"),
}


@pytest.mark.parametrize("name", ODD)
async def test_what_nanobanana_cannot_tell_is_no_news(service, upstream, name):
    job_id, [task_id] = await running(service)
    upstream.answer = ODD[name]
    assert told(await ask(service, imageId=job_id, taskId=task_id)) == PROCESSING
    assert upstream.asked == [task_id]
    assert (await service.job(job_id))["status"] == "GENERATING"


async def test_whoever_asks_does_not_wait_for_a_nanobanana_that_hangs(service, upstream):
    assert check.WAIT_S <= 10
    line = routes._Theirs("/quick", "POST", functools.partial(check.check, wait_s=0.2), rate=Rate.STATUS)
    service.service.router.routes.append(routes._route(line))
    job_id, [task_id] = await running(service)
    upstream.go_on.clear()
    try:
        answer = await service.client.post("/quick", json={"imageId": job_id})
        assert (answer.status_code, answer.json()) == (200, PROCESSING)
        # Who comes meanwhile is not kept at all.
        waits = asyncio.create_task(service.client.post("/quick", json={"imageId": job_id}))
        assert told(await ask(service, imageId=job_id)) == PROCESSING
        assert (await waits).json() == PROCESSING
        assert upstream.asked == [task_id]
        [task] = rows(service, "SELECT held, due_at FROM tasks WHERE job_id = ?", job_id)
        assert task["held"] == 0
        # The service's own question keeps its time.
        assert task["due_at"] < clock.now_us() + 90_000_000
    finally:
        upstream.go_on.set()


async def test_without_a_key_there_is_nobody_to_ask(tmp_path):
    async with watched(tmp_path) as (service, upstream):
        job_id, [task_id] = await running(service)
        key = service.client.headers["Authorization"]
    async with watched(tmp_path, nanobanana_api_key=None, sign_up=False) as (service, upstream):
        service.client.headers["Authorization"] = key
        assert told(await ask(service, imageId=job_id, taskId=task_id)) == PROCESSING
        assert upstream.asked == []


async def test_the_task_of_an_earlier_attempt_is_known(service, upstream):
    job_id, [first] = await running(service, "[sandbox:latency=0.05][sandbox:fail=501] x")
    await service.ended(job_id)
    assert (await service.client.post(f"/api/images/{job_id}/retry")).status_code == 202
    ended = await service.ended(job_id)
    assert ended["tasks"][0]["task_id"] != first
    assert told(await ask(service, imageId=job_id, taskId=first)) == FAILED


async def test_a_forgotten_task_that_is_made_anew_goes_on(service, upstream):
    """A retry may buy again what NanoBanana has no more: that is no error of whoever asks."""
    job_id, [task_id] = await running(service)
    rows(service, "UPDATE tasks SET submit_started_at = submit_started_at - ? WHERE job_id = ?", UNSEEN_US, job_id)
    await service.client.post(f"/api/images/{job_id}/cancel")
    del upstream.tasks.by_id[task_id]
    upstream.go_on.clear()
    try:
        assert (await service.client.post(f"/api/images/{job_id}/retry")).status_code == 202
        await live.until(lambda: upstream.asked)
    finally:
        upstream.go_on.set()
    await live.until(
        lambda: rows(service, "SELECT 1 FROM tasks WHERE job_id = ? AND task_id != ?", job_id, task_id)
    )
    assert told(await ask(service, imageId=job_id)) == PROCESSING


async def test_a_persons_question_does_not_hasten_the_services_own(service, upstream):
    job_id = (await service.generate(RUNNING))["job_id"]
    await live.until(lambda: due(service, job_id))
    [before] = due(service, job_id)
    assert (await ask(service, imageId=job_id)).json() == PROCESSING
    assert len(upstream.asked) == 1
    assert due(service, job_id) == [before]
    await service.client.post(f"/api/images/{job_id}/cancel")


def due(service, job_id):
    """When the service itself asks for a job's tasks."""
    sql = "SELECT due_at FROM tasks WHERE job_id = ? AND step = 'ask' AND held = 0"
    return [row["due_at"] for row in rows(service, sql, job_id)]
