"""The API over HTTP: who may, what is refused and how, lists, results, media, and figures."""

import asyncio
import io
import re
import time

import httpx
import orjson
import pytest
import pytest_asyncio
from PIL import Image

from nanohook import clock
from nanohook.flow import accounts
from nanohook.rules import signing
from nanohook.rules.status import ImageJobStatus
from nanohook.web import credentials
from tests import live, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOBODY = "0192a4b0-0000-7000-8000-000000000000"
RUNNING = "[sandbox:latency=60]"
PROBLEM = "application/problem+json"
METRICS = "a token for the figures"

PERSONAL = [
    ("POST", "/api/images"),
    ("GET", "/api/images"),
    ("GET", "/api/images/{id}"),
    ("DELETE", "/api/images/{id}"),
    ("GET", "/api/images/{id}/status"),
    ("GET", "/api/images/{id}/result"),
    ("POST", "/api/images/{id}/cancel"),
    ("POST", "/api/images/{id}/retry"),
    ("GET", "/api/images/{id}/events"),
    ("GET", "/api/events"),
    ("POST", "/api/generate-image"),
]
OF_ONE_JOB = [line for line in PERSONAL if "{id}" in line[1]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("http"), metrics_token=METRICS) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def done(service):
    """A job with an original and a result."""
    job = await service.upload(rig.picture(64, 48))
    await service.generate(imageId=job["job_id"])
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    return ended


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(service):
    """Somebody else who is signed in."""
    async with guest(service) as client:
        client.headers["Authorization"] = f"Bearer {await rig.make_account(service, 'eve@example.org')}"
        yield client


def guest(service):
    return httpx.AsyncClient(base_url=service.base, trust_env=False, timeout=20)


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert re.fullmatch("[A-Za-z0-9-]{8,64}", answer.headers["x-request-id"])
    said = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(said)
    assert (said["status"], said["code"]) == (status, code)
    return said


def fields(answer):
    """Names of the fields that a 422 complains about."""
    return {line["field"] for line in refused(answer, 422, "invalid")["errors"]}


async def new_jobs(service, number, **more):
    return [(await service.generate(RUNNING, **more))["job_id"] for _ in range(number)]


async def ask(service, **body):
    return await service.client.post("/api/generate-image", json=body)


