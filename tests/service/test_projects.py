"""Projects: made, changed and deleted, with the files and the counts that belong to them."""

import asyncio
import contextlib
import dataclasses
import io

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from nanohook import clock, ids
from nanohook.flow import create, projects
from nanohook.rules.job import Stored
from nanohook.rules.status import ImageJobStatus
from tests import books, live, rig
from tests.process import post_mortem

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUNNING = "[sandbox:latency=60]"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"
MOST_BYTES = 600_000
EMPTY = dict.fromkeys(ImageJobStatus, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("projects")
    async with rig.running(folder, max_upload_bytes=MOST_BYTES) as running:
        yield running
        books.check(folder)


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    """Somebody of their own for a test; in the end the counts are right and no file is without a row."""
    async with somebody(service) as made:
        yield made
    books.check(service.parts.settings.data_dir)
    # What was canceled while it was being stored is removed a moment later.
    await live.until(lambda: files(service) == named(service))


@contextlib.asynccontextmanager
async def somebody(service, **more):
    key = await rig.make_account(service, f"p{clock.now_us()}@example.org", credits=100, **more)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as client:
        yield dataclasses.replace(service, client=client)


def files(service):
    return post_mortem.files(service.parts.settings.data_dir)


def named(service):
    covers = rows(service, "SELECT key, thumbnail_key FROM projects WHERE key IS NOT NULL")
    keys = {key for row in covers for key in row.values()}
    return keys | post_mortem.named_files(service.parts.settings.data_dir)


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def make(one, name="a project", **more):
    answer = await one.client.post("/api/projects", json={"name": name, **more})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def make_covered(one, body=None, **fields):
    answer = await one.client.post(
        "/api/projects",
        data={"name": "covered", **fields},
        files={"cover": ("x.png", body or rig.picture(90, 60))},
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def show(one, project):
    return (await one.client.get(f"/api/projects/{project['project_id']}")).raise_for_status().json()


async def change(one, project, **body):
    return await one.client.patch(f"/api/projects/{project['project_id']}", json=body)


async def delete(one, project):
    return await one.client.delete(f"/api/projects/{project['project_id']}")


async def listed(one, **query):
    return (await one.client.get("/api/projects", params=query)).raise_for_status().json()


# Made and changed.


async def test_a_project_is_made_from_json(one):
    made = await make(one, "  Sommer é🍌 ", description="two\nlines")
    assert made == {
        "project_id": made["project_id"],
        "name": "Sommer é🍌",
        "description": "two\nlines",
        "cover": None,
        "counts": EMPTY,
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert await show(one, made) == made
    assert (await listed(one)) == {"projects": [made], "next_cursor": None}
    assert (await make(one))["description"] is None


async def test_a_project_is_made_from_a_form_with_its_cover(one):
    made = await make_covered(one, description="with a cover")
    cover = made["cover"]
    assert (cover["width"], cover["height"], cover["content_type"]) == (90, 60, "image/png")
    for url in (cover["url"], cover["thumbnail_url"]):
        answer = await one.client.get(url)
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).size == (90, 60)
    assert len(files(one)) == len(named(one))
    plain = await one.client.post("/api/projects", files={"name": (None, "no cover")})
    assert (plain.status_code, plain.json()["cover"]) == (201, None)


async def test_what_is_not_named_stays(one):
    made = await make_covered(one, description="first")
    for body, after in (
        ({"name": " renamed "}, {"name": "renamed"}),
        ({"description": "second"}, {"description": "second"}),
        ({"description": ""}, {"description": ""}),
        ({"description": None}, {"description": None}),
        ({}, {}),
        ({"name": "both", "description": "of them"}, {"name": "both", "description": "of them"}),
    ):
        answer = await change(one, made, **body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {**made, **after, "updated_at": answer.json()["updated_at"]}
        assert answer.json()["updated_at"] >= made["updated_at"]
        made = answer.json()
        assert await show(one, made) == made


async def test_a_cover_is_replaced_and_removed_with_its_files(one):
    made = await make_covered(one)
    path = f"/api/projects/{made['project_id']}"
    before = named(one)
    answer = await one.client.patch(path, files={"cover": ("y.png", rig.picture(30, 20))})
    assert (answer.status_code, answer.json()["cover"]["width"], answer.json()["name"]) == (200, 30, "covered")
    assert files(one) == named(one) != before
    assert (await one.client.get(made["cover"]["url"])).status_code == 404
    answer = await one.client.patch(path, data={"name": "both"}, files={"cover": ("z.png", rig.picture(31, 20))})
    assert (answer.json()["cover"]["width"], answer.json()["name"]) == (31, "both")
    for _ in range(2):
        answer = await change(one, made, cover=None)
        assert (answer.status_code, answer.json()["cover"]) == (200, None)
        assert files(one) == named(one)


BAD = [
    {"name": ""},
    {"name": " \n "},
    {"name": "x" * 201},
    {"name": None},
    {"name": 7},
    {"name": ["x"]},
    {"description": "x" * 2_001},
    {"description": 7},
    {"cover": "x"},
    {"cover": {}},
    {"owner_id": "x"},
    {"project_id": NOBODY},
    {"counts": {}},
]


@pytest.mark.parametrize("body", BAD, ids=lambda body: str(body)[:40])
async def test_what_cannot_be_used_is_named_and_nothing_is_stored(one, body):
    made = await make(one)
    for answer in (
        await one.client.post("/api/projects", json={"name": "x", **body}),
        await change(one, made, **body),
    ):
        refused(answer, 422, "invalid")
        assert [line["field"] for line in answer.json()["errors"]] == list(body)
    assert (await listed(one))["projects"] == [made]


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"x"'])
async def test_a_body_that_is_no_object_is_refused(one, body):
    refused(await one.client.post("/api/projects", content=body), 422, "invalid")


async def test_a_project_needs_a_name(one):
    for content in ({"json": {}}, {"content": b""}, {"files": {"description": (None, "x")}}):
        refused(await one.client.post("/api/projects", **content), 422, "invalid")
    refused(await one.client.post("/api/projects", content=b"name=x"), 400, "not_json")
    assert (await listed(one))["projects"] == []


def odd_forms():
    picture = ("x.png", rig.picture(30, 20))
    return {
        "long name": ({"data": {"name": "x" * 201}, "files": {"cover": picture}}, 422),
        "no name": ({"data": {"name": ""}, "files": {"cover": picture}}, 422),
        "unknown field": ({"data": {"name": "x", "more": "y"}, "files": {"cover": picture}}, 422),
        "cover as text": ({"data": {"name": "x", "cover": "y"}, "files": {"description": (None, "z")}}, 422),
        "no picture": ({"data": {"name": "x"}, "files": {"cover": ("x.png", b"not a picture")}}, 415),
        "empty": ({"data": {"name": "x"}, "files": {"cover": ("x.png", b"")}}, 422),
        "half": ({"data": {"name": "x"}, "files": {"cover": ("x.png", picture[1][: len(picture[1]) // 2])}}, 422),
        "too large": ({"data": {"name": "x"}, "files": {"cover": ("x.png", b"\x89PNG" * 160_000)}}, 413),
        "two": ({"data": {"name": "x"}, "files": [("cover", picture), ("cover", picture)]}, 400),
        "no boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
    }


@pytest.mark.parametrize("name", odd_forms())
async def test_a_form_that_cannot_be_used_leaves_nothing(one, name):
    content, status = odd_forms()[name]
    made = await make_covered(one)
    before = files(one)
    for method, path in (("POST", "/api/projects"), ("PATCH", f"/api/projects/{made['project_id']}")):
        answer = await one.client.request(method, path, **content)
        assert answer.status_code == status, (method, answer.text)
        assert files(one) == before
    assert (await listed(one))["projects"] == [made]


async def test_a_body_of_json_is_small(one):
    body = b'{"name": "x", "description": "' + b"y" * 300_000 + b'"}'
    refused(await one.client.post("/api/projects", content=body), 413, "too_large")


async def test_a_cover_for_nobodys_project_leaves_no_file(one):
    async with somebody(one) as other:
        theirs = await make(other)
        before = files(one)
        for project_id in (NOBODY, theirs["project_id"], "x", "%00"):
            path = f"/api/projects/{project_id}"
            answer = await one.client.patch(path, files={"cover": ("x.png", rig.picture(30, 20))})
            refused(answer, 404, "not_found")
            assert files(one) == before


async def test_anothers_project_is_as_unknown_as_none(one):
    made = await make_covered(one)
    async with somebody(one) as other:
        for project_id in (made["project_id"], NOBODY):
            path = f"/api/projects/{project_id}"
            refused(await other.client.get(path), 404, "not_found")
            refused(await other.client.patch(path, json={"name": "mine"}), 404, "not_found")
            refused(await other.client.delete(path), 404, "not_found")
            asked = {"prompt": "x", "projectId": project_id}
            refused(await other.client.post("/api/generate-image", json=asked), 404, "not_found")
        found = await other.client.get("/api/images", params={"project_id": made["project_id"]})
        assert found.json()["images"] == []
        assert (await listed(other))["projects"] == []
    assert await show(one, made) == made


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 8])
async def test_projects_are_listed_newest_first_in_pages_without_gaps(one, limit):
    made = [(await make(one, f"number {number}"))["project_id"] for number in range(7)]
    seen, query = [], {"limit": limit}
    while True:
        page = await listed(one, **query)
        seen += [project["project_id"] for project in page["projects"]]
        if page["next_cursor"] is None:
            break
        assert len(page["projects"]) == limit
        query["cursor"] = page["next_cursor"]
    assert seen == made[::-1]


# What is in them.


async def test_an_upload_into_an_unknown_project_leaves_no_file(one):
    async with somebody(one) as other:
        theirs = await make(other)
        before = files(one)
        for project_id in (NOBODY, theirs["project_id"], "x", "x" * 65, "é"):
            picture = {"file": ("x.png", rig.picture())}
            answer = await one.client.post("/api/images", files=picture, data={"project_id": project_id})
            refused(answer, 404, "not_found")
            assert files(one) == before
    assert (await one.client.get("/api/images")).json()["images"] == []


async def upload(one, project):
    data = {"project_id": project["project_id"]}
    answer = await one.client.post("/api/images", files={"file": ("x.png", rig.picture())}, data=data)
    assert (answer.status_code, answer.json()["project_id"]) == (201, project["project_id"])
    return answer.json()["job_id"]


async def counts(one, project):
    books.check(one.parts.settings.data_dir)
    told = (await show(one, project))["counts"]
    assert set(told) == set(EMPTY)
    return {status: number for status, number in told.items() if number}


async def test_counts_follow_a_job_through_its_life(one):
    project, other = await make(one), await make(one)
    job_id = await upload(one, project)
    assert await counts(one, project) == {"PENDING": 1}
    # Moved to another project as it is asked for.
    body = {"imageId": job_id, "projectId": other["project_id"]}
    await one.generate("a kite [sandbox:latency=0.1][sandbox:fail=501]", **body)
    assert (await one.ended(job_id))["project_id"] == other["project_id"]
    assert (await counts(one, project), await counts(one, other)) == ({}, {"FAILED": 1})

    assert (await one.client.post(f"/api/images/{job_id}/retry")).status_code == 202
    assert (await one.ended(job_id))["status"] == "FAILED"
    assert await counts(one, other) == {"FAILED": 1}

    # A new job of an ended one is in its project; unless another is named.
    second = (await one.generate("a kite", imageId=job_id))["job_id"]
    assert (await one.ended(second))["status"] == "COMPLETED"
    third = (await one.generate(RUNNING, imageId=job_id, projectId=project["project_id"]))["job_id"]
    await live.until(lambda: rows(one, "SELECT 1 FROM jobs WHERE id = ? AND status = 'GENERATING'", third))
    assert await counts(one, other) == {"FAILED": 1, "COMPLETED": 1}
    assert await counts(one, project) == {"GENERATING": 1}

    for name, expected in (("delete", {}), ("restore", {"CANCELED": 1}), ("restore", {"CANCELED": 1})):
        path = f"/api/images/{third}" + ("/restore" if name == "restore" else "")
        await one.client.request("POST" if name == "restore" else "DELETE", path)
        assert await counts(one, project) == expected
    assert (await one.client.post(f"/api/images/{third}/retry")).status_code == 202
    await one.client.post(f"/api/images/{third}/cancel")
    assert await counts(one, project) == {"CANCELED": 1}
    listing = {found["project_id"]: found["counts"] for found in (await listed(one))["projects"]}
    assert listing[project["project_id"]] == {**EMPTY, "CANCELED": 1}


async def test_counts_are_right_after_much_at_once(one):
    made = [await make(one) for _ in range(3)]
    prompts = ("a kite", "[sandbox:fail=501] a kite", "[sandbox:submit=422] a kite", RUNNING)

    async def life(number):
        project_id = made[number % 3]["project_id"]
        job_id = (await one.generate(prompts[number % 4], projectId=project_id))["job_id"]
        for act in ("cancel", "retry", "delete", "restore", "retry", "delete")[: number % 7]:
            path = f"/api/images/{job_id}" + ("" if act == "delete" else f"/{act}")
            await one.client.request("DELETE" if act == "delete" else "POST", path)

    await asyncio.gather(*(life(number) for number in range(20)))
    books.check(one.parts.settings.data_dir)


# Deleted.


async def fill(one, project, number):
    """Put uploaded pictures into a project, without their files."""
    [owner] = rows(one, "SELECT owner_id FROM projects WHERE id = ?", project["project_id"])

    async def unit(tx):
        for _ in range(number):
            key = f"originals/{ids.new_id()}"
            stored = Stored(
                key=key, thumbnail_key=key, content_type="image/png", width_px=1, height_px=1, size_bytes=1
            )
            into = {**owner, "project_id": project["project_id"]}
            await create.upload(tx, stored, **into, language="en", now_us=clock.now_us())

    await one.parts.database.write(unit)


@pytest.mark.parametrize("number", [0, 1, 49, 50, 51, 120])
async def test_a_project_goes_with_all_its_jobs(one, number):
    assert projects.AT_ONCE == 50
    project = await make(one)
    await fill(one, project, number)
    assert await counts(one, project) == ({"PENDING": number} if number else {})
    assert (await delete(one, project)).status_code == 204
    refused(await delete(one, project), 404, "not_found")
    refused(await one.client.get(f"/api/projects/{project['project_id']}"), 404, "not_found")
    assert (await one.client.get("/api/images")).json()["images"] == []
    gone = rows(one, "SELECT deleted_at IS NOT NULL AS gone FROM jobs WHERE project_id = ?", project["project_id"])
    assert gone == [{"gone": 1}] * number
    books.check(one.parts.settings.data_dir)
    # The pictures put in are names only.
    rows(one, "UPDATE jobs SET original_id = NULL WHERE project_id = ?", project["project_id"])
    rows(one, "DELETE FROM originals WHERE key = thumbnail_key")


async def test_what_runs_in_a_deleted_project_is_canceled_and_paid_as_any_other(one):
    project, other = await make(one), await make(one)
    done = (await one.generate("a kite", projectId=project["project_id"]))["job_id"]
    await one.ended(done)
    failed = (await one.generate("[sandbox:submit=422] x", projectId=project["project_id"]))["job_id"]
    await one.ended(failed)
    open_id = (await one.generate(RUNNING, projectId=project["project_id"], numImages=2))["job_id"]
    elsewhere = (await one.generate(RUNNING, projectId=other["project_id"]))["job_id"]
    await live.until(
        lambda: len(rows(one, "SELECT 1 FROM tasks WHERE job_id = ? AND task_id IS NOT NULL", open_id)) == 2
    )
    assert (await delete(one, project)).status_code == 204
    credits = (await one.client.get("/api/credits")).json()
    assert (credits["available"], credits["reserved"]) == (100 - 4 * 4, 4)
    assert (await one.job(elsewhere))["status"] != "CANCELED"

    restored = await one.client.post(f"/api/images/{open_id}/restore")
    assert (restored.status_code, restored.json()["status"], restored.json()["project_id"]) == (
        200,
        "CANCELED",
        None,
    )
    for job_id in (done, failed):
        answer = await one.client.post(f"/api/images/{job_id}/restore")
        assert (answer.status_code, answer.json()["project_id"]) == (200, None)
    books.check(one.parts.settings.data_dir)
    found = (await one.client.get("/api/images", params={"project_id": project["project_id"]})).json()["images"]
    assert found == []


async def test_the_cover_goes_with_its_project(one):
    project = await make_covered(one)
    before = files(one)
    assert (await delete(one, project)).status_code == 204
    assert len(files(one)) == len(before) - 2
    assert (await one.client.get(project["cover"]["url"])).status_code == 404


async def test_changes_and_deletions_at_once_leave_no_file_behind(one):
    for number in (0, 0, 250, 250, 450, 450):
        project = await make_covered(one)
        await fill(one, project, number)
        path = f"/api/projects/{project['project_id']}"
        picture = {"cover": ("y.png", rig.picture(30, 20))}
        answers = await asyncio.gather(
            one.client.patch(path, files=picture),
            one.client.patch(path, json={"cover": None}),
            delete(one, project),
            delete(one, project),
            one.client.patch(path, files=picture),
        )
        assert {answer.status_code for answer in answers} <= {200, 204, 404}
        refused(await one.client.get(path), 404, "not_found")
    unreal = "FROM originals WHERE key = thumbnail_key"
    rows(
        one,
        f"UPDATE jobs SET original_id = NULL WHERE original_id IN (SELECT id {unreal})",
    )
    rows(one, f"DELETE {unreal}")
    assert files(one) == named(one)


async def test_an_admin_lists_everybodys(one):
    async with somebody(one) as other, somebody(one, is_admin=True) as admin:
        theirs = await make(other)
        job = (
            await other.client.post(
                "/api/images", files={"file": ("x.png", rig.picture())}, data={"project_id": theirs["project_id"]}
            )
        ).json()
        assert job["project_id"] == theirs["project_id"]
        everybodys = await listed(admin, scope="all", limit=1)
        assert [project["project_id"] for project in everybodys["projects"]] == [theirs["project_id"]]
        assert everybodys["projects"][0]["counts"]["PENDING"] == 1
        assert (await listed(admin))["projects"] == []
        refused(await one.client.get("/api/projects", params={"scope": "all"}), 403, "forbidden")
