"""The document tells what the service does: all of it, nothing else, and truly."""

import hashlib
import time

import httpx
import orjson
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from nanohook import settings
from nanohook.rules import signing
from nanohook.web import docs, operations, routes
from nanohook.web.operation import REFUSALS, Access
from tests import conform, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = orjson.loads(docs.written()[0])
NOBODY = "0192a4b0-0000-7000-8000-000000000000"
SECRET = "whsec_" + "c2VjcmV0LW9mLXRlc3Rz" * 2
SWAGGER_UI = {
    "swagger-ui.css": "9e576f8322132c76949da47f9bb53c891373c303ea3a761ff548ffc9de50a98c",
    "swagger-ui-bundle.js": "93b7b0862a80e2786f85b560be7693c2344354ffa7e7e224f850a54349724c31",
}
"""As its makers published release 5.31.0; the package that carries it is somebody else's."""
API = ("/api/", "/media/", "/healthz", "/readyz", "/metrics")
"""Of the API; every other path is a page or a file of one."""


def lines():
    """Method and path of every route of the API."""
    table = [route for route in routes.table(settings.fixed()) if isinstance(route, Route)]
    return {
        (method, route.path_format)
        for route in table
        for method in route.methods - {"HEAD"}
        if route.path_format.startswith(API)
    }


OPERATIONS = [pytest.param(each, id=each.line) for each in operations.ALL if (each.method, each.path) in lines()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("openapi"), webhook_secrets=(SECRET,)) as running:
        running.client.event_hooks["response"].append(conform.Document(DOCUMENT).check)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unverified(service):
    async with guest(service) as client:
        key = await rig.make_account(service, "new@example.org", is_verified=False)
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


def guest(service):
    check = conform.Document(DOCUMENT).check
    return httpx.AsyncClient(base_url=service.base, trust_env=False, timeout=20, event_hooks={"response": [check]})


async def ask(client, operation):
    path = operation.path
    for name in operation.variables:
        path = path.replace(f"{{{name}}}", NOBODY)
    async with client.stream(operation.method, path) as answer:
        return answer


async def test_every_route_is_documented_and_every_documented_route_exists():
    assert {(each.method, each.path) for each in operations.ALL} == lines()


async def test_it_is_valid_and_every_reference_leads_somewhere():
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []

    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            value = list(value.values())
        if isinstance(value, list):
            for each in value:
                yield from references(each)

    found = set(references(DOCUMENT))
    for reference in found:
        head, *steps = reference.split("/")
        place = DOCUMENT
        for step in steps:
            place = place[step]
        assert head == "#"
    named = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]
    }
    assert found >= named


async def test_names_are_unique_and_every_refusal_is_one_that_the_service_has():
    names = [each.name for each in operations.ALL]
    assert len(set(names)) == len(names)
    for each in operations.ALL:
        assert each.tag in operations.TAGS
        assert each.statuses - set(each.gives) <= set(REFUSALS)
        assert not set(each.gives) & set(REFUSALS)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_whom_a_route_turns_away_is_as_documented(service, unverified, operation):
    async with guest(service) as nobody:
        answer = await ask(nobody, operation)
    if operation.tag != "callbacks":
        assert (answer.status_code == 401) == bool(operation.who.schemes)
    answer = await ask(unverified, operation)
    turned_away = operation.who in {Access.PERSON, Access.ADMIN, Access.READER, Access.WATCHER}
    # Registration is closed, and no page of ours asks: these are turned away whoever they are.
    if operation.path not in {"/api/auth/register", "/api/auth/login"}:
        assert (answer.status_code == 403) == turned_away
    if operation.who in {Access.ADMIN, Access.WATCHER}:
        assert (await ask(service.client, operation)).status_code == 403


async def test_a_job_from_upload_to_picture_looks_as_documented(service):
    job = await service.upload(rig.picture(64, 48))
    await service.client.get(f"/api/images/{job['job_id']}/result")
    await service.generate(imageId=job["job_id"], numImages=2)
    await service.client.get(f"/api/images/{job['job_id']}/status")
    ended = await service.ended(job["job_id"])
    assert ended["status"] == "COMPLETED"
    for path in ("", "/status", "/result"):
        assert (await service.client.get(f"/api/images/{job['job_id']}{path}")).status_code == 200
    for path in ("/api/images", f"/api/images/{job['job_id']}/history", "/api/credits", "/api/auth/me"):
        assert (await service.client.get(path)).status_code == 200
    checked = await service.client.post("/api/check-generation-status", json={"imageId": job["job_id"]})
    assert checked.json()["status"] == "completed"
    archive = await service.client.get("/api/images.zip", params={"id": job["job_id"]})
    assert (archive.status_code, archive.headers["content-type"]) == (200, "application/zip")
    picture = ended["images"][0]["url"]
    whole = await service.client.get(picture)
    assert whole.status_code == 200
    for headers, status in (
        ({"Range": "bytes=0-9"}, 206),
        ({"Range": "bytes=99999999-"}, 416),
        ({"Range": "what"}, 200),
        ({"If-None-Match": whole.headers["etag"]}, 304),
    ):
        assert (await service.client.get(picture, headers=headers)).status_code == status
    again = await service.client.post(f"/api/images/{job['job_id']}/retry")
    assert again.status_code == 409
    assert (await service.client.delete(f"/api/images/{job['job_id']}")).status_code == 204
    assert (await service.client.post(f"/api/images/{job['job_id']}/restore")).status_code == 200
    told = (await service.client.get(f"/api/images/{job['job_id']}/history")).json()
    assert "deleted" in {event["name"] for event in told["events"]}