async def listed(client, **query):
    answer = await client.get("/api/images", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def newest(service):
    return [image["job_id"] for image in (await listed(service.client, limit=1))["images"]]


# Who may.


@pytest.mark.parametrize(("method", "path"), PERSONAL)
async def test_without_a_login_nothing_personal_is_answered(service, method, path):
    path = path.format(id=NOBODY)
    async with guest(service) as client:
        for authorization in (None, "Bearer nh_wrong", "Basic YWRhOnB3", "Bearer", b"Bearer \xfc"):
            headers = {} if authorization is None else {"Authorization": authorization}
            answer = await client.request(method, path, headers=headers)
            refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_person_who_is_not_verified_may_not(service):
    async with guest(service) as client:
        key = await rig.make_account(service, "new@example.org", is_verified=False)
        client.headers["Authorization"] = f"Bearer {key}"
        for method, path in PERSONAL:
            answer = await client.request(method, path.format(id=NOBODY))
            refused(answer, 403, "email_unverified")


@pytest.mark.parametrize(("method", "path"), OF_ONE_JOB)
async def test_another_persons_job_is_as_unknown_as_none(service, stranger, done, method, path):
    theirs = await stranger.request(method, path.format(id=done["job_id"]))
    none = await stranger.request(method, path.format(id=NOBODY))
    odd = await stranger.request(method, path.format(id="%F0%9F%8D%8C'%20OR%201=1"))
    assert refused(theirs, 404, "not_found") == refused(none, 404, "not_found") == refused(odd, 404, "not_found")
    assert await service.job(done["job_id"]) == done


async def test_another_persons_picture_cannot_be_generated_from(service, stranger, done):
    answer = await stranger.post("/api/generate-image", json={"prompt": "x", "imageId": done["job_id"]})
    refused(answer, 404, "not_found")
    named = await stranger.get("/api/events", params={"job": done["job_id"]})
    refused(named, 404, "not_found")
    assert (await listed(stranger))["images"] == []


async def test_a_session_cookie_opens_what_a_key_opens(service, done):
    async with signed_in(service) as client:
        assert (await client.get(f"/api/images/{done['job_id']}")).status_code == 200
    for wrong in (
        "x",
        service.parts.tokens.sign_purpose("stream", await owner(service), int(time.time()) + 60),
        service.parts.tokens.sign_purpose(credentials.SESSION, await owner(service), int(time.time())),
        service.parts.tokens.sign_purpose(credentials.SESSION, NOBODY, int(time.time()) + 60),
    ):
        async with guest(service) as client:
            answer = await client.get("/api/images", headers={"Cookie": f"{service.cookie}={wrong}"})
            refused(answer, 401, "unauthenticated")


async def owner(service):
    row = await service.parts.database.read(
        lambda tx: tx.one("SELECT id FROM users WHERE email = 'ada@example.org'")
    )
    return row["id"]


async def _cookie(service, user_id):
    session_id = await service.parts.database.write(
        lambda tx: accounts.sign_in(tx, user_id, browser=accounts.Browser(), now_us=clock.now_us())
    )
    token = service.parts.tokens.sign_purpose(credentials.SESSION, session_id, int(time.time()) + 60)
    return f"{service.cookie}={token}"


class signed_in:  # noqa: N801 - reads as a verb where it is used
    """A browser's session, by cookie alone."""

    def __init__(self, service):
        self._service = service
        self._client = guest(service)

    async def __aenter__(self):
        client = await self._client.__aenter__()
        client.headers["Cookie"] = await _cookie(self._service, await owner(self._service))
        return client

    async def __aexit__(self, *exc):
        await self._client.__aexit__(*exc)


async def test_a_write_by_cookie_must_come_from_our_own_page(service):
    [job_id] = await new_jobs(service, 1)
    path = f"/api/images/{job_id}/cancel"
    async with signed_in(service) as client:
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": service.base + ".evil.example"},
            {"Origin": service.base.replace("http:", "https:")},
            {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {},
        ):
            refused(await client.post(path, headers=headers), 403, "wrong_origin")
            refused(await client.delete(f"/api/images/{job_id}", headers=headers), 403, "wrong_origin")
        # Reading is open to a cookie from anywhere: other pages cannot see the answer.
        assert (await client.get("/api/images", headers={"Origin": "https://evil.example"})).status_code == 200
        assert (await service.job(job_id))["status"] != "CANCELED"
        for headers in ({"Origin": service.base}, {"Sec-Fetch-Site": "same-origin"}):
            assert (await client.post(path, headers=headers)).status_code == 200
    # A key is not sent by a browser on its own: it needs no origin.
    answer = await service.client.post(path, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 200


# How it is refused.


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [
        ("abcdefgh", True),
        ("A-Za-z0-9-" * 6, True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("abcdefg", False),
        ("with space", False),
        ("under_score", False),
        ("<script>", False),
        ("a\tb\tc\td\te", False),
    ],
)
async def test_a_request_id_is_kept_only_if_it_is_plain(service, sent, is_kept):
    for path in ("/healthz", "/nowhere", "/api/images/x/events"):
        answer = await service.client.get(path, headers={"X-Request-Id": sent})
        [given] = answer.headers.get_list("x-request-id")
        assert (given == sent) is is_kept
        assert re.fullmatch("[A-Za-z0-9-]{8,64}", given)


async def test_every_answer_has_a_request_id_of_its_own(service):
    given = [(await service.client.get("/healthz")).headers["x-request-id"] for _ in range(20)]
    assert len(set(given)) == 20


@pytest.mark.parametrize(
    "path", ["/nowhere", "/api", "/api/images/x/y", "/static/none.js", "/%00", "/api/imagesx"]
)
async def test_an_unknown_path_is_404(service, path):
    refused(await service.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/static/%00", "/static/" + "a" * 5_000, "/static/../app.py", "/static/..%2fapp.py"]
)
async def test_no_static_path_is_more_than_unknown(service, path):
    refused(await service.client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path", ["/healthz/", "/api/images/", "/api/webhooks/image-completion/", "/api/webhooks/image-completion/x/"]
)
async def test_a_path_with_a_slash_too_many_is_unknown_and_not_sent_elsewhere(service, path):
    """A redirect would repeat what was sent: the Host, and the secret of a callback's address."""
    for method in ("GET", "POST"):
        answer = await service.client.request(method, path, headers={"Host": "evil.example"})
        assert answer.status_code in {401, 404, 405}
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/generate-image"),
        ("PUT", "/api/images/x"),
        ("POST", "/api/images/x/status"),
        ("PATCH", "/api/images"),
        ("POST", "/healthz"),
        ("POST", "/api/events"),
        ("GET", "/api/webhooks/image-completion/x"),
        ("DELETE", "/api/webhooks/image-completion"),
    ],
)
async def test_a_wrong_method_is_405(service, method, path):
    answer = await service.client.request(method, path)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"]


