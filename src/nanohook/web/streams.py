"""
Server-sent events: what a stream begins with; after that the hub alone sends.

An event source that is answered anything but 200 ``text/event-stream`` is closed for good. So a status refuses
only who may never read this stream, or has read all of it; who should come back is answered 200, and told when.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nanohook import clock, errors
from nanohook.database import Lane, Transaction
from nanohook.flow import gate
from nanohook.flow.terms import SECOND_US
from nanohook.hub import MOST_MISSED, Stream, retry
from nanohook.hub import Send as WireSend
from nanohook.rules import signing, sse, views
from nanohook.rules.job import Job
from nanohook.stores import accounts, events, jobs, pictures
from nanohook.stores.accounts import Person
from nanohook.stores.credentials import Credential, credential_of
from nanohook.web import credentials, edge, guard, wire
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
    """How a stream begins."""

    blocks: list[bytes]
    cursor: int
    """What comes after this id follows."""
    jobs: tuple[str, ...] | None
    """The jobs it is about; ``None``: all of the person's."""
    waited_for: frozenset[str] = frozenset()
    """Those of the jobs whose end is yet to be told."""
    is_over: bool = False
    """There is nothing to wait for: the text, then the end."""
    is_nothing_new: bool = False
    """The reader has everything and should not come back: 204."""

    def pieces(self, *, heartbeat: bytes) -> Iterator[bytes]:
        """
        Give away what the stream begins with, as it is sent: a slow reader holds no more than what is left.

        Args:
            heartbeat: What the reader is sent while nothing happens.
        """
        blocks = [retry(), *self.blocks]
        self.blocks.clear()
        if heartbeat is sse.HEARTBEAT_EVENT and not self.is_over:
            # Whoever listens for it knows at once that nothing holds the stream back on its way.
            blocks.append(heartbeat)
        blocks.reverse()
        return sse.pieces(blocks.pop() for _ in range(len(blocks)))

    def stream(self, credential: Credential, sees: str | None, *, heartbeat: bytes, send: WireSend) -> Stream:
        """Make the stream that goes on from here."""
        return Stream(
            credential=credential,
            sees=sees,
            jobs=self.jobs,
            waited_for=self.waited_for,
            cursor=self.cursor,
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
            sees = _sees(request, person)
            opening = await parts.database.read(
                lambda tx: _open(
                    tx, parts, sees=sees, names=names, cursor=_cursor(request), of_one_job=self._of_one_job
                )
            )
        except (errors.Unavailable, errors.TooMany) as exc:
            logger.warning("stream.put_off", extra={"reason": str(exc)})
            await _put_off(scope, send)
            return
        if opening.is_nothing_new:
            await _answer(send, status=204)
        elif scope["method"] == "HEAD":
            await _answer(send)
        elif parts.hub.enter(person.id):
            await _begin(scope, send, opening, person=person, sees=sees)
        else:
            logger.info("stream.put_off", extra={"reason": "no place for another stream"})
            await _put_off(scope, send)

    def _names(self, request: Request) -> list[str]:
        if self._of_one_job:
            return [str(request.path_params["job_id"])]
        names = request.query_params.getlist("job")
        if len(names) > MOST_JOBS:
            raise errors.Invalid("too many jobs for one stream", fields={"job": f"at most {MOST_JOBS}"})
        return names


async def _begin(scope: Scope, send: Send, opening: _Opening, *, person: Person, sees: str | None) -> None:
    """Send what the stream begins with, and hand it to the hub with its place."""
    hub = parts_of(scope).hub
    note: edge.Note = scope[edge.NOTE]
    heartbeat = _heartbeat(Request(scope))
    try:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        for piece in opening.pieces(heartbeat=heartbeat):
            await note.send({"type": "http.response.body", "body": piece, "more_body": True})
        if opening.is_over:
            await note.send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            credential = credential_of(person)
            stream = opening.stream(credential, sees, heartbeat=heartbeat, send=note.send)
            hub.add(stream)
            note.stream = (hub, stream)
    finally:
        if note.stream is None:
            hub.leave(person.id)


async def _put_off(scope: Scope, send: Send) -> None:
    """Tell a reader whom there is no stream for at the moment when to come back."""
    await _answer(send, body=b"" if scope["method"] == "HEAD" else retry())


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


async def _open(
    tx: Transaction,
    parts: Parts,
    *,
    sees: str | None,
    names: tuple[str, ...],
    cursor: int | sse.BadCursor | None,
    of_one_job: bool,
) -> _Opening:
    found = [await jobs.get(tx, owner_id=sees, job_id=name) for name in names]
    known = [job for job in found if job is not None]
    if len(known) < len(names):
        raise errors.NotFound("no such image")
    head = await events.head(tx)
    newest = max((job.last_event_id for job in known), default=head)
    if isinstance(cursor, int) and not await _leads_somewhere(tx, cursor, head=head, newest=newest):
        cursor = sse.BAD_CURSOR
    if isinstance(cursor, int) and not of_one_job:
        missed = await events.count_after(tx, cursor, owner_id=sees, job_ids=names or None, most=MOST_MISSED + 1)
        cursor = sse.BAD_CURSOR if missed > MOST_MISSED else cursor
    reset = [sse.reset()] if cursor is sse.BAD_CURSOR else []
    if not known:
        # All of a person's jobs: lists and answers carry an ``event_id`` to start from.
        if isinstance(cursor, int):
            return _Opening(blocks=[], cursor=cursor, jobs=None)
        return _Opening(blocks=[*reset, sse.ready(head)], cursor=head, jobs=None)
    is_over = all(job.status.is_final for job in known)
    if isinstance(cursor, int):
        at, blocks = cursor, []
    else:
        at = newest if len(known) == 1 else head
        blocks = [*reset, *await _states(tx, parts, known, cursor=at)]
    return _Opening(
        blocks=blocks,
        cursor=at,
        jobs=names,
        waited_for=frozenset(job.id for job in known if not job.status.is_final or job.last_event_id > at),
        is_over=is_over and not isinstance(cursor, int),
        is_nothing_new=is_over and isinstance(cursor, int) and cursor >= newest,
    )


async def _leads_somewhere(tx: Transaction, cursor: int, *, head: int, newest: int) -> bool:
    """
    Tell whether everything after *cursor* is still in the log.

    Args:
        newest: The newest event that the stream is about. Who has it misses nothing, however old it is: a reader
            of a job that ended long ago would else be sent the same again whenever it comes back.
    """
    return cursor <= head and (cursor >= newest or cursor >= await events.removed_to(tx))


async def _states(tx: Transaction, parts: Parts, known: list[Job], *, cursor: int) -> list[bytes]:
    """Write the present state of jobs; the id comes with the last, so that none of them is skipped."""
    blocks = []
    # What keeps everybody waiting is no event of a job: it is told to who looks.
    waits = any(job.stage in views.BEFORE_SUBMIT for job in known)
    held_by = (await gate.read(tx)).reason if waits else None
    for number, job in enumerate(known, start=1):
        shown = await pictures.results(tx, job_id=job.id, owner_id=job.owner_id)
        payload = views.addressed(
            views.event(job, shown, now_us=job.updated_at or clock.now_us(), held_by=held_by),
            lambda key: signed_address(parts.tokens, key),
        )
        is_last = number == len(known)
        blocks.append(sse.event(name="status", data=orjson.dumps(payload), id=cursor if is_last else None))
    return blocks