async def test_a_failed_job_and_its_retry_look_as_documented(service):
    job_id = (await service.generate("[sandbox:fail=3]"))["job_id"]
    failed = await service.ended(job_id)
    assert failed["status"] == "FAILED"
    assert failed["error"]["code"]
    checked = await service.client.post("/api/check-generation-status", json={"image_id": job_id})
    assert checked.json()["status"] == "failed"
    key = {"Idempotency-Key": "once"}
    again = {"buyAgain": True}
    for _ in range(2):
        answer = await service.client.post(f"/api/images/{job_id}/retry", json=again, headers=key)
        assert answer.status_code == 202
    assert answer.headers["idempotent-replayed"] == "true"
    checked = await service.client.post("/api/check-generation-status", json={"imageId": NOBODY})
    assert checked.json()["error"] == "Image not found"


async def test_a_project_with_a_cover_looks_as_documented(service):
    files = {"cover": ("x.png", rig.picture(64, 48))}
    made = await service.client.post("/api/projects", data={"name": "Kites"}, files=files)
    assert made.status_code == 201, made.text
    path = f"/api/projects/{made.json()['project_id']}"
    assert (await service.client.patch(path, json={"description": "red ones"})).json()["cover"]["width"] == 64
    assert (await service.client.patch(path, json={"cover": None})).json()["cover"] is None
    assert (await service.client.get("/api/projects")).json()["projects"]
    assert (await service.client.delete(path)).status_code == 204


async def test_a_callback_and_its_answers_look_as_documented(service):
    job_id = (await service.generate("[sandbox:latency=60]"))["job_id"]
    schema = DOCUMENT["webhooks"]["image-completion"]["post"]["requestBody"]["content"]["application/json"]
    body = {"code": 501, "msg": "no", "data": {"taskId": "x1", "info": {"resultImageUrl": ""}}}
    conform.Document(DOCUMENT).check_json(schema["schema"], body, what="callback")
    conform.Document(DOCUMENT).check_json(schema["schema"], schema["example"], what="example")
    said = [(await service.call_back(job_id, body)).json()["status"] for _ in range(2)]
    assert said == ["accepted", "duplicate"]
    assert (await service.call_back(job_id, b"{")).status_code == 400
    assert (await service.call_back(job_id, {"what": 1})).status_code == 422
    assert (await service.call_back(job_id, b" " * (1 << 20) + b"{}")).status_code == 413
    content = orjson.dumps({"job_id": NOBODY, "status": "completed"})
    headers = signing.sign_headers(
        webhook_id="msg_1", body=content, secret=signing.parse_secret(SECRET), timestamp_s=int(time.time())
    )
    signed = await service.client.post("/api/webhooks/image-completion", content=content, headers=headers)
    assert signed.json()["status"] == "accepted"


async def test_the_events_of_a_stream_look_as_documented(service):
    job_id = (await service.generate())["job_id"]
    path = f"/api/images/{job_id}/events"
    document = conform.Document(DOCUMENT)
    events = document.operation("GET", path)["responses"]["200"]["content"]["text/event-stream"]["x-events"]
    seen, name = [], ""
    async with service.client.stream("GET", path) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            field, _, text = line.partition(": ")
            name = text if field == "event" else name
            if field == "data":
                document.check_json(events[name], orjson.loads(text), what=name)
                seen.append(name)
    assert len(seen) > 1
    cursor = {"Last-Event-ID": str((await service.job(job_id))["event_id"])}
    assert (await service.client.get(path, headers=cursor)).status_code == 204
    reset = await service.client.get(path, headers={"Last-Event-ID": "what"})
    assert "event: reset\ndata: {}\n" in reset.text
    document.check_json(events["reset"], {}, what="reset")


async def test_the_stream_of_all_jobs_answers_as_documented(service):
    async with service.client.stream("GET", "/api/events") as stream:
        assert stream.status_code == 200
        assert (await anext(stream.aiter_lines())).startswith("retry: ")
    for query, status in (("job=" + NOBODY, 404), ("&".join(["job=x"] * 101), 422)):
        assert (await service.client.get(f"/api/events?{query}")).status_code == status


async def test_it_is_given_once_to_who_has_it_already(service):
    first = await service.client.get("/api/openapi.json")
    assert first.json() == orjson.loads(docs.written(service.cookie)[0])
    assert first.json()["components"]["securitySchemes"]["session"]["name"] == service.cookie
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await service.client.get("/api/openapi.json", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = await service.client.get("/api/openapi.json", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


async def test_of_the_package_behind_the_page_only_what_it_needs_is_served(service):
    for name, sha256 in SWAGGER_UI.items():
        answer = await service.client.get(f"{docs.ASSETS}/{name}")
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).hexdigest() == sha256
        again = await service.client.get(
            f"{docs.ASSETS}/{name}", headers={"If-None-Match": answer.headers["etag"]}
        )
        assert again.status_code == 304
    for name in ("index.html", "swagger-ui-bundle.js.map", "oauth2-redirect.html", "%2e%2e/__init__.py", ""):
        answer = await service.client.get(f"{docs.ASSETS}/{name}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