async def test_a_wrong_method_names_every_right_one(service):
    answer = await service.client.put("/api/images")
    refused(answer, 405, "method_not_allowed")
    assert {"GET", "POST"} <= {name.strip() for name in answer.headers["allow"].split(",")}


async def test_no_answer_echoes_what_was_sent(service):
    marked = "M4RKER"
    answers = [
        await ask(service, prompt="x", model=marked),
        await ask(service, prompt="x", numImages=marked),
        await ask(service, prompt="x", aspectRatio=marked),
        await ask(service, prompt="x", aspectRatio={marked: marked}),
        await ask(service, prompt=marked * 20_000),
        await ask(service, prompt=[marked]),
        await ask(service, prompt=marked, prompt_=marked),
        await ask(service, prompt=marked, imageId=marked),
        await service.client.post("/api/generate-image", content=f'{{"prompt": {marked}'),
        await service.client.get(f"/{marked}?{marked}"),
        await service.client.get(f"/api/images/{marked}"),
        await service.client.get("/api/images", params={"limit": marked, "status": marked}),
        await service.client.post(f"/api/webhooks/image-completion/{marked}", content=marked),
        await service.client.post("/api/images", content=marked, headers={"Content-Type": marked}),
        await service.client.post("/api/images", files={marked: (marked, marked.encode())}),
        await service.client.get(f"/media/{marked}?token={marked}"),
        await service.client.get("/api/images", headers={"Authorization": f"Bearer {marked}"}),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500
        assert answer.headers["content-type"] == PROBLEM
        assert marked not in answer.text
        assert marked not in str(answer.headers)


async def test_an_answer_stays_small_however_much_was_wrong(service):
    answers = [
        await ask(service, prompt="x", **{f"field{number}": 1 for number in range(2_000)}),
        await ask(service, prompt="x", **{"aB" + "x" * 50_000: 1, "a_b" + "x" * 50_000: 2}),
        await ask(service, prompt="x", **{"y" * 100_000: 1}),
    ]
    for answer in answers:
        refused(answer, 422, "invalid")
        assert len(answer.content) < 4_096


async def test_a_fault_of_ours_tells_nothing_but_the_request_id(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("fault")) as service:
        job = await service.upload()
        await service.parts.database.write(lambda tx: tx.run("UPDATE jobs SET options = 'no JSON'"))
        path = f"/api/images/{job['job_id']}"
        answer = await service.client.get(path, headers={"X-Request-Id": "my-own-request"})
        said = refused(answer, 500, "internal")
        assert "JSON" not in said["detail"]
        assert answer.headers["x-request-id"] == "my-own-request"
        await service.parts.database.write(lambda tx: tx.run("UPDATE jobs SET options = '{}'"))
        assert (await service.client.get(path)).status_code == 200


async def test_a_database_that_cannot_be_read_is_503(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("away")) as service:
        await service.parts.database.write(lambda tx: tx.run("ALTER TABLE pictures RENAME TO lost"))
        answer = await service.client.post("/api/images", files={"file": ("x.png", rig.picture())})
        assert "pictures" not in refused(answer, 503, "unavailable")["detail"]
        assert int(answer.headers["retry-after"]) >= 1


# What is asked.


@pytest.mark.parametrize(
    ("camel", "snake"),
    [
        ({"prompt": "x", "numImages": 2}, {"prompt": "x", "num_images": 2}),
        ({"transformationType": "enhance"}, {"transformation_type": "enhance"}),
        (
            {"prompt": "x", "aspectRatio": "16:9", "outputFormat": "png"},
            {"prompt": "x", "aspect_ratio": "16:9", "output_format": "png"},
        ),
    ],
)
async def test_both_spellings_are_taken(service, camel, snake):
    made = []
    for body in (camel, snake, {**camel, **snake}):
        answer = await ask(service, **body)
        assert answer.status_code == 202
        made.append(await service.job(answer.json()["job_id"]))
    same = [{name: job[name] for name in ("prompt", "transformation_type", "options", "model")} for job in made]
    assert same[0] == same[1] == same[2]


async def test_a_field_in_two_spellings_must_say_the_same(service):
    answer = await ask(service, prompt="x", numImages=1, num_images=2)
    refused(answer, 422, "invalid")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "x", "numberOfImages": 2}, "number_of_images"),
        ({"prompt": "x", "numImages": 0}, "num_images"),
        ({"prompt": "x", "numImages": 5}, "num_images"),
        ({"prompt": "x", "numImages": "2"}, "num_images"),
        ({"prompt": "x", "numImages": True}, "num_images"),
        ({"prompt": "x", "numImages": 1.5}, "num_images"),
        ({"prompt": "x", "model": "dall-e"}, "model"),
        ({"prompt": "x", "transformationType": "explode"}, "transformation_type"),
        ({"prompt": "x", "outputFormat": "gif"}, "output_format"),
        ({"prompt": "x", "fit": "fill"}, "fit"),
        ({"prompt": "x", "use": "both"}, "use"),
        ({"prompt": "x", "priority": 1}, "priority"),
        ({"prompt": 1}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": " \n\t "}, "prompt"),
        ({"prompt": "x", "aspectRatio": "7:5"}, "aspect_ratio"),
        ({"prompt": "x", "aspectRatio": "1:8"}, "aspect_ratio"),
        ({"prompt": "x", "aspectRatio": "1:8", "model": "nano-banana-pro"}, "aspect_ratio"),
        ({"prompt": "x", "resolution": "2K"}, "resolution"),
        ({"prompt": "x", "resolution": "8K", "model": "nano-banana-2"}, "resolution"),
    ],
    ids=str,
)
async def test_what_cannot_be_asked_is_named(service, body, field):
    before = await newest(service)
    assert field in fields(await ask(service, **body))
    assert await newest(service) == before


