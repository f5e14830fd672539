"""The Python client: against the real service, and against servers that break in every way."""

import asyncio
import contextlib
import io
import logging
import time

import httpx
import orjson
import pytest
import pytest_asyncio
from PIL import Image

from nanohook import client
from nanohook.client import ImageJobStatus
from nanohook.client.stream import Text
from tests import live, relay, rig
from tests.scripted import CUT, MOMENT, NO_CONTENT, RETRY, STATE, Server, http, refused, status, stream

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "nh_the-secret-key"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("client")) as running:
        yield running


def of(service, *, key=None):
    return client.Client(service.base, key or service.client.headers["authorization"].removeprefix("Bearer "))


# The real service.


async def test_three_lines_change_a_picture(service, tmp_path):
    photo = tmp_path / "kite.png"
    photo.write_bytes(rig.picture(401, 263))
    async with of(service) as nanohook:
        changed = await nanohook.change(photo, "a winter evening")
    with Image.open(io.BytesIO(changed)) as image:
        assert image.size == (401, 263)


async def test_every_verb_along_a_job(service):
    async with of(service) as nanohook:
        made = await nanohook.create(rig.picture(120, 90))
        assert (made.status, made.stage, made.images) == (ImageJobStatus.PENDING, "uploaded", ())
        assert made.original is not None
        assert (made.original.width, made.original.height) == (120, 90)

        asked = await nanohook.generate(image_id=made.job_id, prompt="a kite", num_images=2)
        assert (asked.job_id, asked.progress) == (made.job_id, 10)
        seen = [event async for event in nanohook.follow(made.job_id)]
        assert [event.progress for event in seen] == sorted(event.progress for event in seen)
        assert [event.status.is_final for event in seen] == [False] * (len(seen) - 1) + [True]
        assert [picture.index for picture in seen[-1].images] == [0, 1]

        standing = await nanohook.status(made.job_id)
        assert (standing.status, standing.progress) == (ImageJobStatus.COMPLETED, 100)
        result = await nanohook.result(made.job_id)
        for picture in result.images:
            with Image.open(io.BytesIO(await nanohook.download(picture))) as image:
                assert image.size == (picture.width, picture.height) == (120, 90)
        job = await nanohook.wait(made.job_id)
        assert job.completed_at is not None
        assert [task.status for task in job.tasks] == [ImageJobStatus.COMPLETED] * 2


async def test_a_job_that_fails_tells_why_and_can_be_tried_again(service):
    async with of(service) as nanohook:
        with pytest.raises(client.NotMade, match="ended FAILED") as caught:
            await nanohook.change(rig.picture(), "a storm [sandbox:fail=400]")
        job = caught.value.job
        assert job.error is not None
        assert job.error.code == "content_policy"
        assert [failed.index for failed in job.failed_tasks] == [0]
        asked = await nanohook.retry(job.job_id)
        assert asked.status is ImageJobStatus.PENDING
        assert (await nanohook.wait(job.job_id)).attempt == 2


async def test_cancel_and_delete_may_be_said_twice(service):
    async with of(service) as nanohook:
        asked = await nanohook.generate(prompt="a kite [sandbox:latency=60]")
        await nanohook.cancel(asked.job_id)
        await nanohook.cancel(asked.job_id)
        assert (await nanohook.wait(asked.job_id)).status is ImageJobStatus.CANCELED
        await nanohook.delete(asked.job_id)
        await nanohook.delete(asked.job_id)
        with pytest.raises(client.Problem) as caught:
            await nanohook.job(asked.job_id)
        assert (caught.value.status, caught.value.code) == (404, "not_found")
        assert caught.value.request_id


async def test_many_are_deleted_and_restored_at_once(service):
    async with of(service) as nanohook:
        ids = [(await nanohook.create(rig.picture(8, 8))).job_id for _ in range(2)]
        gone = await nanohook.delete_many([*ids, "nobody's"])
        assert gone.done == tuple(ids)
        assert [(refused.job_id, refused.code) for refused in gone.refused] == [("nobody's", "not_found")]
        assert (await nanohook.restore_many(ids)).done == tuple(ids)
        assert (await nanohook.job(ids[0])).stage == "uploaded"


