"""
Who may what: every route of the table, asked by everybody who may not.

The table itself is walked: a route that is new needs a line here, or these tests fail.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio
from starlette.routing import Mount, Route

from nanohook import clock
from nanohook.flow import accounts as flow
from nanohook.web import credentials, routes
from tests import raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
SECRET = "a-prompt-of-ada"
EXTRA = "a-project-of-ada"
HOUR_S = 3600

PUBLIC = {
    ("POST", "/api/webhooks/image-completion"): "signed by its headers",
    ("POST", "/api/webhooks/image-completion/{token}"): "signed by its address",
    ("GET", "/media/{key:path}"): "signed by its address",
    ("POST", "/api/auth/register"): "how people come in",
    ("POST", "/api/auth/login"): "how people come in",
    ("POST", "/api/auth/password/forgot"): "how people come in",
    ("POST", "/api/auth/password/reset"): "signed by its token",
    ("POST", "/api/auth/verify-email"): "signed by its token",
    ("GET", "/api/openapi.json"): "describes, and holds nothing of anybody",
    ("GET", "/api/docs"): "describes, and holds nothing of anybody",
    ("GET", "/healthz"): "for machines",
    ("GET", "/readyz"): "for machines",
    ("GET", "/"): "leads to a page",
    ("GET", "/login"): "a page for who is not signed in",
    ("GET", "/register"): "a page for who is not signed in",
    ("GET", "/verify-email"): "a page for who is not signed in",
}
"""Routes that answer anybody, and why they may."""

PAGES = {
    "/generate-images",
    "/dashboard/projects",
    "/dashboard/projects/{project_id}",
    "/dashboard/jobs",
    "/dashboard/deliveries",
    "/images/{job_id}",
    "/photos",
}
"""Pages behind the door: who may not come in is told so, by a page."""

MOUNTS = {"/static", "/static/swagger-ui"}
"""Folders of our own files, the same for everybody."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A route for people who are signed in."""

    theirs: tuple[int, str] | None = None
    """What it answers to who names another's thing; ``None``: nothing is named, and all they see is their own."""
    is_for_unverified: bool = False
    json: dict[str, Any] | None = None
    """The body, with the owner's things in it."""
    query: dict[str, str] = field(default_factory=dict)
    is_upload: bool = False


UNKNOWN = (404, "not_found")
NAMES_JOB = {"imageId": "{job_id}", "prompt": "x"}
SOME = {"job_ids": ["0192a4b0-0000-7000-8000-000000000000"]}
"""Others' are refused one by one, in an answer that names them: see ``test_bulk``."""