@pytest.mark.parametrize(
    "body",
    [
        {"aspect_ratio": "1:8", "model": "nano-banana-2"},
        {"aspect_ratio": "auto", "model": "nano-banana-pro", "resolution": "4K"},
        {"resolution": "2K", "model": "nano-banana-2", "output_format": "webp"},
        {"prompt": "é🍌" * 10_000},
    ],
    ids=["tall", "auto", "2K", "long prompt"],
)
async def test_what_the_model_offers_can_be_asked(service, body):
    answer = await ask(service, **{"prompt": RUNNING, **body})
    assert answer.status_code == 202
    said = answer.json()
    assert (said["status"], said["progress"]) == ("PENDING", 10)
    assert set(said["links"]) == {"self", "status", "result", "events", "cancel", "retry"}
    for name, link in said["links"].items():
        if name in {"self", "status"}:
            assert (await service.client.get(link)).json()["job_id"] == said["job_id"]


async def test_a_body_that_is_not_an_object_is_refused(service):
    for body, status in ((b"[]", 422), (b"7", 422), (b"null", 422), (b"{", 400), (b"\xff", 400), (b"a=b", 400)):
        answer = await service.client.post("/api/generate-image", content=body)
        assert (body, answer.status_code) == (body, status)


async def test_a_body_over_the_limit_of_its_route_is_413(service):
    body = b'{"prompt":"' + b"x" * 300_000 + b'"}'

    async def streamed():
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    for content in (body, streamed()):
        refused(await service.client.post("/api/generate-image", content=content), 413, "too_large")
    answer = await service.client.post("/api/images/x/retry", content=b" " * 20_000 + b"{}")
    refused(answer, 413, "too_large")


async def test_messages_are_in_the_language_of_who_asked(service):
    answer = await service.client.post(
        "/api/generate-image", json={"prompt": RUNNING}, headers={"Accept-Language": "fr-CH, en;q=0.5"}
    )
    french = await service.job(answer.json()["job_id"])
    [english_id] = await new_jobs(service, 1)
    await service.client.post(f"/api/images/{french['job_id']}/cancel")
    await service.client.post(f"/api/images/{english_id}/cancel")
    texts = [(await service.job(job_id))["message"] for job_id in (french["job_id"], english_id)]
    assert texts[0] != texts[1]


async def test_an_open_job_is_not_started_twice(service):
    job = await service.upload()
    started = [
        service.client.post("/api/generate-image", json={"prompt": RUNNING, "imageId": job["job_id"]})
        for _ in range(5)
    ]
    answers = await asyncio.gather(*started)
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
    for answer in answers:
        if answer.status_code == 409:
            refused(answer, 409, "job_running")