async def test_a_job_that_is_deleted_while_it_is_followed_says_so(service):
    async with of(service) as nanohook:
        job = await nanohook.create(rig.picture())
        events = nanohook.follow(job.job_id)
        assert (await anext(events)).stage == "uploaded"
        await nanohook.delete(job.job_id)
        with pytest.raises(client.Deleted, match=job.job_id):
            await anext(events)


async def test_what_cannot_be_used_is_a_problem_that_names_the_field(service):
    async with of(service) as nanohook:
        with pytest.raises(client.Problem, match="422 invalid") as caught:
            await nanohook.generate(prompt="a kite", num_images=9)
        assert [each["field"] for each in caught.value.errors] == ["num_images"]
        with pytest.raises(client.Problem, match="409 not_completed"):
            await nanohook.result((await nanohook.create(rig.picture())).job_id)
    async with of(service, key="nh_nobody") as nanohook:
        with pytest.raises(client.Problem, match="401 unauthenticated"):
            await nanohook.job("0192a4b0")
        with pytest.raises(client.Problem, match="401 unauthenticated"):
            await anext(nanohook.follow("0192a4b0"))


# What is sent again, and what never.


@contextlib.asynccontextmanager
async def against(*answers):
    """Run a `Server`, and a client of it."""
    server = Server(*answers)
    async with live.serve_raw(server.handle) as base, client.Client(base, KEY) as nanohook:
        server.base = base
        yield nanohook, server


STANDING = {**STATE, "place": None, "estimated_wait_s": 2, "event_id": 7, "updated_at": MOMENT}
ACCEPTED = {"job_id": "j1", "status": "PENDING", "progress": 10, "credits": None}
JOB = {
    **STATE,
    **dict.fromkeys(("project_id", "batch_id", "source_job_id", "prompt", "credits", "original", "completed_at")),
    **{name: [] for name in ("images", "failed_tasks", "tasks")},
    **{name: {} for name in ("options", "metadata")},
    **dict.fromkeys(("transformation_type", "model", "priority"), "x"),
    **dict.fromkeys(("created_at", "updated_at"), MOMENT),
    "event_id": 7,
}


async def test_a_busy_service_is_asked_again_when_it_said_under_the_same_key():
    async with against(refused(503, retry_after=1), http(ACCEPTED, status=202)) as (nanohook, server):
        started = time.monotonic()
        accepted = await nanohook.generate(image_id="j0", prompt="a kite", num_images=2)
        assert time.monotonic() - started >= 1
        await nanohook.generate(prompt="another")
    assert accepted.job_id == "j1"
    first, second, other = server.asked
    assert orjson.loads(first.body) == {"image_id": "j0", "prompt": "a kite", "num_images": 2}
    assert (first.body, first.headers["idempotency-key"]) == (second.body, second.headers["idempotency-key"])
    assert len({first.headers["idempotency-key"], other.headers["idempotency-key"], ""}) == 3
    assert first.headers["authorization"] == f"Bearer {KEY}"


async def test_a_key_of_the_caller_is_kept():
    async with against(CUT, http(ACCEPTED, status=202)) as (nanohook, server):
        await nanohook.retry("j1", buy_again=True, idempotency_key="mine")
    assert [each.headers["idempotency-key"] for each in server.asked] == ["mine", "mine"]
    assert {each.path for each in server.asked} == {"/api/images/j1/retry"}
    assert orjson.loads(server.asked[1].body) == {"buy_again": True}


async def test_an_order_whose_answer_never_came_can_be_sent_again_by_its_caller(service):
    async with relay.before(service.base) as link:
        key = service.client.headers["authorization"].removeprefix("Bearer ")
        async with client.Client(link.base, key) as nanohook:
            link.change(lambda line: relay.Way.CUT if "generate-image" in line else relay.Way.PASS)
            with pytest.raises(client.NoAnswer) as caught:
                await nanohook.generate(prompt="ordered twice")
            link.change(lambda _line: relay.Way.PASS)
            again = caught.value.idempotency_key
            asked = await nanohook.generate(prompt="ordered twice", idempotency_key=again)
    assert set(link.keys("generate-image")) == {again}
    listed = (await service.client.get("/api/images", params={"q": "ordered twice"})).json()["images"]
    assert [job["job_id"] for job in listed] == [asked.job_id]


