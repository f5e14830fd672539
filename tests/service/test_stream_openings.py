"""Opening streams: nobody is felt by others, and who is shut out is sent away however far they have read."""

import asyncio
import contextlib
import re

import pytest
import pytest_asyncio

from nanohook import clock, errors, hub
from nanohook.cli import people
from nanohook.database import CONNECTIONS, Lane
from nanohook.settings import fixed
from nanohook.stores import events
from tests import live, rig
from tests.service.test_neighbours import begun, put, unread

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMED = 99
RETRY = re.compile(r"retry: [1-4][0-9]{3}\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory):
    async with rig.running(tmp_path_factory.mktemp("openings"), streams_per_user=30) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def one(service):
    """Somebody of their own, who ends with the test."""
    made = await rig.person(service)
    async with made.client:
        yield made
    await live.until(lambda: not len(service.parts.hub))


@contextlib.asynccontextmanager
async def taken(base, *lanes):
    """Let every connection of *lanes* be somebody else's."""
    held = [(lane, await base._readers[lane].get()) for lane in lanes for _ in range(CONNECTIONS[lane])]
    try:
        yield
    finally:
        for lane, connection in held:
            base._readers[lane].put_nowait(connection)


@contextlib.asynccontextmanager
async def opened(one, *paths):
    """Ask for streams; yields the first block of each, once it has come."""
    async with contextlib.AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(one.client.stream("GET", path)) for path in paths]
        assert [answer.status_code for answer in answers] == [200] * len(paths)
        texts = [answer.aiter_text() for answer in answers]  # a stream is closed with its iterator
        yield [await anext(text) for text in texts]


async def user_id(one):
    return (await one.client.get("/api/auth/me")).json()["id"]


def of(job_id):
    return f"/api/images/{job_id}/events"


def named(*job_ids):
    return "/api/events?" + "&".join(f"job={job_id}" for job_id in job_ids)


async def job_that_waits(one):
    """Make a job whose stream has no end yet."""
    return (await one.upload())["job_id"]


def streams(service):
    return [stream for slot in service.parts.hub._slots for stream in slot]


async def log(one, job_id, number, *, size, is_ended=False):
    """Write events of a job into the log, as another process might; return their ids."""
    whose, payload = await user_id(one), f'{{"job_id":"{job_id}","pad":"{"x" * size}"}}'

    async def write(tx):
        return [
            await events.append(
                tx,
                owner_id=whose,
                job_id=job_id,
                name="status",
                is_last=is_ended and index == number,
                payload=payload,
                now_us=clock.now_us(),
            )
            for index in range(1, number + 1)
        ]

    made = await one.parts.database.write(write)
    one.parts.hub.wake()
    return made


# Their place and their turn.


async def test_over_the_cap_nothing_is_read_but_who_is_asking(tmp_path):
    async with rig.running(tmp_path, streams_per_user=1) as service:
        job_id = await job_that_waits(service)
        async with (
            opened(service, "/api/events"),
            taken(service.parts.database, Lane.POINT, Lane.PAGE, Lane.SEARCH),
        ):
            for path in ("/api/events", of(job_id), named(job_id), "/api/events?last_event_id=0"):
                for _ in range(3):
                    answer = await service.client.get(path)
                    assert answer.status_code == 200
                    assert RETRY.fullmatch(answer.text)
                head = await service.client.head(path)
                assert (head.status_code, head.content) == (200, b"")
            assert service.parts.shares.openings.waiting == 0
        await live.until(lambda: not len(service.parts.hub))


async def test_a_place_that_leads_to_no_stream_is_given_back(service, one):
    ended, waits = put(one, ["x"])[0], await job_that_waits(one)
    newest = (await one.job(waits))["event_id"]
    for _ in range(40):  # more than there are places
        assert (await one.client.get(named(waits, "unknown"))).status_code == 404
        assert (await one.client.head(of(waits))).status_code == 200
        answer = await one.client.get(of(ended), headers={"Last-Event-ID": str(newest)})
        assert answer.status_code == 204
        answer = await one.client.get(of(ended))
        assert answer.text.count("event: status") == 1
    await live.until(lambda: not len(service.parts.hub))


async def test_one_person_opens_one_stream_at_a_time_and_another_does_not_wait(service, one):
    waits, openings = await job_that_waits(one), service.parts.shares.openings
    other = await rig.person(service)
    paths = ["/api/events", of(waits), named(waits), "/api/events?last_event_id=0"] * 5
    async with other.client:
        async with openings.take(await user_id(one)):
            asking = [asyncio.create_task(one.client.get(path, timeout=60)) for path in paths]
            await live.until(lambda: openings.waiting == len(paths))
            async with opened(other, "/api/events") as [first]:
                assert "event: ready" in first
            assert openings.waiting == len(paths)
        await live.until(lambda: len(streams(service)) == len(paths))
        await people_disabled(one)
        answers = await asyncio.gather(*asking)
        assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("refusal", [errors.TooMany, errors.Unavailable])
