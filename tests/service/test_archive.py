"""Several images' pictures as one ZIP: what is in it, what is refused, and that nobody holds it whole."""

import asyncio
import contextlib
import io
import pathlib
import zipfile

import httpx
import pytest
import pytest_asyncio

from nanohook import clock
from tests import books, live, raw, rig

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/images.zip"
NOBODY = "0192a4b0-0000-7000-8000-000000000000"

on_linux = pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="looks into /proc")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("archive")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def done(service):
    """Two jobs with results: one of three pictures, one of one."""
    jobs = []
    for number in (3, 1):
        made = await service.generate(numImages=number, outputFormat="png" if number == 1 else "jpg")
        jobs.append(await service.ended(made["job_id"]))
        assert len(jobs[-1]["images"]) == number
    return jobs


def rows(service, sql, *values):
    return books.rows(service.parts.settings.data_dir, sql, *values)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.json()


async def fetch(service, *names, client=None):
    return await (client or service.client).get(PATH, params={"id": names})


def opened(answer):
    assert answer.status_code == 200, answer.text
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    return archive


@contextlib.asynccontextmanager
async def somebody(service, **more):
    key = await rig.make_account(service, f"p{clock.now_us()}@example.org", **more)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=service.base, headers=headers, trust_env=False, timeout=20) as client:
        yield client


async def full(service, number, *, size):
    """Make a job of its own with many pictures of *size* bytes, all of them holes; return its id."""
    job_id = (await service.upload())["job_id"]
    [owner] = rows(service, "SELECT owner_id FROM jobs WHERE id = ?", job_id)
    folder = service.parts.settings.data_dir / "media" / "results" / job_id
    await asyncio.to_thread(folder.mkdir, parents=True)
    for index in range(number):
        key = f"results/{job_id}/1-{index}-1.png"
        with (folder / f"1-{index}-1.png").open("wb") as file:
            file.truncate(size)
        rows(
            service,
            "INSERT INTO pictures VALUES (?, ?, ?, 1, ?, ?, 'image/png', 1, 1, ?, x'00', 1)",
            *(job_id, index, owner["owner_id"], key, f"{key}-s", size),
        )
    return job_id


# What is in it.


async def test_it_holds_the_very_bytes_of_every_picture(service, done):
    three, single = done
    answer = await fetch(service, single["job_id"], three["job_id"])
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="images.zip"'
    assert answer.headers["cache-control"] == "no-store"
    expected = {
        f"{single['job_id']}.png": single["images"][0],
        f"{three['job_id']}.jpg": three["images"][0],
        f"{three['job_id']}-2.jpg": three["images"][1],
        f"{three['job_id']}-3.jpg": three["images"][2],
    }
    with opened(answer) as archive:
        assert archive.namelist() == list(expected)
        for name, shown in expected.items():
            assert archive.read(name) == (await service.client.get(shown["url"])).content
            assert archive.getinfo(name).file_size == shown["bytes"]


async def test_an_image_named_twice_is_in_it_once(service, done):
    with opened(await fetch(service, *[done[1]["job_id"]] * 3)) as archive:
        assert archive.namelist() == [f"{done[1]['job_id']}.png"]


async def test_an_image_without_a_result_is_left_out(service, done):
    uploaded = (await service.upload())["job_id"]
    with opened(await fetch(service, uploaded, done[1]["job_id"])) as archive:
        assert archive.namelist() == [f"{done[1]['job_id']}.png"]
    refused(await fetch(service, uploaded), 409, "no_result")


# What is refused.


async def test_what_is_unknown_or_anothers_is_404_and_nothing_of_it_leaks(service, done):
    mine = done[1]["job_id"]
    deleted = (await service.upload())["job_id"]
    await service.client.delete(f"/api/images/{deleted}")
    async with somebody(service) as stranger:
        theirs = (await stranger.post("/api/images", files={"file": ("x.png", rig.picture())})).json()["job_id"]
        none = refused(await fetch(service, NOBODY), 404, "not_found")
        for names in ([theirs], [mine, theirs], [mine, NOBODY], [mine, deleted], [""], ["%"], ["' OR 1=1"]):
            assert refused(await fetch(service, *names), 404, "not_found") == none
        assert refused(await fetch(service, mine, client=stranger), 404, "not_found") == none
    async with somebody(service, is_admin=True) as admin:
        opened(await fetch(service, mine, client=admin)).close()