async def test_an_order_that_the_service_still_works_on_is_asked_for_again():
    async with against(CUT, refused(409, "in_progress"), http(ACCEPTED, status=202)) as (nanohook, server):
        await nanohook.generate(prompt="a kite")
    assert len({each.headers["idempotency-key"] for each in server.asked}) == 1


@pytest.mark.parametrize("answer", [refused(503, retry_after=0), refused(429), CUT, b"HTTP/1.1 200 OK\r\ncont"])
async def test_nothing_is_tried_for_ever(answer):
    async with against(answer) as (nanohook, server):
        with pytest.raises((client.Problem, client.NoAnswer)):
            await nanohook.status("j1")
    assert len(server.asked) == client.MOST_TRIES == 4


async def test_a_long_wait_is_left_to_the_caller():
    async with against(refused(429, "too_many", retry_after=3600)) as (nanohook, server):
        with pytest.raises(client.Problem) as caught:
            await nanohook.status("j1")
    assert (caught.value.retry_after_s, len(server.asked)) == (3600, 1)


async def test_a_date_to_come_back_at_is_understood():
    headers = "retry-after: Wed, 21 Oct 2065 07:28:00 GMT\r\n"
    async with against(http({}, status=503, headers=headers)) as (nanohook, _):
        with pytest.raises(client.Problem) as caught:
            await nanohook.status("j1")
    assert caught.value.retry_after_s > 3600


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500, 502, 507])
async def test_other_refusals_are_told_at_once(status):
    async with against(refused(status, "a_word")) as (nanohook, server):
        with pytest.raises(client.Problem, match="a_word: not now"):
            await nanohook.cancel("j1")
    assert len(server.asked) == 1


async def test_an_upload_is_sent_again_only_if_nothing_was_kept():
    async with against(refused(503), refused(429, retry_after=0), http(JOB, status=201)) as (nanohook, server):
        assert (await nanohook.create(b"x" * 100_000, project_id="p")).job_id == "j1"
    assert [each.path for each in server.asked] == ["/api/images"] * 3
    assert all(b"x" * 100_000 in each.body for each in server.asked)
    assert b'name="project_id"\r\n\r\np\r\n' in server.asked[2].body

    async with against(CUT) as (nanohook, server):
        with pytest.raises(client.NoAnswer, match="POST /api/images"):
            await nanohook.create(b"x")
    assert len(server.asked) == 1


async def test_an_upload_that_never_left_is_sent_again(caplog):
    caplog.set_level(logging.DEBUG, "httpcore.connection")
    async with client.Client(f"http://127.0.0.1:{live.closed_port()}", KEY) as nanohook:
        with pytest.raises(client.NoAnswer, match="ConnectError"):
            await nanohook.create(b"x")
    tries = [record for record in caplog.records if record.message.startswith("connect_tcp.started")]
    assert len(tries) == client.MOST_TRIES


async def test_a_deletion_whose_answer_got_lost_is_done():
    async with against(CUT, refused(404, "not_found")) as (nanohook, server):
        await nanohook.delete("j/1?")
    assert [(each.method, each.path) for each in server.asked] == [("DELETE", "/api/images/j%2F1%3F")] * 2


# What is understood.


async def test_a_proxys_page_is_no_crash():
    page = b"<html>Bad gateway</html>"
    async with against(http(page, status=502, kind="text/html")) as (nanohook, _):
        with pytest.raises(client.Problem) as caught:
            await nanohook.job("j1")
        assert (caught.value.code, caught.value.detail) == ("unknown", "Said")
    async with against(http(page, kind="text/html")) as (nanohook, _):
        with pytest.raises(client.BadAnswer, match="not JSON"):
            await nanohook.job("j1")
        with pytest.raises(client.BadAnswer, match="is this a nanohook service"):
            await anext(nanohook.follow("j1"))