async def test_an_ended_job_gives_its_original_to_a_new_one(service, done):
    started = await service.generate(imageId=done["job_id"])
    assert started["job_id"] != done["job_id"]
    ended = await service.ended(started["job_id"])
    assert ended["source_job_id"] == done["job_id"]
    assert (ended["images"][0]["width"], ended["images"][0]["height"]) == (64, 48)
    assert ended["original"]["width"] == 64
    assert await service.job(done["job_id"]) == done


async def test_a_result_can_be_the_next_input_only_if_there_is_one(service, done):
    uploaded = await service.upload()
    refused(await ask(service, prompt="x", imageId=uploaded["job_id"], use="result"), 409, "no_result")
    refused(await ask(service, prompt="x", use="result"), 409, "no_result")
    assert (await service.job(uploaded["job_id"]))["stage"] == "uploaded"
    started = await service.generate(imageId=done["job_id"], use="result")
    assert (await service.ended(started["job_id"]))["status"] == "COMPLETED"


async def test_without_a_key_for_nanobanana_nothing_is_started(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("keyless"), nanobanana_api_key=None) as service:
        refused(await ask(service, prompt="x"), 409, "no_api_key")
        job = await service.upload()
        refused(await ask(service, prompt="x", imageId=job["job_id"]), 409, "no_api_key")
        assert (await service.job(job["job_id"]))["stage"] == "uploaded"
        assert len((await listed(service.client))["images"]) == 1


async def test_without_a_public_address_only_text_becomes_pictures(tmp_path_factory):
    alone = {"public_url": None, "reconcile_every_s": 0.05}
    async with rig.running(tmp_path_factory.mktemp("alone"), **alone) as service:
        job = await service.upload()
        for more in ({}, {"use": "original"}):
            refused(await ask(service, prompt="x", imageId=job["job_id"], **more), 409, "no_public_url")
        unchanged = await service.job(job["job_id"])
        assert (unchanged["stage"], unchanged["attempt"], unchanged["prompt"]) == ("uploaded", 0, None)
        assert [image["job_id"] for image in (await listed(service.client))["images"]] == [job["job_id"]]

        started = await service.generate("from words alone")
        ended = await service.ended(started["job_id"])
        assert ended["status"] == "COMPLETED"
        [task] = service.upstream.by_id.values()
        assert task.order.callback_url == "https://callback.invalid/"
        assert task.callbacks_sent == 0


# Lists.


async def test_a_list_is_newest_first_and_paged_without_gaps(service):
    made = await new_jobs(service, 7)
    assert [image["job_id"] for image in (await listed(service.client, limit=7))["images"]] == made[::-1]
    seen, cursor = [], None
    while len(seen) < 7:
        query = {"limit": 3} if cursor is None else {"limit": 3, "cursor": cursor}
        page = await listed(service.client, **query)
        assert len(page["images"]) == 3
        seen += [image["job_id"] for image in page["images"]]
        cursor = page["next_cursor"]
        # What comes meanwhile belongs to the first page.
        await new_jobs(service, 1)
    assert seen[:7] == made[::-1]


async def test_the_last_page_has_no_next(service, stranger):
    page = await listed(stranger)
    assert (page["images"], page["next_cursor"]) == ([], None)
    only = (await stranger.post("/api/generate-image", json={"prompt": RUNNING})).json()["job_id"]
    assert (await listed(stranger, limit=1))["next_cursor"] is None
    page = await listed(stranger, cursor=only)
    assert (page["images"], page["next_cursor"]) == ([], None)
    await stranger.delete(f"/api/images/{only}")


@pytest.mark.parametrize("limit", ["0", "-1", "201", "1e1", "", "ten", "٣", "9" * 30, "1.0", " 1"])
async def test_a_limit_has_bounds(service, limit):
    assert fields(await service.client.get("/api/images", params={"limit": limit})) == {"limit"}


@pytest.mark.parametrize("cursor", ["", "x", "\x00", "🍌", "z" * 10_000, "' OR 1=1"])
async def test_any_text_is_a_cursor_and_none_is_a_fault(service, cursor):
    assert (await service.client.get("/api/images", params={"cursor": cursor})).status_code in {200, 422}


