"""A picture's address opens it as long as something shows the picture, and no longer."""

import io
import os
import re
import time

import httpx
import pytest
import pytest_asyncio
from PIL import Image

from nanohook.web import media
from nanohook.web.outgoing import PIECE_BYTES
from tests import rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("media")) as running:
        yield running


async def completed(service, **asked):
    job_id = (await service.generate(**asked))["job_id"]
    return await service.ended(job_id)


def noise():
    held = io.BytesIO()
    Image.effect_noise((600, 600), 64).convert("RGB").save(held, "PNG")
    return held.getvalue()


def can_tell_what_is_cached(path):
    try:
        with path.open("rb", buffering=0) as file:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except (AttributeError, OSError):
        return False


def urls(job):
    pictures = [*job["images"], *([job["original"]] if job["original"] else [])]
    return [picture[name] for picture in pictures for name in ("url", "thumbnail_url")]


async def statuses(service, addresses, **headers):
    """As a stranger who was given the addresses."""
    async with httpx.AsyncClient(base_url=service.base, trust_env=False, headers=headers) as client:
        return [(await client.get(address)).status_code for address in addresses]


async def test_a_deleted_pictures_address_opens_nothing_until_it_is_restored(service):
    uploaded = await service.upload()
    job = await completed(service, imageId=uploaded["job_id"])
    addresses = urls(job)
    assert len(addresses) == 4
    assert await statuses(service, addresses) == [200] * 4
    tag = (await service.client.get(addresses[0])).headers["etag"]
    assert (await service.client.delete(f"/api/images/{job['job_id']}")).status_code == 204
    assert await statuses(service, addresses) == [404] * 4
    # Neither is it told to who has it, or asks for a part or the head.
    assert await statuses(service, addresses, **{"If-None-Match": tag}) == [404] * 4
    assert await statuses(service, addresses, Range="bytes=0-9") == [404] * 4
    assert (await service.client.head(addresses[0])).status_code == 404
    assert (await service.client.post(f"/api/images/{job['job_id']}/restore")).status_code == 200
    assert await statuses(service, addresses) == [200] * 4


async def test_a_picture_is_the_same_whole_in_parts_small_or_large(service):
    small = await service.upload()
    large = await service.upload(noise())
    for job in (small, large):
        url, size = job["original"]["url"], job["original"]["bytes"]
        began = time.monotonic()
        whole = await service.client.get(url)
        assert (whole.status_code, len(whole.content)) == (200, size)
        assert whole.headers["content-length"] == str(size)
        part = await service.client.get(url, headers={"Range": f"bytes=10-{size - 1}"})
        assert (part.status_code, part.content) == (206, whole.content[10:])
        head = await service.client.head(url)
        assert (head.content, head.headers["content-length"]) == (b"", str(size))
        for name in ("etag", "last-modified", "content-type", "accept-ranges"):
            assert whole.headers[name] == part.headers[name] == head.headers[name]
        told = [
            re.fullmatch(r"private, max-age=(\d+)", each.headers["cache-control"]) for each in (whole, part, head)
        ]
        ages = [int(each[1]) for each in told]
        # All end at the same time: a second later it is a second less.
        assert ages[0] >= ages[1] >= ages[2] >= ages[0] - 1 - (time.monotonic() - began)
    assert small["original"]["bytes"] < PIECE_BYTES < large["original"]["bytes"]


