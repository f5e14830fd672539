"""
Server-sent events: what a stream begins with; after that the hub alone sends.

An event source that is answered anything but 200 ``text/event-stream`` is closed for good. So a status refuses
only who may never read this stream, or has read all of it; who should come back is answered 200, and told when.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nanohook import clock, errors
from nanohook.database import Lane, Transaction
from nanohook.event_stream import Send as WireSend
from nanohook.event_stream import Stream
from nanohook.flow import gate
from nanohook.flow.terms import SECOND_US
from nanohook.hub import MOST_MISSED, retry
from nanohook.rules import signing, sse, views
from nanohook.rules.job import Job, ResultPicture
from nanohook.stores import accounts, events, job_lists, jobs, pictures
from nanohook.stores.accounts import Person
from nanohook.stores.credentials import Credential, credential_of
from nanohook.web import credentials, edge, guard, paging, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts, parts_of, signed_address, wants_all

logger = logging.getLogger(__name__)

MOST_JOBS: Final = 100
TOKEN_S: Final = 24 * 3600
"""How long a stream's token is good for."""
_PURPOSE: Final = "stream"
_ALL: Final = "*"
_HEADERS: Final = [
    # Nothing behind it: some tunnels flush this type alone, word for word, and hold back any other.
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opening:
    """How a stream begins, as it was read: rendered apart from that."""

    cursor: int
    """What comes after this id follows."""
    jobs: tuple[str, ...] | None = None
    """The jobs it is about; ``None``: all of the person's."""
    waited_for: frozenset[str] = frozenset()
    """Those of the jobs whose end is yet to be told."""
    is_reset: bool = False
    """What the reader has is to be thrown away first."""
    is_ready: bool = False
    """It is told where it begins in place of a state."""
    states: Sequence[tuple[Job, Sequence[ResultPicture]]] = ()
    """Jobs whose present state it is sent."""
    held_by: str | None = None
    """Why nobody's job is submitted at the moment."""
    is_over: bool = False
    """There is nothing to wait for: the text, then the end."""
    is_nothing_new: bool = False
    """The reader has everything and should not come back: 204."""

    def stream(
        self, blocks: list[bytes], *, credential: Credential, sees: str | None, heartbeat: bytes, send: WireSend
    ) -> Stream:
        """
        Make the stream that begins with *blocks*, and goes on from there.

        Args:
            blocks: What ``_rendered`` made of this; given away as they are sent.
            sees: Whose events are asked for; ``None``: everybody's.
            heartbeat: What the reader is sent while nothing happens.
        """
        if heartbeat is sse.HEARTBEAT_EVENT and not self.is_over:
            # Whoever listens for it knows at once that nothing holds the stream back on its way.
            blocks.append(heartbeat)
        return Stream(
            credential=credential,
            sees=sees,
            jobs=self.jobs,
            waited_for=self.waited_for,
            cursor=self.cursor,
            opening=_pieces(blocks),
            is_over=self.is_over,
            heartbeat=heartbeat,
            send=send,
        )


class Streams:
    """An endpoint of its own, in plain ASGI: 10,000 of them wait in one process."""

    def __init__(self, *, of_one_job: bool) -> None:
        self._of_one_job = of_one_job

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        parts = parts_of(scope)
        request = Request(scope)
        guard.check_host(request, parts)
        names = tuple(dict.fromkeys(self._names(request)))
        try:
            person = await _reader(request, parts, names)
            opening = self._open(request, send, person=person, names=names)
            # Counted, but not kept waiting by that: openings have turns of their own.
            await parts.shares.loop_time.measure(person.id, opening)
        except (errors.Unavailable, errors.TooMany) as exc:
            level = logging.INFO if isinstance(exc, errors.TooMany) else logging.WARNING
            logger.log(level, "stream.put_off", extra={"reason": str(exc)})
            await _answer(send, body=b"" if scope["method"] == "HEAD" else retry())

    async def _open(self, request: Request, send: Send, *, person: Person, names: tuple[str, ...]) -> None:
        """
        Open a stream for *person*, and leave it to the hub with its place.

        Raises:
            TooMany: They have as many as they may.
            Unavailable: Too many are being opened, or the database is away.
        """
        parts = parts_of(request.scope)
        sees, cursor = _sees(request, person), _cursor(request)
        # Streams count in no limit of requests. So their place comes first: more than a person may have cost no
        # more than who is asking. And then their turn: whoever opens many costs others one opening at a time.
        if not parts.hub.enter(person.id):
            raise errors.TooMany("no place for another stream")
        note: edge.Note = request.scope[edge.NOTE]
        is_short = self._of_one_job or not (names or isinstance(cursor, int))
        stream: Stream | None = None
        try:
            async with parts.shares.openings.take(person.id):
                opening = await parts.database.read(
                    lambda tx: _read(tx, sees=sees, names=names, cursor=cursor, of_one_job=self._of_one_job),
                    lane=Lane.POINT if is_short else Lane.PAGE,
                )
                is_answered = opening.is_nothing_new or request.method == "HEAD"
                blocks = [] if is_answered else await _rendered(parts, opening)
            if is_answered:
                await _answer(send, status=204 if opening.is_nothing_new else 200)
                return
            stream = opening.stream(
                blocks, credential=credential_of(person), sees=sees, heartbeat=_heartbeat(request), send=note.send
            )
            # From before the first byte on its reader can be sent away.
            parts.hub.add(stream)
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            note.stream = (parts.hub, stream)
        finally:
            if note.stream is None:
                if stream is None:
                    parts.hub.leave(person.id)
                else:
                    parts.hub.remove(stream)

    def _names(self, request: Request) -> list[str]:
        if self._of_one_job:
            return [str(request.path_params["job_id"])]
        names = request.query_params.getlist("job")
        if len(names) > MOST_JOBS:
            raise errors.Invalid("too many jobs for one stream", fields={"job": f"at most {MOST_JOBS}"})
        return names


async def _answer(send: Send, *, status: int = 200, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(_HEADERS)})
    await send({"type": "http.response.body", "body": body})


