"""What was asked before an account was disabled or deleted, and comes to its end after it."""

import contextlib

import orjson
import pytest

from nanohook import settings
from nanohook.cli import people
from tests import books, raw, rig
from tests.process import post_mortem

pytestmark = pytest.mark.asyncio(loop_scope="function")

KEPT = ("jobs", "originals", "projects", "api_keys", "ledger", "attempts", "tasks", "idempotency", "sessions")


def form(field):
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="x.png"\r\n\r\n'.encode()
    name = b'\r\n--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nn' if field == "cover" else b""
    return "multipart/form-data; boundary=x", head + rig.picture(16, 16) + name + b"\r\n--x--\r\n"


def sent(body):
    return "application/json", orjson.dumps(body)


async def asks(owner):
    """Every kind of request that stores something, with things of *owner* that it may name."""
    uploaded, deleted = (await owner.upload())["job_id"], (await owner.upload())["job_id"]
    assert (await owner.client.delete(f"/api/images/{deleted}")).status_code == 204
    project = (await owner.client.post("/api/projects", json={"name": "x"})).json()["project_id"]
    failed = (await owner.generate("[sandbox:fail=501] x"))["job_id"]
    assert (await owner.ended(failed))["status"] == "FAILED"
    return {
        "upload": ("POST", "/api/images", *form("file")),
        "project with a cover": ("POST", "/api/projects", *form("cover")),
        "project": ("POST", "/api/projects", *sent({"name": "y"})),
        "another cover": ("PATCH", f"/api/projects/{project}", *form("cover")),
        "generate": ("POST", "/api/generate-image", *sent({"prompt": "a kite"})),
        "generate the uploaded": ("POST", "/api/generate-image", *sent({"imageId": uploaded, "prompt": "a kite"})),
        "batch": ("POST", "/api/batches", *sent({"jobs": [{"prompt": "a kite"}] * 3})),
        "retry": ("POST", f"/api/images/{failed}/retry", *sent({})),
        "retry of many": ("POST", "/api/jobs/retry", *sent({"job_ids": [failed]})),
        "restore of many": ("POST", "/api/images/restore", *sent({"job_ids": [deleted]})),
        "key": ("POST", "/api/auth/keys", *sent({"name": "k"})),
    }


def stands(folder):
    rows = {table: books.rows(folder, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in KEPT}
    for row in rows["api_keys"]:
        row.pop("last_used_at")  # noted beside, whenever
    return rows, post_mortem.files(folder)


@pytest.mark.parametrize("how", ["disabled", "deleted"])
async def test_what_is_under_way_when_an_account_is_shut_is_refused_and_stores_nothing(tmp_path, how):
    async with rig.running(tmp_path) as service, contextlib.AsyncExitStack() as stack:
        owner = await rig.person(service)
        stack.push_async_callback(owner.client.aclose)
        email = (await owner.client.get("/api/auth/me")).json()["email"]
        begun = {}
        for name, (method, path, kind, body) in (await asks(owner)).items():
            connection = await stack.enter_async_context(raw.opened(service.base))
            headers = {
                "Authorization": owner.client.headers["Authorization"],
                "Content-Type": kind,
                "Content-Length": str(len(body)),
                "Expect": "100-continue",
                **({"Idempotency-Key": "once"} if name == "generate" else {}),
            }
            await connection.begin(method, path, headers)
            # Whoever is told to go on has been let in.
            assert b" 100 " in await connection.went_on()
            await connection.send(body[:1])
            begun[name] = connection, body[1:]
        chosen = settings.fixed(data_dir=tmp_path)
        if how == "disabled":
            await people.disable(chosen, email=email, is_disabled=True)
        else:
            await people.delete(chosen, email=email)
        before = stands(tmp_path)
        answers = {}
        for name, (connection, rest) in begun.items():
            await connection.send(rest)
            answer = await connection.answer(timeout_s=20)
            answers[name] = answer.status_code, answer.json()["code"]
        assert answers == dict.fromkeys(begun, (401, "unauthenticated"))
        assert stands(tmp_path) == before
    books.check(tmp_path)