async def test_who_gets_no_turn_is_told_when_to_come_back(service, one, monkeypatch, refusal):
    openings, job_id = service.parts.shares.openings, put(one, ["x"])[0]
    name = "_max_of_one" if refusal is errors.TooMany else "_max_of_all"
    monkeypatch.setattr(openings._waiting, name, 1)
    async with openings.take(await user_id(one)):
        first = asyncio.create_task(one.client.get(of(job_id)))
        await live.until(lambda: openings.waiting == 1)
        for path in ("/api/events", of(job_id), named(job_id)):
            answer = await one.client.get(path)
            assert answer.status_code == 200
            assert RETRY.fullmatch(answer.text)
        assert len(service.parts.hub) == 1
    assert (await first).text.count("event: status") == 1


async def test_what_is_read_of_many_jobs_and_of_a_long_log_waits_behind_lists_alone(service, one):
    """And what is short waits behind nothing of that kind."""
    waits, ended = await job_that_waits(one), put(one, ["x"])[0]
    async with taken(service.parts.database, Lane.PAGE, Lane.SEARCH):
        async with opened(one, "/api/events", of(waits)) as [ready, state]:
            assert ("event: ready" in ready, "event: status" in state) == (True, True)
        asking = [
            asyncio.create_task(one.client.get(path)) for path in (named(ended), f"{named(ended)}&last_event_id=x")
        ]
        await live.until(lambda: len(service.parts.database._readers[Lane.PAGE]._getters) == 1)
        assert not any(each.done() for each in asking)
    answers = await asyncio.gather(*asking)
    assert [answer.text.count("event: status") for answer in answers] == [1, 1]


async def test_named_jobs_are_read_in_few_statements_by_their_ids(service, one):
    """As many for a hundred as for two; and not by looking through all that the person has."""
    made = put(one, ["x"] * 100, pictures=4)

    def reads():
        counted = []
        for readers in service.parts.database._readers.values():
            for reader in list(readers._queue):
                reader._conn.set_trace_callback(counted.append)
        return counted

    numbers = []
    for names in (made[:2], made):
        counted = reads()
        answer = await one.client.get(named(*names))
        assert answer.text.count("event: status") == len(names)
        # The hub's own are of the log.
        statements = [sql for sql in counted if "FROM jobs" in sql or "FROM pictures" in sql]
        numbers.append(len(statements))
        [jobs] = [sql for sql in statements if "FROM jobs" in sql]
        plan = await service.parts.database.read(lambda tx, sql=jobs: tx.all(f"EXPLAIN QUERY PLAN {sql}"))
        assert "id=?)" in plan[0]["detail"].replace("owner_id=?", ""), [row["detail"] for row in plan]
    assert numbers == [2, 2]


# Who is shut out while they have not read what their stream begins with.


async def people_disabled(one):
    """As the command does it, in another process."""
    me = (await one.client.get("/api/auth/me")).json()
    await people.disable(fixed(data_dir=one.parts.settings.data_dir), email=me["email"], is_disabled=True)


async def key_revoked(one):
    whose = await user_id(one)
    await one.parts.database.write(
        lambda tx: tx.run("UPDATE api_keys SET revoked_at = 1 WHERE owner_id = ?", (whose,))
    )


async def opening_of(one):
    """Give an address whose stream begins with more than a connection takes, and goes on."""
    return named(*put(one, ["x"] * NAMED, pictures=4), await job_that_waits(one))


async def ended_opening_of(one):
    """Give one whose stream ends behind that."""
    return named(*put(one, ["x"] * NAMED, pictures=4))


async def replay_of(one):
    """Give one whose stream begins with a long piece of the log."""
    job_id, cursor = await job_that_waits(one), await one.parts.database.read(events.head)
    await log(one, job_id, 800, size=500)
    return f"/api/events?last_event_id={cursor}"


async def test_all_are_gone_within_the_second_that_is_promised():
    assert hub.CREDENTIALS_EVERY_S <= 0.5
    # What is left is for the look itself.
    assert hub.CREDENTIALS_EVERY_S + hub.CUT_AFTER_S <= 0.75