async def test_a_list_can_be_of_some_statuses(service, done):
    [canceled] = await new_jobs(service, 1)
    await service.client.post(f"/api/images/{canceled}/cancel")
    [running] = await new_jobs(service, 1)
    for wanted, inside, outside in (
        (["CANCELED"], [canceled], [running, done["job_id"]]),
        (["COMPLETED"], [done["job_id"]], [running, canceled]),
        (["COMPLETED", "CANCELED"], [done["job_id"], canceled], [running]),
        (["PENDING", "INITIALIZING", "GENERATING"], [running], [canceled, done["job_id"]]),
        (list(ImageJobStatus), [canceled, running, done["job_id"]], []),
    ):
        page = await listed(service.client, status=wanted, limit=200)
        found = {image["job_id"] for image in page["images"]}
        assert {image["status"] for image in page["images"]} <= set(wanted)
        assert found >= set(inside)
        assert not found & set(outside)
    for wrong in ("completed", "PROCESSING", "", ["COMPLETED", "x"]):
        assert fields(await service.client.get("/api/images", params={"status": wrong})) == {"status"}


async def test_a_job_can_be_found_by_its_task(service, stranger, done):
    task_id = done["tasks"][0]["task_id"]
    page = await listed(service.client, task_id=task_id)
    assert [image["job_id"] for image in page["images"]] == [done["job_id"]]
    assert done["metadata"]["nanobanana_task_id"] == task_id
    assert (await listed(service.client, task_id="none such"))["images"] == []
    assert (await listed(stranger, task_id=task_id))["images"] == []


# What may be done with a job.


async def test_a_deleted_job_is_hidden_at_once(service):
    job = await service.upload()
    [running] = await new_jobs(service, 1)
    for job_id in (job["job_id"], running):
        assert (await service.client.delete(f"/api/images/{job_id}")).status_code == 204
        for method, path in OF_ONE_JOB:
            refused(await service.client.request(method, path.format(id=job_id)), 404, "not_found")
        refused(await ask(service, prompt="x", imageId=job_id), 404, "not_found")
        page = await listed(service.client, limit=200)
        assert job_id not in {image["job_id"] for image in page["images"]}


async def test_a_late_success_does_not_wake_a_canceled_job(service):
    started = await service.generate("[sandbox:latency=0.3]")
    job_id = started["job_id"]
    await accepted(service, job_id)
    canceled = await service.client.post(f"/api/images/{job_id}/cancel")
    assert (canceled.status_code, canceled.json()["status"]) == (200, "CANCELED")
    task = service.upstream.by_id[canceled.json()["tasks"][0]["task_id"]]
    await live.until(task.ended.is_set)
    assert (task.callbacks_sent, task.callback_status) == (1, 200)
    again = await service.client.post(f"/api/images/{job_id}/cancel")
    # It is kept for its owner beside all that stays.
    assert (again.status_code, {**again.json(), "unclaimed": []}) == (200, canceled.json())
    refused(await service.client.get(f"/api/images/{job_id}/result"), 409, "not_completed")


async def accepted(service, job_id):
    """Wait until NanoBanana has accepted a job's first task."""
    async with service.client.stream("GET", f"/api/images/{job_id}/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:") and orjson.loads(line[5:])["stage"] == "generating":
                return
    raise AssertionError("the stream ended before that")


async def test_only_what_runs_can_be_canceled(service, done):
    refused(await service.client.post(f"/api/images/{done['job_id']}/cancel"), 409, "job_ended")
    uploaded = await service.upload()
    answer = await service.client.post(f"/api/images/{uploaded['job_id']}/cancel")
    assert answer.status_code == 409
    assert (await service.job(uploaded["job_id"]))["stage"] == "uploaded"


async def test_a_retry_after_a_failure_is_the_next_attempt_of_the_same_job(service):
    started = await service.generate("[sandbox:fail=501]")
    job_id = started["job_id"]
    failed = await service.ended(job_id)
    assert (failed["status"], failed["error"]["code"]) == ("FAILED", "upstream_failed")
    assert failed["error"]["retryable"] is True
    bought = service.upstream.submitted
    # NanoBanana thinks better of it.
    task = service.upstream.by_id[failed["tasks"][0]["task_id"]]
    good = (await service.ended((await service.generate("a picture"))["job_id"]))["tasks"][0]["task_id"]
    task.outcome, task.name = service.upstream.by_id[good].outcome, service.upstream.by_id[good].name
    answer = await service.client.post(f"/api/images/{job_id}/retry")
    said = answer.json()
    assert (answer.status_code, said["attempt"], said["status"], said["progress"]) == (202, 2, "PENDING", 10)
    assert said["event_id"] > failed["event_id"]
    ended = await service.ended(job_id)
    assert (ended["status"], ended["attempt"], ended["error"]) == ("COMPLETED", 2, None)
    # Its result was taken without a submit: the one bought meanwhile is the other picture's.
    assert service.upstream.submitted == bought + 1
    refused(await service.client.post(f"/api/images/{job_id}/retry"), 409, "not_failed")