async def test_fields_of_a_newer_service_are_ignored_and_missing_ones_named():
    async with against(
        http({**STANDING, "mood": "good"}),
        http({name: value for name, value in STANDING.items() if name != "stage"}),
        http({**STANDING, "progress": "60"}),
        http({**STANDING, "status": "DREAMING"}),
        http([]),
    ) as (nanohook, _):
        standing = await nanohook.status("j1")
        assert (standing.event_id, standing.estimated_wait_s) == (7, 2.0)
        assert standing.updated_at.isoformat() == "2026-01-02T03:04:05.678901+00:00"
        for said in ("stage is missing", "progress cannot", "status cannot", "not an object"):
            with pytest.raises(client.BadAnswer, match=said):
                await nanohook.status("j1")


async def test_the_key_is_shown_to_the_api_alone():
    async with against(http(b"bytes", kind="image/png")) as (nanohook, server):
        for url in ("/media/x.png?token=t", f"{server.base}/elsewhere.png"):
            picture = client.Picture(
                url=url, thumbnail_url="", width=1, height=1, content_type="image/png", bytes=5
            )
            assert await nanohook.download(picture) == b"bytes"
            assert url not in repr(picture)
    assert ["authorization" in each.headers for each in server.asked] == [False, False]
    assert [each.path for each in server.asked] == ["/media/x.png?token=t", "/elsewhere.png"]


@pytest.mark.parametrize(("base", "key"), [("127.0.0.1:8000", "nh_x"), ("http://h", "nh_ß"), ("http://h", " ")])
async def test_what_cannot_be_an_address_or_a_key_is_refused_without_showing_it(base, key):
    with pytest.raises(ValueError, match="must") as caught:
        client.Client(base, key)
    assert "ß" not in str(caught.value)


# Streams.


async def followed(nanohook):
    return [event.progress async for event in nanohook.follow("j1")]


async def test_a_cut_stream_goes_on_where_it_was_and_tells_nothing_twice():
    async with against(
        # Cut in the middle of an event: what came of it does not count, nor does its id.
        stream(RETRY, status(1), status(2), status(3)[:-1], is_cut=True),
        CUT,
        # A stream that ends before the job does: the service ends each after some minutes.
        stream(RETRY, status(3)),
        refused(503, retry_after=0),
        stream(RETRY, ":\n", status(4)),
        http(b"<html>", kind="text/html"),
        stream(RETRY, ":\n"),
        http(b"<html>", kind="text/html", status=502),
        stream(RETRY, status(5, "COMPLETED")),
    ) as (nanohook, server):
        assert await followed(nanohook) == [1, 2, 3, 4, 5]
    cursors = [each.headers.get("last-event-id") for each in server.asked]
    assert cursors == [None, "2", "2", "3", "3", "4", "4", "4", "4"]
    assert {each.path for each in server.asked} == {"/api/images/j1/events"}


async def test_a_stream_that_falls_silent_is_left_for_another():
    async def fall_silent(writer):
        writer.write(stream(RETRY, status(1), is_cut=True))
        await writer.drain()
        await live.until(lambda: len(server.asked) == 2)

    async with against(fall_silent, stream(status(2, "FAILED"))) as (nanohook, server):
        nanohook._stream_timeout = httpx.Timeout(5, read=0.1)
        assert await followed(nanohook) == [1, 2]


async def test_where_streams_are_held_back_the_end_is_asked_for(service):
    async with relay.before(service.base) as link, of(service) as direct:
        link.change(lambda line: relay.Way.HOLD_BODY if "/events" in line else relay.Way.PASS)
        key = service.client.headers["authorization"].removeprefix("Bearer ")
        async with client.Client(link.base, key) as nanohook:
            nanohook._stream_timeout = httpx.Timeout(5, read=0.3)
            asked = await direct.generate(prompt="a kite")
            seen = [event async for event in nanohook.follow(asked.job_id)]
            assert [event.status for event in seen] == [ImageJobStatus.COMPLETED]
            assert len(seen[0].images) == 1
            assert (await nanohook.wait(asked.job_id)).status is ImageJobStatus.COMPLETED