async def make_token(call: Call) -> Response:
    """Make a token for a stream of one job, or of all the caller's: for pages that cannot send a header."""
    asked = await wire.body_of(call.request, wire.StreamToken)
    job_id = asked.job_id
    if job_id is not None:
        # Their own, of an admin too: a token carries no rights over others.
        found = await call.parts.database.read(lambda tx: jobs.get(tx, owner_id=call.person.id, job_id=job_id))
        if found is None:
            raise errors.NotFound("no such image")
    expires_at_s = int(time.time()) + TOKEN_S
    # It lives no longer than the key or session that it was made with.
    maker = call.person.key_id or call.person.session_id
    token = call.parts.tokens.sign_purpose(_PURPOSE, f"{call.person.id} {job_id or _ALL} {maker}", expires_at_s)
    path = "/api/events" if job_id is None else views.links(job_id)["events"]
    return json_answer(
        {"token": token, "expires_at": clock.rfc3339(expires_at_s * SECOND_US), "url": f"{path}?token={token}"},
        status=201,
    )


async def _reader(request: Request, parts: Parts, names: tuple[str, ...]) -> Person:
    """
    Tell who reads a stream of the jobs *names*: by a token in the address, else as everywhere.

    Raises:
        Unauthenticated: Nobody that is known, or by a token of other jobs, or one whose key or session has ended.
        Forbidden: ``email_unverified``.
    """
    token = request.query_params.get("token")
    if token is None or not signing.is_token(token):
        return await guard.require(request, parts, guard.Who.PERSON)
    key = credentials.api_key(request.headers)
    if key is not None:
        # It counts as well: neither credential takes the other's place.
        await guard.person_of_key(parts, key)
    try:
        user_id, job_id, maker = parts.tokens.read_purpose(_PURPOSE, token, time.time()).split(" ")
    except (errors.SignatureInvalid, ValueError):
        raise errors.Unauthenticated("this token opens no stream, or no longer") from None

    now = clock.now_us()
    person = await parts.database.read(
        lambda tx: accounts.by_credential(tx, user_id, maker, now_us=now), lane=Lane.SIGN_IN
    )
    if person is None or job_id not in {_ALL, *names} or (job_id != _ALL and len(names) != 1):
        raise errors.Unauthenticated("this token opens another stream")
    if not person.is_verified:
        raise errors.Forbidden("confirm your e-mail address first", code="email_unverified")
    # An address is passed on more easily than a key: it carries no rights over others.
    return replace(person, is_admin=False)


def _sees(request: Request, person: Person) -> str | None:
    """Tell whose events are asked for; ``None``: everybody's, or a job's that an admin may see."""
    names_jobs = "job_id" in request.path_params or "job" in request.query_params
    is_everybodys = wants_all(person, request.query_params) or (names_jobs and person.is_admin)
    return None if is_everybodys else person.id


def _heartbeat(request: Request) -> bytes:
    is_event = request.query_params.get("heartbeat") == "event"
    return sse.HEARTBEAT_EVENT if is_event else sse.HEARTBEAT