async def test_a_retry_buys_again_only_what_nanobanana_says_has_failed(service):
    started = await service.generate("[sandbox:fail=501]")
    first = await service.ended(started["job_id"])
    bought = service.upstream.submitted
    assert (await service.client.post(f"/api/images/{started['job_id']}/retry")).status_code == 202
    second = await service.ended(started["job_id"])
    assert (second["attempt"], second["status"]) == (2, "FAILED")
    assert service.upstream.submitted == bought + 1
    assert second["tasks"][0]["task_id"] != first["tasks"][0]["task_id"]


async def test_an_unknown_outcome_is_bought_again_only_when_told_to(service):
    started = await service.generate("[sandbox:reset][sandbox:drop]")
    job_id = started["job_id"]
    await live.until(lambda: any("reset" in task.order.prompt for task in service.upstream.by_id.values()))
    assert (await service.client.post(f"/api/images/{job_id}/cancel")).status_code == 200
    refused(await service.client.post(f"/api/images/{job_id}/retry"), 409, "may_be_paid")
    answer = await service.client.post(f"/api/images/{job_id}/retry", json={"buyAgain": 1})
    assert fields(answer) == {"buy_again"}
    answer = await service.client.post(f"/api/images/{job_id}/retry", json={"buyAgain": True})
    assert (answer.status_code, answer.json()["attempt"]) == (202, 2)
    await service.client.post(f"/api/images/{job_id}/cancel")


async def test_only_what_failed_can_be_retried(service, done):
    refused(await service.client.post(f"/api/images/{done['job_id']}/retry"), 409, "not_failed")
    uploaded = await service.upload()
    refused(await service.client.post(f"/api/images/{uploaded['job_id']}/retry"), 409, "not_failed")
    [running] = await new_jobs(service, 1)
    refused(await service.client.post(f"/api/images/{running}/retry"), 409, "not_failed")


async def test_there_is_no_result_before_it_is_completed(service, done):
    [running] = await new_jobs(service, 1)
    said = refused(await service.client.get(f"/api/images/{running}/result"), 409, "not_completed")
    assert said["job_status"] in {"PENDING", "INITIALIZING", "GENERATING"}
    answer = await service.client.get(f"/api/images/{done['job_id']}/result")
    assert answer.json() == {"job_id": done["job_id"], "status": "COMPLETED", "images": done["images"]}


async def test_the_status_is_the_jobs_in_short(service, done):
    said = (await service.client.get(f"/api/images/{done['job_id']}/status")).json()
    names = {"job_id", "status", "progress", "stage", "message", "error", "attempt", "event_id", "updated_at"}
    assert {name: said[name] for name in names} == {name: done[name] for name in names}
    assert {"place", "estimated_wait_s"} <= set(said)


# Media.


async def test_a_picture_is_served_with_what_keeps_it_private(service, done):
    async with guest(service) as client:
        for shown in (done["images"][0], done["original"]):
            answer = await client.get(shown["url"])
            assert (answer.status_code, len(answer.content)) == (200, shown["bytes"])
            assert answer.headers["content-type"] == shown["content_type"]
            assert Image.open(io.BytesIO(answer.content)).size == (shown["width"], shown["height"])
            left_s = signing.media_expiry(time.time()) - time.time()
            [max_age] = re.findall(r"^private, max-age=(\d+)$", answer.headers["cache-control"])
            assert abs(int(max_age) - left_s) < 5
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert answer.headers["referrer-policy"] == "no-referrer"
            small = await client.get(shown["thumbnail_url"])
            assert small.status_code == 200
            assert max(Image.open(io.BytesIO(small.content)).size) <= 512


async def test_a_picture_that_is_known_already_is_not_sent_again(service, done):
    url = done["images"][0]["url"]
    tag = (await service.client.get(url)).headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await service.client.get(url, headers={"If-None-Match": given})
        assert (given, answer.status_code, answer.content) == (given, 304, b"")
        assert answer.headers["etag"] == tag
        assert "cache-control" in answer.headers
    answer = await service.client.get(url, headers={"If-None-Match": '"other"'})
    assert answer.status_code == 200