async def test_a_small_file_is_read_from_the_systems_cache_or_else_in_a_thread(service, tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(b"picture")
    if can_tell_what_is_cached(path):
        assert media._cached(path, size=7) == b"picture"
    assert media._cached(path, size=8) is None
    path.unlink()
    assert media._cached(path, size=7) is None
    address = (await service.upload())["original"]["url"]
    whole = (await service.client.get(address)).content
    monkeypatch.setattr(media, "_cached", lambda path, *, size: None)
    assert (await service.client.get(address)).content == whole


async def test_an_upload_that_was_never_generated_is_deleted_and_restored_alike(service):
    job = await service.upload()
    for path, status in (("delete", 404), ("restore", 200)):
        asked = {"job_ids": [job["job_id"]]}
        assert (await service.client.post(f"/api/images/{path}", json=asked)).status_code == 200
        assert await statuses(service, urls(job)) == [status] * 2


async def test_an_original_is_there_as_long_as_one_of_its_jobs_is(service):
    uploaded = await service.upload()
    first = await completed(service, imageId=uploaded["job_id"])
    second = await completed(service, imageId=first["job_id"])
    assert second["source_job_id"] == first["job_id"]
    shared = first["original"]["url"]
    assert second["original"]["url"] == shared
    for job in (first, second):
        assert await statuses(service, [shared]) == [200]
        await service.client.delete(f"/api/images/{job['job_id']}")
        assert await statuses(service, [job["images"][0]["url"]]) == [404]
    assert await statuses(service, [shared]) == [404]


async def test_a_projects_cover_and_pictures_go_with_it(service):
    answer = await service.client.post("/api/projects", data={"name": "a"}, files={"cover": rig.picture()})
    project = answer.raise_for_status().json()
    files, data = {"file": rig.picture()}, {"project_id": project["project_id"]}
    job = (await service.client.post("/api/images", files=files, data=data)).raise_for_status().json()
    addresses = [project["cover"]["url"], project["cover"]["thumbnail_url"], *urls(job)]
    assert await statuses(service, addresses) == [200] * 4
    answer = await service.client.patch(
        f"/api/projects/{project['project_id']}", files={"cover": rig.picture(9, 9)}
    )
    assert await statuses(service, addresses) == [404, 404, 200, 200]
    newer = answer.json()["cover"]["url"]
    assert await statuses(service, [newer]) == [200]
    assert (await service.client.delete(f"/api/projects/{project['project_id']}")).status_code == 204
    assert await statuses(service, [*addresses, newer]) == [404] * 5


async def test_a_disabled_persons_pictures_are_for_admins_alone(service):
    person = await rig.person(service)
    admin = await rig.person(service, is_admin=True)
    async with person.client, admin.client:
        job = await person.upload()
        me = (await person.client.get("/api/auth/me")).json()
        for at, status in ((1, 404), (None, 200)):
            await service.parts.database.write(
                lambda tx: tx.run("UPDATE users SET disabled_at = ? WHERE id = ?", (at, me["id"]))  # noqa: B023
            )
            assert await statuses(service, urls(job)) == [status] * 2
            assert (await service.client.get(urls(job)[0])).status_code == status
            assert (await admin.client.get(urls(job)[0])).status_code == 200


async def test_what_nanobanana_was_sent_to_fetch_it_may_fetch(service):
    """The job is paid, and can be restored with its result."""
    job = await service.upload()
    path, key = urls(job)[0].partition("?")[0], urls(job)[0].partition("?")[0].removeprefix("/media/")
    until, tokens = int(time.time()) + 60, service.parts.tokens
    theirs = f"{path}?token={tokens.sign_media(key=key, expires_at_s=until, for_upstream=True)}"
    await service.client.delete(f"/api/images/{job['job_id']}")
    assert await statuses(service, [theirs, *urls(job)]) == [200, 404, 404]
    # The mark is signed, too.
    _, _, token = theirs.partition("=")
    _, expires, signature = token.split(".")
    assert await statuses(service, [f"{path}?token={expires}.{signature}"]) == [401]
    assert await statuses(service, [f"{path}?token=1.{urls(job)[0].partition('=')[2]}"]) == [401]


async def test_a_lookup_reads_indexes_alone(service):
    from nanohook.stores import media  # noqa: PLC0415 - its statement is its own

    plan = await service.parts.database.read(
        lambda tx: tx.all(f"EXPLAIN QUERY PLAN {media._SHOWN}", {"key": "a", "deleted_since": 1})
    )
    assert [row["detail"] for row in plan if "SCAN" in row["detail"]] == []