@pytest.mark.parametrize("number", [0, 201])
async def test_it_is_of_1_to_200_images(service, number):
    answer = await fetch(service, *(f"{NOBODY}{index}" for index in range(number)))
    assert refused(answer, 422, "invalid")["errors"][0]["field"] == "id"


async def test_it_has_at_most_200_files(service, done):
    job_id = await full(service, 200, size=10)
    with opened(await fetch(service, job_id)) as archive:
        assert len(set(archive.namelist())) == 200
    said = refused(await fetch(service, job_id, done[1]["job_id"]), 422, "invalid")
    assert "200" in said["errors"][0]["message"]


async def test_it_has_at_most_a_gibibyte(service):
    job_id = await full(service, 2, size=1_000)
    resize = "UPDATE pictures SET bytes = ? WHERE job_id = ? AND idx = ?"
    rows(service, resize, 2**30 - 1_000, job_id, 0)
    opened(await fetch(service, job_id)).close()
    rows(service, resize, 2**30 - 999, job_id, 0)
    assert "GiB" in refused(await fetch(service, job_id), 422, "invalid")["errors"][0]["message"]


async def test_a_file_that_is_missing_is_known_before_the_answer_begins(service):
    job_id = await full(service, 3, size=1_000)
    media = service.parts.settings.data_dir / "media"
    (media / "results" / job_id / "1-1-1.png").unlink()
    said = refused(await fetch(service, job_id), 503, "storage_failed")
    assert job_id in said["detail"]
    assert str(media) not in said["detail"]


# How it is sent.


@on_linux
async def test_it_is_sent_as_it_is_written(service):
    """160 MB pass through in pieces; what the process needs for that is a fraction of it."""
    size, number = 4 * 1024 * 1024, 40
    job_id = await full(service, number, size=size)
    await fetch(service, job_id)  # whatever is loaded once is loaded
    before_kb = _peak_kb(reset=True)
    received = 0
    async with service.client.stream("GET", PATH, params={"id": job_id}) as answer:
        assert answer.status_code == 200
        assert "content-length" not in answer.headers
        async for piece in answer.aiter_raw():
            received += len(piece)
    assert received > size * number
    assert _peak_kb() - before_kb < 32 * 1024


def _peak_kb(*, reset=False):
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split(None, 1)[0])


@pytest.mark.parametrize("more", ["", "Connection: keep-alive\r\n", "TE: chunked\r\n"])
async def test_for_a_client_of_http_1_0_the_end_of_the_connection_is_its_end(service, done, more):
    job_id = await full(service, 3, size=1024 * 1024)
    key = f"Authorization: {service.client.headers['Authorization']}\r\n"
    path = f"{PATH}?id={job_id}&id={done[0]['job_id']}"
    async with raw.opened(service.base) as connection:
        await connection.send(f"GET {path} HTTP/1.0\r\n{key}{more}\r\n".encode())
        answer = await connection.answer(timeout_s=20)  # up to the end of the connection
    assert not {"transfer-encoding", "content-length"} & set(answer.headers)
    assert answer.headers["connection"] == "close"
    with opened(answer) as archive:
        assert sum(each.file_size for each in archive.infolist()[:3]) == 3 * 1024 * 1024
        assert [archive.read(name) for name in archive.namelist()[3:]] == [
            (await service.client.get(shown["url"])).content for shown in done[0]["images"]
        ]


@on_linux
async def test_who_leaves_in_the_middle_leaves_nothing_open(service):
    job_id = await full(service, 40, size=4 * 1024 * 1024)
    folder = str(service.parts.settings.data_dir / "media" / "results" / job_id)
    for _ in range(3):
        async with service.client.stream("GET", PATH, params={"id": job_id}) as answer:
            async for _piece in answer.aiter_raw():
                break
    await live.until(lambda: not _open_below(folder))
    assert (await service.client.get("/healthz")).status_code == 200


def _open_below(folder):
    targets = []
    for entry in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.append(str(entry.readlink()))
    return [target for target in targets if target.startswith(folder)]


async def test_head_says_what_get_would_send(service, done):
    answer = await service.client.head(PATH, params={"id": done[1]["job_id"]})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/zip"
