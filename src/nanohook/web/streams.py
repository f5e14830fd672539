"""Server-sent events: what a stream begins with; after that the hub alone sends."""

import time
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
from nanohook.hub import Send as WireSend
from nanohook.hub import Stream, retry
from nanohook.rules import signing, sse, views
from nanohook.rules.job import Job
from nanohook.stores import accounts, events, jobs, pictures
from nanohook.stores.accounts import Person
from nanohook.web import credentials, edge, guard, wire
from nanohook.web.answers import json_answer
from nanohook.web.parts import Call, Parts, parts_of, signed_address, wants_all

MOST_JOBS: Final = 100
TOKEN_S: Final = 24 * 3600
"""How long a stream's token is good for."""
_PURPOSE: Final = "stream"
_ALL: Final = "*"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opening:
    """How a stream begins."""

    text: bytes
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

    def stream(self, owner_id: str, sees: str | None, *, heartbeat: bytes, send: WireSend) -> Stream:
        """Make the stream that goes on from here."""
        return Stream(
            owner_id=owner_id,
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        parts = parts_of(scope)
        request = Request(scope)
        guard.check_host(request, parts)
        names = tuple(dict.fromkeys(self._names(request)))
        person = await _reader(request, parts, names)
        sees = _sees(request, person)
        has_place = parts.hub.enter(person.id)
        note: edge.Note = scope[edge.NOTE]
        try:
            opening = await parts.database.read(
                lambda tx: _open(tx, parts, sees=sees, names=names, cursor=_cursor(request))
            )
            if opening.is_nothing_new or scope["method"] == "HEAD":
                answer = Response(status_code=204 if opening.is_nothing_new else 200)
                answer.raw_headers.extend(_HEADERS)
                await answer(scope, receive, send)
            else:
                await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                # An event source that is refused by status never comes back: it is told when to, instead.
                heartbeat = _heartbeat(request)
                is_over = opening.is_over or not has_place
                text = retry() + opening.text if has_place else retry()
                if heartbeat is sse.HEARTBEAT_EVENT and not is_over:
                    # Whoever listens for it knows at once that nothing holds the stream back on its way.
                    text += heartbeat
                await note.send({"type": "http.response.body", "body": text, "more_body": not is_over})
                if not is_over:
                    stream = opening.stream(person.id, sees, heartbeat=heartbeat, send=note.send)
                    parts.hub.add(stream)
                    note.stream = (parts.hub, stream)
        finally:
            if has_place and note.stream is None:
                parts.hub.leave(person.id)

    def _names(self, request: Request) -> list[str]:
        if self._of_one_job:
            return [str(request.path_params["job_id"])]
        names = request.query_params.getlist("job")
        if len(names) > MOST_JOBS:
            raise errors.Invalid("too many jobs for one stream", fields={"job": f"at most {MOST_JOBS}"})
        return names


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

    async def find(tx: Transaction) -> Person | None:
        is_alive = await accounts.is_signed_in(tx, user_id, maker, now_us=clock.now_us())
        return await accounts.by_id(tx, user_id) if is_alive else None

    person = await parts.database.read(find, lane=Lane.SIGN_IN)
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
    return sse.read_cursor(request.headers.get("last-event-id") or request.query_params.get("last_event_id"))


async def _open(
    tx: Transaction,
    parts: Parts,
    *,
    sees: str | None,
    names: tuple[str, ...],
    cursor: int | sse.BadCursor | None,
) -> _Opening:
    found = [await jobs.get(tx, owner_id=sees, job_id=name) for name in names]
    known = [job for job in found if job is not None]
    if len(known) < len(names):
        raise errors.NotFound("no such image")
    head = await events.head(tx)
    newest = max((job.last_event_id for job in known), default=head)
    if isinstance(cursor, int) and not await _leads_somewhere(tx, cursor, head=head, newest=newest):
        cursor = sse.BAD_CURSOR
    reset = sse.reset() if cursor is sse.BAD_CURSOR else b""
    if not known:
        # All of a person's jobs: lists and answers carry an ``event_id`` to start from.
        at = cursor if isinstance(cursor, int) else head
        return _Opening(text=reset + sse.cursor(at), cursor=at, jobs=None)
    is_over = all(job.status.is_final for job in known)
    if isinstance(cursor, int):
        at, text = cursor, b""
    else:
        at = newest if len(known) == 1 else head
        text = reset + await _states(tx, parts, known, cursor=at)
    return _Opening(
        text=text,
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


async def _states(tx: Transaction, parts: Parts, known: list[Job], *, cursor: int) -> bytes:
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
    return b"".join(blocks)