async def test_a_reset_forgets_the_cursor():
    async with against(
        stream(RETRY, status(8)),
        stream(RETRY, "event: reset\ndata: {}\n\n", is_cut=True),
        stream(RETRY, status(5)),
        stream(RETRY, status(6, "CANCELED")),
    ) as (nanohook, server):
        assert await followed(nanohook) == [8, 5, 6]
    assert [each.headers.get("last-event-id") for each in server.asked] == [None, "8", None, "5"]


async def test_a_deleted_job_ends_its_stream_with_an_error():
    gone = 'id: 3\nevent: deleted\ndata: {"job_id":"j1"}\n\n'
    async with against(stream(RETRY, status(1)), stream(status(2, "CANCELED") + gone)) as (nanohook, _):
        events = nanohook.follow("j1")
        assert [(await anext(events)).progress for _ in range(2)] == [1, 2]
        with pytest.raises(client.Deleted):
            await anext(events)
    # Deleted while nobody heard it.
    async with against(stream(RETRY, status(1)), refused(404, "not_found")) as (nanohook, _):
        with pytest.raises(client.Deleted):
            await followed(nanohook)
    async with against(refused(404, "not_found")) as (nanohook, _):
        with pytest.raises(client.Problem, match="404 not_found"):
            await followed(nanohook)


async def test_nothing_more_to_tell_is_the_end():
    async with against(stream(RETRY, status(1)), NO_CONTENT) as (nanohook, server):
        assert await followed(nanohook) == [1]
    assert len(server.asked) == 2


async def test_a_retry_that_was_missed_is_followed_on():
    failed, again = status(2, "FAILED"), status(3, "PENDING", attempt=2)
    async with against(stream(RETRY, status(1)), stream(failed + again, status(4, "COMPLETED"))) as (nanohook, _):
        assert await followed(nanohook) == [1, 2, 3, 4]


async def test_wait_goes_on_while_somebody_else_retries():
    ended = http({**JOB, "status": "COMPLETED"})
    async with against(stream(status(1, "FAILED")), http(JOB), stream(status(2, "COMPLETED")), ended) as (
        nanohook,
        server,
    ):
        assert (await nanohook.wait("j1")).status is ImageJobStatus.COMPLETED
    assert len(server.asked) == 4


async def test_events_that_cannot_be_understood_are_an_error_and_unknown_ones_are_not():
    photo = "event: photo:progress\ndata: {}\n\n"
    async with against(stream(photo, status(1, mood="good"), "event: status\ndata: {\n\n")) as (nanohook, _):
        events = nanohook.follow("j1")
        assert (await anext(events)).progress == 1
        with pytest.raises(client.BadAnswer, match="not JSON"):
            await anext(events)


async def test_leaving_a_stream_early_lets_its_connection_go():
    left = asyncio.Event()

    async def tell(writer):
        writer.write(stream(RETRY, status(1), is_cut=True))
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"2\r\n:\n\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
        left.set()

    async with against(tell) as (nanohook, _):
        async with contextlib.aclosing(nanohook.follow("j1")) as events:
            assert (await anext(events)).progress == 1
        async with asyncio.timeout(5):
            await left.wait()


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
async def test_the_text_of_a_stream_is_read_in_pieces_of_any_size(size, end):
    lines = [
        "\ufeffretry: 2500",
        "",
        ": a comment",
        "id: 41",
        "event:status",
        "data: a",
        "data:  bé",
        "data",
        "",
        "id: 42",
        "",
        "data: without a name",
        "unknown: field",
        "id: with\0null",
        "retry: soon",
        "",
        "event: without data",
        "",
        "id: 43",
        "data: not whole",
    ]
    raw = end.join([*lines, ""]).encode()
    text = Text()
    found = [event for at in range(0, len(raw), size) for event in text.feed(raw[at : at + size])]
    assert found == [("status", "a\n bé\n"), ("message", "without a name")]
    assert (text.cursor, text.pause_s) == ("42", 2.5)