LINES = {
    ("POST", "/api/auth/logout"): Line(is_for_unverified=True),
    ("GET", "/api/auth/me"): Line(is_for_unverified=True),
    ("POST", "/api/auth/verify-email/resend"): Line(is_for_unverified=True),
    ("POST", "/api/auth/password"): Line(json={"new_password": "a password of eve"}),
    ("GET", "/api/auth/keys"): Line(),
    ("POST", "/api/auth/keys"): Line(),
    ("GET", "/api/auth/sessions"): Line(),
    ("GET", "/api/projects"): Line(),
    ("POST", "/api/projects"): Line(json={"name": "a project of eve"}),
    ("GET", "/api/images"): Line(query={"project_id": "{project_id}", "task_id": "{task_id}"}),
    ("GET", "/api/credits"): Line(),
    ("GET", "/api/credits/estimate"): Line(),
    ("GET", "/api/images/{job_id}"): Line(theirs=UNKNOWN),
    ("GET", "/api/images/{job_id}/status"): Line(theirs=UNKNOWN),
    ("GET", "/api/images/{job_id}/result"): Line(theirs=UNKNOWN),
    ("GET", "/api/images/{job_id}/history"): Line(theirs=UNKNOWN),
    ("GET", "/api/images/{job_id}/events"): Line(theirs=UNKNOWN),
    ("GET", "/api/events"): Line(theirs=UNKNOWN, query={"job": "{job_id}"}),
    ("GET", "/api/images.zip"): Line(theirs=UNKNOWN, query={"id": "{job_id}"}),
    ("POST", "/api/events/token"): Line(theirs=UNKNOWN, json={"job_id": "{job_id}"}),
    ("POST", "/api/images"): Line(theirs=UNKNOWN, is_upload=True),
    ("POST", "/api/generate-image"): Line(theirs=UNKNOWN, json=NAMES_JOB),
    ("POST", "/api/check-generation-status"): Line(theirs=(403, "forbidden"), json={"imageId": "{job_id}"}),
    ("POST", "/api/images/{job_id}/cancel"): Line(theirs=UNKNOWN),
    ("POST", "/api/images/{job_id}/retry"): Line(theirs=UNKNOWN),
    ("POST", "/api/images/{job_id}/restore"): Line(theirs=UNKNOWN),
    ("POST", "/api/images/{job_id}/accept-late"): Line(theirs=UNKNOWN),
    ("POST", "/api/batches"): Line(json={"jobs": [{"prompt": "x"}]}),
    ("GET", "/api/batches/{batch_id}"): Line(theirs=UNKNOWN),
    ("POST", "/api/batches/{batch_id}/cancel"): Line(theirs=UNKNOWN),
    ("POST", "/api/jobs/retry"): Line(json={"all_failed": True}),
    ("POST", "/api/images/delete"): Line(json=SOME),
    ("POST", "/api/images/restore"): Line(json=SOME),
    ("GET", "/api/stats"): Line(),
    ("GET", "/api/projects/{project_id}"): Line(theirs=UNKNOWN),
    ("PATCH", "/api/projects/{project_id}"): Line(theirs=UNKNOWN, json={"name": "taken over"}),
    # What removes something comes last: the owner may do all of this, one after the other.
    ("DELETE", "/api/auth/keys/{key_id}"): Line(theirs=UNKNOWN),
    ("DELETE", "/api/auth/sessions/{session_id}"): Line(theirs=UNKNOWN),
    ("DELETE", "/api/images/{job_id}"): Line(theirs=UNKNOWN),
    ("DELETE", "/api/projects/{project_id}"): Line(theirs=UNKNOWN),
}
ADMINS = {
    ("GET", "/metrics"),
    ("POST", "/api/work/pause"),
    ("POST", "/api/work/resume"),
    ("POST", "/api/work/drain"),
    ("GET", "/api/deliveries"),
    ("GET", "/api/deliveries/{delivery_id}"),
    ("POST", "/api/deliveries/{delivery_id}/replay"),
    ("POST", "/api/deliveries/replay"),
    ("POST", "/api/deliveries/test"),
}
"""For admins, or who holds a token of their own."""
WORDS = {
    "unauthenticated": "Unauthorized",
    "email_unverified": "Email verification required",
    "forbidden": "Forbidden",
}
"""What ``check-generation-status`` adds, for callers who know its errors by other names."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("refusals"), reconcile_after_s=HOUR_S) as running:
        yield running


@pytest.fixture(scope="module")
def table(service):
    """Method and path of every route; the mounts aside."""
    found = routes.table(service.parts.settings)
    assert {mount.path for mount in found if isinstance(mount, Mount)} <= MOUNTS
    assert all(isinstance(line, (Route, Mount)) for line in found)
    return {(method, line.path) for line in found if isinstance(line, Route) for method in line.methods - {"HEAD"}}


def guest(service, key=None, **headers):
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def eve(service):
    """Somebody else, with a thing or two of her own."""
    async with guest(service, await rig.make_account(service, "eve@example.org")) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(service):
    async with guest(service, await rig.make_account(service, "root@example.org", is_admin=True)) as client:
        yield client


async def make_things(service):
    """A project, a completed job in it, a key, and a session; all of them Ada's."""
    project = (await service.client.post("/api/projects", json={"name": EXTRA})).raise_for_status().json()
    files, data = {"file": ("x.png", rig.picture(32, 32))}, {"project_id": project["project_id"]}
    job = (await service.client.post("/api/images", files=files, data=data)).raise_for_status().json()
    asked = {"jobs": [{"prompt": SECRET}]}
    batch = (await service.client.post("/api/batches", json=asked)).raise_for_status().json()
    await service.generate(SECRET, imageId=job["job_id"])
    ended = await service.ended(job["job_id"])
    assert (ended["status"], ended["project_id"]) == ("COMPLETED", project["project_id"])
    key = (await service.client.post("/api/auth/keys", json={"name": "ada's laptop"})).raise_for_status().json()
    came = await service.parts.database.read(lambda tx: tx.one("SELECT id FROM deliveries"))
    return {
        "delivery_id": came["id"],
        "job_id": job["job_id"],
        "project_id": project["project_id"],
        "batch_id": batch["batch_id"],
        "key_id": key["id"],
        "session_id": (await session(service, "ada@example.org")).partition("=")[2].partition(".")[0],
        "task_id": ended["tasks"][0]["task_id"],
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def things(service):
    return await make_things(service)


def filled(asked, things):
    """Put the names of *things* into what is asked, however deep."""
    if isinstance(asked, dict):
        return {name: filled(value, things) for name, value in asked.items()}
    if isinstance(asked, list):
        return [filled(value, things) for value in asked]
    return asked.format(**things) if isinstance(asked, str) else asked


async def ask(client, line, things, *, may=False):
    """Send the request of a line, about *things*; of whoever *may*, the head of a stream is enough."""
    (method, path), of = line, LINES[line]
    path, query = path.format(**things), filled(of.query, things)
    if of.is_upload:
        files, data = {"file": ("x.png", rig.picture(8, 8))}, {"project_id": things["project_id"]}
        return await client.request(method, path, files=files, data=data, params=query)
    method = "HEAD" if may and path.endswith("events") else method
    return await client.request(method, path, json=filled(of.json, things), params=query)


async def unread(service, line, things, headers):
    """Send the head of a request alone, about *things*: who is refused is not listened to."""
    method, path = line
    query = filled(LINES.get(line, Line()).query, things)
    target = httpx.URL(path.format(**things), params=query).raw_path.decode()
    size_bytes = 100 if line in ADMINS else 20_000_000
    return await raw.without_body(service.base, method, target, headers, size_bytes=size_bytes)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("www-authenticate") == ("Bearer" if code == "unauthenticated" else None)


UNDER_WAY = (
    "SELECT 1 FROM tasks JOIN jobs ON jobs.id = job_id "
    "WHERE tasks.stage NOT IN ('completed', 'failed', 'canceled') "
    f"AND NOT (tasks.stage = 'generating' AND prompt = '{RUNNING}')"
)
"""Finds a task that will change by itself in a moment."""


async def everything(service):
    """All rows of all tables, once nothing changes by itself; when a key was last used aside."""
    async with asyncio.timeout(20):
        while await service.parts.database.read(lambda tx: tx.one(UNDER_WAY)):  # noqa: ASYNC110 - it is a query
            await asyncio.sleep(0.01)

    async def read(tx):
        names = [row["name"] for row in await tx.all("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        # What strangers sent to the webhook is counted a while later.
        for name in set(names) - {"rejections"}:
            rows = [dict(row) for row in await tx.all(f'SELECT * FROM "{name}"')]
            found[name] = [{key: row[key] for key in row if key != "last_used_at"} for row in rows]
        return found

    return await service.parts.database.read(read)


async def person_of(service, email):
    row = await service.parts.database.read(lambda tx: tx.one("SELECT id FROM users WHERE email = ?", (email,)))
    return row["id"]


async def run(service, sql, *values):
    await service.parts.database.write(lambda tx: tx.run(sql, values))


async def session(service, email, *, is_expired=False, is_ended=False):
    """The cookie of a session."""
    user_id, now_us = await person_of(service, email), clock.now_us()
    session_id = await service.parts.database.write(
        lambda tx: flow.sign_in(tx, user_id, browser=flow.Browser(), now_us=now_us)
    )
    if is_ended:
        await run(service, "DELETE FROM sessions WHERE id = ?", session_id)
    expires_at_s = int(time.time()) + (-1 if is_expired else HOUR_S)
    return f"{service.cookie}={service.parts.tokens.sign_purpose(credentials.SESSION, session_id, expires_at_s)}"


# Every route has its line.


async def test_every_route_of_the_table_has_a_line_here(table):
    known = {*PUBLIC, *LINES, *ADMINS, *(("GET", path) for path in PAGES)}
    assert table - known == set(), "a new route: say who may, in PUBLIC, PAGES or LINES"
    assert set(LINES) - table == set(), "a line without a route"
    assert len(LINES) + len(PUBLIC) == len({*LINES, *PUBLIC})


@pytest.mark.parametrize("line", LINES, ids=" ".join)
async def test_who_is_nobody_is_refused_before_the_body_is_read(service, things, line):
    # The last are Ada herself, by what is no longer good.
    wrong = {
        "no login": {},
        "a wrong key": {"Authorization": "Bearer nh_wrong"},
        "a password": {"Authorization": "Basic YWRhOnB3"},
        "no key": {"Authorization": "Bearer"},
        "odd bytes": {"Authorization": "Bearer \xfc"},
        "a wrong cookie": {"Cookie": f"{service.cookie}=x"},
        "an expired cookie": {"Cookie": await session(service, "ada@example.org", is_expired=True)},
        "an ended session": {"Cookie": await session(service, "ada@example.org", is_ended=True)},
    }
    before = await everything(service)
    said = WORDS["unauthenticated"] if "check-generation" in line[1] else None
    for name, headers in wrong.items():
        answer = await unread(service, line, things, {"Origin": service.base, **headers})
        refused(answer, 401, "unauthenticated")
        assert (name, answer.json().get("error")) == (name, said)
    assert await everything(service) == before


async def dead(service):
    """What opened everything a moment ago: two keys, and a cookie whose session has not ended."""
    revoked = await rig.make_account(service, "revoked@example.org")
    disabled = await rig.make_account(service, "disabled@example.org", is_admin=True)
    for key in (revoked, disabled):
        async with guest(service, key) as client:
            assert (await client.get("/api/images")).status_code == 200
    user_id = await person_of(service, "revoked@example.org")
    await run(service, "UPDATE api_keys SET revoked_at = 1 WHERE owner_id = ?", user_id)
    cookie = await session(service, "disabled@example.org")
    async with guest(service, Cookie=cookie) as client:
        assert (await client.get("/api/images")).status_code == 200
    await run(service, "UPDATE users SET disabled_at = 1 WHERE email = 'disabled@example.org'")
    keys = [{"Authorization": f"Bearer {key}"} for key in (revoked, disabled)]
    return [*keys, {"Cookie": cookie, "Origin": service.base}]


async def test_a_dead_key_opens_no_route(service, things, table):
    wrong = await dead(service)
    before = await everything(service)
    for method, path in {*LINES, *ADMINS} & table:
        for headers in wrong:
            answer = await unread(service, (method, path), things, headers)
            refused(answer, 401, "unauthenticated")
    assert await everything(service) == before


async def test_who_is_not_verified_reads_themselves_and_no_more(service, things, table):
    key = await rig.make_account(service, "new@example.org", is_verified=False)
    cookie = {"Cookie": await session(service, "new@example.org"), "Origin": service.base}
    before = await everything(service)
    for method, path in {*LINES, *ADMINS} & table:
        of = LINES.get((method, path), Line())
        for headers in ({"Authorization": f"Bearer {key}"}, cookie):
            if of.is_for_unverified:
                continue
            answer = await unread(service, (method, path), things, headers)
            refused(answer, 403, "email_unverified")
            said = WORDS["email_unverified"] if "check-generation" in path else None
            assert answer.json().get("error") == said
    assert await everything(service) == before
    async with guest(service, key) as client:
        open_to_them = {line for line in LINES if LINES[line].is_for_unverified}
        answers = {path: await client.request(method, path) for method, path in open_to_them}
        assert {path: answer.status_code for path, answer in answers.items()} == {
            "/api/auth/logout": 204,
            "/api/auth/me": 200,
            "/api/auth/verify-email/resend": 202,
        }


@pytest.mark.parametrize("line", [line for line in LINES if LINES[line].theirs], ids=" ".join)
async def test_what_is_anothers_is_refused_and_stays_as_it_is(service, eve, things, line):
    before = await everything(service)
    answer = await ask(eve, line, things)
    refused(answer, *LINES[line].theirs)
    assert answer.json().get("error") == (WORDS["forbidden"] if "check-generation" in line[1] else None)
    assert await everything(service) == before
    # It is not told from what is not there at all, but where callers know the difference.
    nothing = dict.fromkeys(things, "0192a4b0-0000-7000-8000-000000000000")
    none = await ask(eve, line, nothing)
    if LINES[line].theirs == UNKNOWN:
        assert (none.status_code, none.content) == (answer.status_code, answer.content)
    else:
        refused(none, 404, "not_found")


@pytest.mark.parametrize("line", [line for line in LINES if not LINES[line].theirs], ids=" ".join)
async def test_who_names_nothing_sees_their_own_alone(service, eve, things, line):
    answer = await ask(eve, line, things)
    assert answer.status_code in {200, 201, 202, 204}, answer.text
    ada = [*things.values(), "ada@example.org", await person_of(service, "ada@example.org"), SECRET, EXTRA]
    assert [word for word in ada if word in answer.text] == []


async def test_the_owner_may_all_of_it(service):
    """So that nothing above was refused by accident."""
    things = await make_things(service)
    running = {"POST /api/images/{job_id}/cancel": 409, "POST /api/images/{job_id}/retry": 409}
    for line in LINES:
        if "password" in line[1]:
            continue
        answer = await ask(service.client, line, things, may=True)
        assert (line, answer.status_code) == (line, running.get(" ".join(line), answer.status_code))
        assert answer.status_code in {200, 201, 202, 204, 409}, (line, answer.text)
    async with guest(service) as anybody:
        for method, path in PUBLIC:
            answer = await anybody.request(method, path)
            code = answer.json().get("code") if "json" in answer.headers.get("content-type", "") else None
            assert code not in {"unauthenticated", "email_unverified", "forbidden"}, (method, path)


async def test_figures_and_everybodys_work_are_an_admins(service, eve, admin):
    before = await everything(service)
    for method, path in ADMINS:
        refused(await eve.request(method, path), 403, "forbidden")
    assert await everything(service) == before
    assert (await admin.get("/metrics")).status_code == 200


async def test_pages_show_nothing_to_who_may_not_come_in(service, eve, things, table):
    found = [path for method, path in table if path in PAGES]
    assert found
    unverified = await rig.make_account(service, "page@example.org", is_verified=False)
    cookies = {
        "nobody": {},
        "expired": {"Cookie": await session(service, "ada@example.org", is_expired=True)},
        "unverified": {"Authorization": f"Bearer {unverified}"},
        "eve": {"Authorization": eve.headers["Authorization"]},
    }
    ada = [*things.values(), SECRET, EXTRA]
    for path in found:
        for name, headers in cookies.items():
            async with guest(service, **headers) as client:
                answer = await client.get(path.format(**things))
            assert answer.status_code in ({200, 404} if name == "eve" else {303, 401, 403}), (name, path)
            # The address itself may be said again, to come back to it.
            text = answer.text.replace(path.format(**things), "")
            assert [word for word in ada if word in text] == [], (name, path)


# Every place where an id can be given.


@pytest.mark.parametrize(
    "named",
    [
        ("/api/generate-image", {"prompt": "x", "imageId": "{job_id}"}),
        ("/api/generate-image", {"prompt": "x", "image_id": "{job_id}"}),
        ("/api/generate-image", {"prompt": "x", "imageId": "{job_id}", "use": "result"}),
        ("/api/generate-image", {"prompt": "x", "projectId": "{project_id}"}),
        ("/api/generate-image", {"prompt": "x", "imageId": "{own_id}", "projectId": "{project_id}"}),
        ("/api/events/token", {"job_id": "{job_id}"}),
    ],
    ids=str,
)
async def test_an_id_of_anothers_in_a_body_is_unknown(service, eve, admin, things, named):
    path, asked = named
    for client in (eve, admin):
        mine = (await client.post("/api/images", files={"file": ("x.png", rig.picture(8, 8))})).json()["job_id"]
        before = await everything(service)
        refused(await client.post(path, json=filled(asked, {**things, "own_id": mine})), 404, "not_found")
        assert await everything(service) == before


async def test_an_id_of_anothers_beside_ones_own_is_unknown(service, eve, things):
    own = (await eve.post("/api/generate-image", json={"prompt": "x"})).json()["job_id"]
    for both in ([own, things["job_id"]], [things["job_id"], own]):
        refused(await eve.get("/api/images.zip", params={"id": both}), 404, "not_found")
        refused(await eve.get("/api/events", params={"job": both}), 404, "not_found")
    asked = {"imageId": own, "taskId": things["task_id"]}
    refused(await eve.post("/api/check-generation-status", json=asked), 404, "unknown_task")
    asked = {"imageId": things["job_id"], "taskId": things["task_id"]}
    refused(await eve.post("/api/check-generation-status", json=asked), 403, "forbidden")
    # A cursor is a place in a list, and no way to what stands there.
    for path, cursor in (("/api/images", "job_id"), ("/api/projects", "project_id")):
        answer = await eve.get(path, params={"cursor": things[cursor]})
        assert answer.status_code == 200
        assert [word for word in (*things.values(), SECRET) if word in answer.text] == []


async def test_a_cover_for_anothers_project_is_not_kept(service, eve, things):
    files = {"cover": ("x.png", rig.picture(8, 8))}
    before = sorted(service.parts.settings.data_dir.rglob("*.png"))
    refused(await eve.patch(f"/api/projects/{things['project_id']}", files=files), 404, "not_found")
    assert sorted(service.parts.settings.data_dir.rglob("*.png")) == before


async def test_anothers_idempotency_key_is_a_key_of_ones_own(service, eve):
    asked, headers = {"prompt": RUNNING}, {"Idempotency-Key": "the same for both"}
    answers = [
        await client.post("/api/generate-image", json=asked, headers=headers)
        for client in (service.client, eve, service.client)
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 202]
    first, theirs, again = (answer.json()["job_id"] for answer in answers)
    assert first == again != theirs
    assert "idempotent-replayed" not in answers[1].headers


# Tokens in addresses.


async def stream_token(client, job_id=None):
    body = {} if job_id is None else {"job_id": job_id}
    answer = await client.post("/api/events/token", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["url"].endswith(f"?token={answer.json()['token']}")
    return answer.json()["token"]


async def head(client, path, token, **query):
    """Open a stream and leave; a refusal has its body."""
    answer = await client.head(path, params={"token": token, **query})
    return answer if answer.status_code == 200 else await client.get(path, params={"token": token, **query})


def of(job_id):
    return f"/api/images/{job_id}/events"


async def test_a_streams_token_opens_its_own_stream_alone(service, eve):
    first, second = [(await service.generate(RUNNING))["job_id"] for _ in range(2)]
    theirs = (await eve.post("/api/generate-image", json={"prompt": RUNNING})).json()["job_id"]
    one, every = await stream_token(service.client, first), await stream_token(service.client)
    async with guest(service) as anybody:
        for token, path, query in (
            (one, of(first), {}),
            (one, "/api/events", {"job": first}),
            (every, of(first), {}),
            (every, of(second), {}),
            (every, "/api/events", {}),
            (every, "/api/events", {"job": [first, second]}),
        ):
            answer = await head(anybody, path, token, **query)
            assert (path, answer.status_code) == (path, 200)
        for path, query in (
            (of(second), {}),
            (of(theirs), {}),
            ("/api/events", {}),
            ("/api/events", {"job": second}),
            ("/api/events", {"job": [first, second]}),
            ("/api/events", {"scope": "all"}),
        ):
            refused(await head(anybody, path, one, **query), 401, "unauthenticated")
        # A token of all of one's jobs is none of another's.
        refused(await head(anybody, of(theirs), every), 404, "not_found")
        refused(await head(anybody, "/api/events", every, job=[first, theirs]), 404, "not_found")
        refused(await head(anybody, "/api/events", every, scope="all"), 403, "forbidden")


async def test_a_streams_token_that_is_no_longer_good_opens_nothing(service):
    job_id = (await service.generate(RUNNING))["job_id"]
    user_id = await person_of(service, "ada@example.org")
    tokens, now_s = service.parts.tokens, int(time.time())
    good = await stream_token(service.client, job_id)
    _, expires, _ = good.split(".")
    assert abs(int(expires) - now_s - 24 * HOUR_S) < 10
    image = (await service.client.get("/api/images", params={"status": "COMPLETED"})).json()["images"][0][
        "images"
    ][0]
    wrong = {
        "expired": tokens.sign_purpose("stream", f"{user_id} {job_id}", now_s),
        "of nobody": tokens.sign_purpose("stream", f"nobody {job_id} nothing", now_s + HOUR_S),
        "of no key": tokens.sign_purpose("stream", f"{user_id} {job_id} nothing", now_s + HOUR_S),
        "without a job": tokens.sign_purpose("stream", user_id, now_s + HOUR_S),
        "of a session": tokens.sign_purpose(credentials.SESSION, f"{user_id} {job_id}", now_s + HOUR_S),
        "of media": tokens.sign_media(key=f"{user_id} {job_id}", expires_at_s=now_s + HOUR_S),
        "of a picture": image["url"].partition("?token=")[2],
        "of a callback": service.token(job_id),
    }
    foreign = {"cut": good[:-1], "empty": "", "odd": "é🍌\x00", "somebody else's": "0123456789abcdef"}
    paths = ((of(job_id), {}), ("/api/events", {}), ("/api/events", {"job": job_id}))
    for name, token in wrong.items():
        for path, query in paths:
            answer = await service.client.get(path, params={"token": token, **query})
            refused(answer, 401, "unauthenticated")
            assert name not in answer.text
    # What is not even of our form opens nothing, and hides no credential that does.
    async with guest(service) as anybody:
        for token in foreign.values():
            for path, query in paths:
                refused(await anybody.get(path, params={"token": token, **query}), 401, "unauthenticated")
                assert (await head(service.client, path, token, **query)).status_code == 200


async def test_a_streams_token_ends_with_the_person(service):
    key = await rig.make_account(service, "gone@example.org")
    async with guest(service, key) as client, guest(service) as anybody:
        job_id = (await client.post("/api/generate-image", json={"prompt": RUNNING})).json()["job_id"]
        tokens = [await stream_token(client, job_id), await stream_token(client)]
        for token in tokens:
            assert (await head(anybody, of(job_id), token)).status_code == 200
        await run(service, "UPDATE users SET verified_at = NULL WHERE email = 'gone@example.org'")
        for token in tokens:
            refused(await head(anybody, of(job_id), token), 403, "email_unverified")
        await run(service, "UPDATE users SET verified_at = 1, disabled_at = 1 WHERE email = 'gone@example.org'")
        for token in tokens:
            refused(await head(anybody, of(job_id), token), 401, "unauthenticated")


async def test_a_token_in_an_address_opens_nothing_else(service, things):
    """Neither a stream's nor a picture's, wherever it is put."""
    job = await service.job(things["job_id"])
    path, _, media = job["images"][0]["url"].partition("?token=")
    tokens = [await stream_token(service.client), await stream_token(service.client, things["job_id"]), media]
    async with guest(service) as anybody:
        assert (await anybody.get(job["images"][0]["url"])).status_code == 200
        for token in tokens:
            for headers in (
                {},
                {"Authorization": f"Bearer {token}"},
                {"Cookie": f"{service.cookie}={token}", "Origin": service.base},
            ):
                for line in LINES:
                    method, route = line
                    if route.endswith("events"):
                        continue
                    address = f"{route.format(**things)}?token={token}"
                    refused(await anybody.request(method, address, headers=headers), 401, "unauthenticated")
            if token != media:
                refused(await anybody.get(path, params={"token": token}), 401, "signature_invalid")
        other = job["original"]["url"].partition("?")[0]
        refused(await anybody.get(other, params={"token": media}), 401, "signature_invalid")


# Admins.


async def audits(service):
    rows = await service.parts.database.read(lambda tx: tx.all("SELECT * FROM audit ORDER BY id"))
    return [(row["actor"], row["action"], row["subject"], row["after"]) for row in rows]


async def test_an_admin_reads_anybodys_job(service, admin, things):
    before = await audits(service)
    job_id = things["job_id"]
    assert (await admin.get(f"/api/images/{job_id}")).json() == await service.job(job_id)
    for name in ("status", "result", "history"):
        path = f"/api/images/{job_id}/{name}"
        theirs = await admin.get(path)
        assert (theirs.status_code, theirs.json()) == (200, (await service.client.get(path)).json())
    for path, query in ((of(job_id), {}), ("/api/events", {"job": job_id}), ("/api/events", {"scope": "all"})):
        assert (await admin.head(path, params=query)).status_code == 200
    asked = {"imageId": job_id, "taskId": things["task_id"]}
    said = (await admin.post("/api/check-generation-status", json=asked)).raise_for_status().json()
    assert (said["status"], said["imageId"]) == ("completed", job_id)
    assert (await admin.get("/api/images.zip", params={"id": job_id})).status_code == 200

    async def listed(**query):
        answer = (await admin.get("/api/images", params={"limit": 200, **query})).raise_for_status().json()
        return {image["job_id"] for image in answer["images"]}

    assert job_id in await listed(scope="all")
    assert await listed(scope="all", task_id=things["task_id"]) == {job_id}
    assert job_id not in await listed()
    assert job_id not in await listed(scope="mine")
    refused(await admin.get("/api/images", params={"scope": "everything"}), 422, "invalid")
    # Reading is nobody's affair but theirs.
    assert await audits(service) == before


async def test_an_admin_creates_and_removes_nothing_in_anothers_name(service, admin, things):
    may = {"cancel", "retry", "accept-late"}
    changing = [
        line for line in LINES if line[0] != "GET" and LINES[line].theirs and line[1].rpartition("/")[2] not in may
    ]
    changing.remove(("POST", "/api/check-generation-status"))
    assert len(changing) >= 8
    hidden = await make_things(service)
    await service.client.delete(f"/api/images/{hidden['job_id']}")
    before = await everything(service)
    for line in changing:
        about = hidden if line[1].endswith("restore") else things
        refused(await ask(admin, line, about), 404, "not_found")
    refused(await admin.get(f"/api/projects/{things['project_id']}"), 404, "not_found")
    for use in ("original", "result"):
        asked = {"prompt": "x", "imageId": things["job_id"], "use": use}
        refused(await admin.post("/api/generate-image", json=asked), 404, "not_found")
    assert await everything(service) == before


async def test_what_an_admin_does_with_anothers_job_is_written_down(service, admin):
    root = await person_of(service, "root@example.org")
    before = await audits(service)
    running = (await service.generate(RUNNING))["job_id"]
    failing = (await service.generate("[sandbox:fail=501]"))["job_id"]
    await service.ended(failing)
    assert (await admin.post(f"/api/images/{running}/cancel")).json()["status"] == "CANCELED"
    retried = await admin.post(f"/api/images/{failing}/retry")
    assert (retried.status_code, retried.json()["attempt"]) == (202, 2)
    assert (await audits(service))[len(before) :] == [
        (root, "job.cancel", running, "CANCELED"),
        (root, "job.retry", failing, "PENDING"),
    ]
    assert (await service.job(failing))["attempt"] == 2
    # What is refused was not done, and one's own is one's own affair.
    before = await audits(service)
    assert (await admin.post(f"/api/images/{things_none()}/cancel")).status_code == 404
    refused(await admin.post(f"/api/images/{running}/retry", json={"buyAgain": 1}), 422, "invalid")
    own = (await admin.post("/api/generate-image", json={"prompt": RUNNING})).json()["job_id"]
    assert (await admin.post(f"/api/images/{own}/cancel")).status_code == 200
    again = (await service.generate(RUNNING))["job_id"]
    assert (await service.client.post(f"/api/images/{again}/cancel")).status_code == 200
    assert await audits(service) == before


def things_none():
    return "0192a4b0-0000-7000-8000-000000000000"


async def test_everybodys_things_are_for_admins_with_an_admins_key(service, eve, admin):
    plain = (await admin.post("/api/auth/keys", json={})).json()["key"]
    async with guest(service, plain) as without_rights:
        for client in (eve, without_rights, service.client):
            for path in ("/api/images", "/api/events"):
                refused(await client.get(path, params={"scope": "all"}), 403, "forbidden")
        job_id = (await service.generate(RUNNING))["job_id"]
        for method, path in (("GET", ""), ("GET", "/status"), ("GET", "/events"), ("POST", "/cancel")):
            answer = await without_rights.request(method, f"/api/images/{job_id}{path}")
            refused(answer, 404, "not_found")
    async with guest(service, Cookie=await session(service, "root@example.org"), Origin=service.base) as browser:
        assert (await browser.get(f"/api/images/{job_id}")).status_code == 200
    await run(service, "UPDATE users SET is_admin = 0 WHERE email = 'root@example.org'")
    refused(await admin.get(f"/api/images/{job_id}"), 404, "not_found")
    refused(await admin.get("/api/images", params={"scope": "all"}), 403, "forbidden")
    refused(await admin.get("/api/events", params={"scope": "all"}), 403, "forbidden")
    refused(await admin.post(f"/api/images/{job_id}/cancel"), 404, "not_found")
    await run(service, "UPDATE users SET is_admin = 1 WHERE email = 'root@example.org'")


async def test_an_admins_token_in_an_address_has_no_rights_over_others(service, admin):
    job_id = (await service.generate(RUNNING))["job_id"]
    assert (await admin.head(of(job_id))).status_code == 200
    refused(await admin.post("/api/events/token", json={"job_id": job_id}), 404, "not_found")
    token = await stream_token(admin)
    async with guest(service) as anybody:
        refused(await head(anybody, of(job_id), token), 404, "not_found")
        refused(await head(anybody, "/api/events", token, job=job_id), 404, "not_found")
        refused(await head(anybody, "/api/events", token, scope="all"), 403, "forbidden")
        assert (await head(anybody, "/api/events", token)).status_code == 200