def _cursor(request: Request) -> int | sse.BadCursor | None:
    """
    Read where a reader goes on.

    What a client keeps by itself wins over what a page wrote into the address: the header, else ``lastEventId`` of
    the polyfill for browsers whose requests can have none. None of them is as good as an empty one.
    """
    asked = request.query_params
    text = request.headers.get("last-event-id") or asked.get("lastEventId") or asked.get("last_event_id")
    return sse.read_cursor(text or None)


async def _read(
    tx: Transaction,
    *,
    sees: str | None,
    names: tuple[str, ...],
    cursor: int | sse.BadCursor | None,
    of_one_job: bool,
) -> _Opening:
    """
    Read how a stream of the jobs *names* begins.

    Raises:
        NotFound: There is one of these jobs less.
    """
    known = await _jobs(tx, names, sees=sees)
    head = await events.head(tx)
    newest = max((job.last_event_id for job in known), default=head)
    if isinstance(cursor, int) and not await _leads_somewhere(tx, cursor, head=head, newest=newest):
        cursor = sse.BAD_CURSOR
    if isinstance(cursor, int) and not of_one_job:
        missed = await events.count_after(tx, cursor, owner_id=sees, job_ids=names or None, most=MOST_MISSED + 1)
        cursor = sse.BAD_CURSOR if missed > MOST_MISSED else cursor
    is_reset = cursor is sse.BAD_CURSOR
    if not known:
        # All of a person's jobs: lists and answers carry an ``event_id`` to start from.
        if isinstance(cursor, int):
            return _Opening(cursor=cursor)
        return _Opening(cursor=head, is_reset=is_reset, is_ready=True)
    is_over = all(job.status.is_final for job in known)
    opening = _Opening(
        cursor=cursor if isinstance(cursor, int) else newest if len(known) == 1 else head,
        jobs=names,
        is_reset=is_reset,
        is_over=is_over and not isinstance(cursor, int),
        is_nothing_new=is_over and isinstance(cursor, int) and cursor >= newest,
    )
    if not isinstance(cursor, int):
        results = await pictures.results_of(tx, names)
        # What keeps everybody waiting is no event of a job: it is told to who looks.
        waits = any(job.stage in views.BEFORE_SUBMIT for job in known)
        opening = replace(
            opening,
            states=[(job, results[job.id]) for job in known],
            held_by=(await gate.read(tx)).reason if waits else None,
        )
    pending = (job.id for job in known if not job.status.is_final or job.last_event_id > opening.cursor)
    return replace(opening, waited_for=frozenset(pending))


async def _jobs(tx: Transaction, names: tuple[str, ...], *, sees: str | None) -> list[Job]:
    """
    Read the jobs *names*, in this order.

    Raises:
        NotFound: One of them is none that *sees* may see.
    """
    if not names:
        return []
    found, _ = await job_lists.page(tx, job_lists.Filter(owner_id=sees, ids=names), most=len(names))
    if len(found) < len(names):
        raise errors.NotFound("no such image")
    by_id = {job.id: job for job in found}
    return [by_id[name] for name in names]


async def _leads_somewhere(tx: Transaction, cursor: int, *, head: int, newest: int) -> bool:
    """
    Tell whether everything after *cursor* is still in the log.

    Args:
        newest: The newest event that the stream is about. Who has it misses nothing, however old it is: a reader
            of a job that ended long ago would else be sent the same again whenever it comes back.
    """
    return cursor <= head and (cursor == newest or cursor >= await events.removed_to(tx))


async def _rendered(parts: Parts, opening: _Opening) -> list[bytes]:
    """Render what a stream begins with; the id comes with the last state, so that none of them is skipped."""
    blocks = [retry()]
    if opening.is_reset:
        blocks.append(sse.reset())
    if opening.is_ready:
        blocks.append(sse.ready(opening.cursor))
    for number, (job, shown) in enumerate(opening.states, start=1):
        if number % paging.SLICE_ROWS == 0:
            await asyncio.sleep(0)
        payload = views.addressed(
            views.event(job, shown, now_us=job.updated_at or clock.now_us(), held_by=opening.held_by),
            lambda key: signed_address(parts.tokens, key),
        )
        is_last = number == len(opening.states)
        blocks.append(sse.event(name="status", data=orjson.dumps(payload), id=opening.cursor if is_last else None))
    return blocks


def _pieces(blocks: list[bytes]) -> Iterator[bytes]:
    """Give *blocks* away as they are sent: a slow reader holds no more than what is left."""
    blocks.reverse()
    return sse.pieces(blocks.pop() for _ in range(len(blocks)))