async def test_a_part_of_a_picture_can_be_asked_for(service, done):
    url = done["images"][0]["url"]
    whole = (await service.client.get(url)).content
    for given, part in (("bytes=0-9", whole[:10]), ("bytes=-10", whole[-10:]), ("bytes=20-", whole[20:])):
        answer = await service.client.get(url, headers={"Range": given})
        assert (answer.status_code, answer.content) == (206, part)
        assert answer.headers["content-range"].endswith(f"/{len(whole)}")
    answer = await service.client.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert answer.status_code == 416
    assert f"*/{len(whole)}" in answer.headers["content-range"]
    head = await service.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole))


@pytest.mark.parametrize("given", ["bytes=a-b", "bytes=", "lines=1-2", "bytes=9-0", "bytes=" + "0-1," * 500])
async def test_an_odd_range_is_no_fault_of_ours(service, done, given):
    answer = await service.client.get(done["images"][0]["url"], headers={"Range": given})
    assert answer.status_code in {200, 206, 400, 416}


async def test_a_picture_opens_only_with_its_own_token(service, done):
    url, other = done["images"][0]["url"], done["original"]["url"]
    path, _, token = url.partition("?token=")
    other_path, _, other_token = other.partition("?token=")
    expired = service.parts.tokens.sign_media(key=path.removeprefix("/media/"), expires_at_s=int(time.time()))
    for wrong in (
        path,
        f"{path}?token=",
        f"{path}?token={token[:-1]}",
        f"{path}?token={other_token}",
        f"{other_path}?token={token}",
        f"{path}?token={expired}",
        f"{path}x?token={token}",
        f"/media/../secret?token={token}",
        f"/media/%2e%2e/secret?token={token}",
        f"/media/%00?token={token}",
    ):
        answer = await service.client.get(wrong)
        assert answer.status_code in {401, 404}, wrong
        assert answer.headers["content-type"] == PROBLEM
    refused(await service.client.get(f"{path}?token={other_token}"), 401, "signature_invalid")
    refused(await service.client.get(path), 401, "signature_invalid")


@pytest.mark.parametrize(
    "key", ["../secret", "secret", "a/../../secret", "%2e%2e/secret.png", "\x00.png", "x.png", "a" * 500]
)
async def test_even_a_signed_key_leads_only_to_pictures(service, key):
    token = service.parts.tokens.sign_media(key=key, expires_at_s=4_000_000_000)
    escaped = "".join(f"%{byte:02x}" for byte in key.encode())
    url = httpx.URL(service.base).copy_with(raw_path=f"/media/{escaped}?token={token}".encode())
    refused(await service.client.get(url), 404, "not_found")


# For machines.


async def test_health_and_readiness_answer_anybody(service):
    async with guest(service) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_figures_are_for_the_token_or_an_admin(service):
    async with guest(service) as client:
        refused(await client.get("/metrics"), 401, "unauthenticated")
        for wrong in (b"Bearer wrong", f"Bearer {METRICS}x", f"Bearer {METRICS[:-1]}", b"Bearer \xe9"):
            answer = await client.get("/metrics", headers={"Authorization": wrong})
            refused(answer, 401, "unauthenticated")
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {METRICS}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        for name in ("nanohook_http_requests_total", "nanohook_streams_open", "nanohook_deliveries_total"):
            assert f"\n# TYPE {name} " in answer.text
        admin = await rig.make_account(service, "root@example.org", is_admin=True)
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {admin}"})
        assert answer.status_code == 200
    refused(await service.client.get("/metrics"), 403, "forbidden")


async def test_figures_name_routes_and_never_paths(service):
    secret = "s3cret-path"
    await service.client.post(f"/api/webhooks/image-completion/{secret}", json={})
    await service.client.get(f"/{secret}")
    await service.client.get(f"/api/images/{secret}")
    text = (await service.client.get("/metrics", headers={"Authorization": f"Bearer {METRICS}"})).text
    assert secret not in text
    assert 'route="/api/webhooks/image-completion/{token}",status="401"' in text
    assert re.search(r'method="\(any\)",route="\(none\)",status="404"', text)


async def test_without_a_token_set_figures_are_for_admins(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("figures")) as service, guest(service) as client:
        for headers in ({}, {"Authorization": "Bearer"}, {"Authorization": "Bearer None"}):
            refused(await client.get("/metrics", headers=headers), 401, "unauthenticated")


async def test_a_nearly_full_disk_takes_no_new_work(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("disk"), disk_reserve_bytes=2**62) as service:
        upload = await service.client.post("/api/images", files={"file": ("x.png", rig.picture())})
        for answer in (upload, await ask(service, prompt="x")):
            refused(answer, 507, "disk_full")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await listed(service.client))["images"] == []