@pytest.mark.parametrize("shut_out", [people_disabled, key_revoked])
@pytest.mark.parametrize("begins", [opening_of, ended_opening_of, replay_of])
async def test_a_reader_who_reads_nothing_is_forgotten_when_shut_out(service, one, begins, shut_out):
    path = await begins(one)
    with unread(one, path, number=3) as some:
        assert await asyncio.gather(*map(begun, some)) == [200] * 3
        await live.until(lambda: len(streams(service)) == 3)
        assert not any(stream.is_live for stream in streams(service))
        stays = await rig.person(service)
        async with stays.client, opened(stays, "/api/events"):
            await shut_out(one)
            await live.until(lambda: len(streams(service)) == len(service.parts.hub) == 1)
        # Not forgotten alone: nothing more is sent to them.
        for connection in some:
            assert await cut(connection)


async def cut(connection):
    """Read to the end; tell whether the connection was cut before that of the answer."""
    text, loop = b"", asyncio.get_running_loop()
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while piece := await loop.sock_recv(connection, 65_536):
                text += piece
    return not text.endswith(b"0\r\n\r\n")


async def test_a_live_reader_who_reads_nothing_is_forgotten_when_shut_out(service, one):
    job_id = await job_that_waits(one)
    with unread(one, "/api/events", number=1) as some:
        await begun(some[0])
        await live.until(lambda: [stream.is_live for stream in streams(service)] == [True])
        [stream] = streams(service)
        await log(one, job_id, 500, size=1_000)
        await live.until(lambda: not stream.is_live)
        await people_disabled(one)
        await live.until(lambda: not len(service.parts.hub))


async def test_the_life_of_a_stream_ends_even_if_its_reader_reads_nothing(service, one):
    path = await opening_of(one)
    with unread(one, path, number=1) as some:
        await begun(some[0])
        await live.until(lambda: streams(service))
        streams(service)[0].ends_at = 0.0  # ten minutes later
        # Each stream has its second of the heartbeat's round.
        await live.until(lambda: not len(service.parts.hub), timeout_s=hub.HEARTBEAT_S + 30)


async def test_an_attentive_reader_is_told_to_come_back_when_shut_out_while_it_catches_up(service, one):
    """It reads as fast as it can, and is where the log is read when the look comes."""
    path = await replay_of(one)
    openings = service.parts.shares.openings
    async with one.client.stream("GET", path) as response:
        lines = response.aiter_lines()
        async with openings.take(await user_id(one)):
            [stream] = streams(service)
            assert not stream.is_live
            service.parts.hub._end(stream)
        rest = [line async for line in lines]
    assert sum(line.startswith("retry: ") for line in rest) == 2
    assert RETRY.fullmatch(rest[-1] + "\n")


async def test_at_the_end_of_the_service_who_reads_what_a_stream_begins_with_is_told_to_come_back(tmp_path):
    async with rig.running(tmp_path) as service:
        path = await opening_of(service)
        with unread(service, path, number=1) as [slow]:
            await begun(slow)
            await live.until(lambda: streams(service))
            await service.service.state.running.drain()
            loop, text = asyncio.get_running_loop(), b""
            async with asyncio.timeout(20):
                while piece := await loop.sock_recv(slow, 65_536):
                    text += piece
        assert re.search(rb"\r\nretry: [1-4][0-9]{3}\n\r\n0\r\n\r\n\Z", text)
        assert 0 < text.count(b"event: status") < NAMED  # the rest is not sent first
        await live.until(lambda: not len(service.parts.hub))


# No gap, nothing twice, in order.


async def test_what_happens_while_a_reader_is_slow_to_begin_follows_without_a_gap(service, one):
    job_id = await job_that_waits(one)
    path = named(*put(one, ["x"] * NAMED, pictures=4), job_id)
    at = await service.parts.database.read(events.head)
    loop, text = asyncio.get_running_loop(), b""
    async with opened(one, "/api/events"):  # the hub follows the log
        await live.until(lambda: [stream.is_live for stream in streams(service)] == [True])
        with unread(one, path, number=1) as [slow]:
            await begun(slow)
            await live.until(lambda: len(streams(service)) == 2)
            [stream] = [stream for stream in streams(service) if stream.jobs]
            made = await log(one, job_id, 200, size=500, is_ended=True)
            await live.until(lambda: stream.behind)
            assert not stream.is_live
            async with asyncio.timeout(60):
                while piece := await loop.sock_recv(slow, 65_536):
                    text += piece
    text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", text)  # the lengths of its chunks
    ids = [int(number) for number in re.findall(rb"\nid: (\d+)\n", text)]
    assert ids == [at, *made]
    assert text.count(b"event: status") == NAMED + 1 + len(made)
