"""
The route table: path, methods, endpoint, who may, body limit. Read this first.

    routes → webhook → signing → callbacks → flow.receive → stores → hub → stream
    loop → finish → flow.settle

The signed callback has a lane of its own, past the router; it stands in the table all the same, for its refusals.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from nanohook import errors
from nanohook.rules.tempo import Tempo
from nanohook.settings import Settings
from nanohook.stores.accounts import Person
from nanohook.web import (
    archive,
    auth,
    batches,
    check,
    credits,
    dashboard,
    deliveries,
    docs,
    doors,
    edge,
    failures,
    generate,
    guard,
    images,
    jobs,
    media,
    ops,
    pages,
    projects,
    streams,
    wire,
    work,
    work_wire,
)
from nanohook.web.guard import PersonalEndpoint, PublicEndpoint, Who
from nanohook.web.parts import Call, Parts, parts_of
from nanohook.web.rates import Rate
from nanohook.web.webhook import Webhook

_SMALL: Final = 16 * 1024
_FORM: Final = 64 * 1024
"""What a multipart body needs beside the picture itself."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A route for anyone; what it serves checks for itself."""

    path: str
    method: str
    endpoint: PublicEndpoint
    most_bytes: int = _SMALL
    for_guests: bool = False
    """Under ``dev``, also by a name that is not this machine's."""


@dataclass(frozen=True, slots=True)
class _Theirs:
    """A route for people who are signed in."""

    path: str
    method: str
    endpoint: PersonalEndpoint
    most_bytes: int = _SMALL
    who: Who = Who.PERSON
    rate: Rate | None = None
    """Whose budget a request counts against; without one, that of reading or of writing."""
    tempo: Tempo = field(default_factory=lambda: wire.JSON_TEMPO)
    """How slow the body may be."""
    worded: Callable[[errors.NanohookError, int], str] | None = None
    """Names an error beside its problem, for callers who know it by another name."""


_CALLBACK: Final = "/api/webhooks/image-completion"


def lane() -> edge.Lane:
    """The signed callback: the busiest path goes straight from the edge to its endpoint."""
    endpoint = Webhook(is_signed_by_headers=False)
    route = Route(f"{_CALLBACK}/{{token}}", endpoint, methods=["POST"])
    return edge.Lane(route, prefix=f"{_CALLBACK}/", variable="token", endpoint=endpoint)


def table(settings: Settings) -> list[BaseRoute]:
    """Build every route of the service."""
    raw: list[tuple[str, str, ASGIApp]] = [
        (_CALLBACK, "POST", Webhook(is_signed_by_headers=True)),
        ("/api/images/{job_id}/events", "GET", streams.Streams(of_one_job=True)),
        ("/api/events", "GET", streams.Streams(of_one_job=False)),
    ]
    most_upload = settings.max_upload_bytes + _FORM
    rest = [*_people(), *_pictures(most_upload), *_control(), *_service(), *_pages()]
    return [
        lane().route,
        *(Route(path, endpoint, methods=[method]) for path, method, endpoint in raw),
        *(_route(line) for line in rest),
        Mount(docs.ASSETS, docs.Assets()),
        Mount("/static", _Static(directory=pages.STATIC)),
    ]


def _people() -> list[_Open | _Theirs]:
    return [
        _Open("/api/auth/register", "POST", auth.register),
        _Open("/api/auth/login", "POST", auth.login),
        _Theirs("/api/auth/logout", "POST", auth.logout, who=Who.KNOWN),
        _Theirs("/api/auth/me", "GET", auth.me, who=Who.KNOWN),
        _Theirs("/api/auth/password", "POST", auth.change_password),
        _Open("/api/auth/password/forgot", "POST", auth.forgot),
        _Open("/api/auth/password/reset", "POST", auth.reset),
        _Open("/api/auth/verify-email", "POST", auth.verify),
        _Theirs("/api/auth/verify-email/resend", "POST", auth.resend, who=Who.KNOWN),
        _Theirs("/api/auth/keys", "GET", auth.keys),
        _Theirs("/api/auth/keys", "POST", auth.new_key),
        _Theirs("/api/auth/keys/{key_id}", "DELETE", auth.revoke),
        _Theirs("/api/auth/sessions", "GET", auth.sessions),
        _Theirs("/api/auth/sessions/{session_id}", "DELETE", auth.end_session),
    ]


def _pictures(most_upload: int) -> list[_Open | _Theirs]:
    return [
        _Theirs("/api/projects", "GET", projects.listing),
        _Theirs("/api/projects", "POST", projects.create, most_upload, tempo=wire.UPLOAD_TEMPO),
        _Theirs("/api/projects/{project_id}", "GET", projects.one),
        _Theirs("/api/projects/{project_id}", "PATCH", projects.change, most_upload, tempo=wire.UPLOAD_TEMPO),
        _Theirs("/api/projects/{project_id}", "DELETE", projects.remove),
        _Theirs("/api/images", "POST", images.upload, most_upload, rate=Rate.UPLOAD, tempo=wire.UPLOAD_TEMPO),
        _Theirs("/api/images", "GET", images.listing),
        _Theirs("/api/images/{job_id}", "GET", images.one),
        _Theirs("/api/images/{job_id}", "DELETE", images.remove),
        _Theirs("/api/images/{job_id}/status", "GET", images.status, rate=Rate.STATUS),
        _Theirs("/api/images/{job_id}/result", "GET", images.result, rate=Rate.STATUS),
        _Theirs("/api/images/{job_id}/history", "GET", images.history),
        _Theirs("/api/images/{job_id}/restore", "POST", images.restore),
        _Theirs("/api/images/{job_id}/cancel", "POST", generate.stop),
        _Theirs("/api/images/{job_id}/retry", "POST", generate.again),
        _Theirs("/api/images/{job_id}/accept-late", "POST", generate.accept_late),
        _Theirs("/api/images.zip", "GET", archive.archive),
        _Theirs("/api/generate-image", "POST", generate.generate, wire.JSON_BYTES),
        _Theirs("/api/check-generation-status", "POST", check.check, rate=Rate.STATUS, worded=check.worded),
        _Theirs("/api/credits", "GET", credits.listing),
        _Theirs("/api/credits/estimate", "GET", generate.estimate),
        _Theirs("/api/events/token", "POST", streams.make_token),
    ]


def _control() -> list[_Open | _Theirs]:
    """Many jobs at once, the work itself, and the log of what came in."""
    return [
        _Theirs("/api/batches", "POST", batches.create, work_wire.BATCH_BYTES, tempo=wire.UPLOAD_TEMPO),
        _Theirs("/api/batches/{batch_id}", "GET", batches.one),
        _Theirs("/api/batches/{batch_id}/cancel", "POST", batches.stop),
        _Theirs("/api/jobs/retry", "POST", jobs.again),
        _Theirs("/api/images/delete", "POST", jobs.delete),
        _Theirs("/api/images/restore", "POST", jobs.restore),
        _Theirs("/api/work/pause", "POST", work.pause, who=Who.ADMIN),
        _Theirs("/api/work/resume", "POST", work.resume, who=Who.ADMIN),
        _Theirs("/api/work/drain", "POST", work.drain, who=Who.ADMIN),
        _Theirs("/api/stats", "GET", work.figures),
        _Theirs("/api/deliveries", "GET", deliveries.listing, who=Who.ADMIN),
        _Theirs("/api/deliveries/replay", "POST", deliveries.several, wire.JSON_BYTES, who=Who.ADMIN),
        _Theirs("/api/deliveries/test", "POST", deliveries.test, who=Who.ADMIN),
        _Theirs("/api/deliveries/{delivery_id}", "GET", deliveries.one, who=Who.ADMIN),
        _Theirs("/api/deliveries/{delivery_id}/replay", "POST", deliveries.again, who=Who.ADMIN),
    ]


def _service() -> list[_Open | _Theirs]:
    return [
        _Open("/media/{key:path}", "GET", media.media, for_guests=True),
        _Open("/api/openapi.json", "GET", docs.document),
        _Open("/api/docs", "GET", docs.page),
        _Open("/healthz", "GET", ops.health),
        _Open("/readyz", "GET", ops.ready),
        _Open("/metrics", "GET", ops.metrics),
    ]


def _pages() -> list[_Open]:
    """What people see; a page behind a door is for those who are logged in and confirmed."""
    return [
        _Open("/", "GET", pages.home),
        _Open("/login", "GET", doors.login),
        _Open("/register", "GET", doors.register),
        _Open("/verify-email", "GET", doors.verify_email),
        _Open("/generate-images", "GET", doors.behind(pages.studio)),
        _Open("/dashboard/projects", "GET", doors.behind(dashboard.projects)),
        _Open("/dashboard/projects/{project_id}", "GET", doors.behind(dashboard.project)),
    ]


class _Static(StaticFiles):
    """Our own scripts, styles and icons; kept by browsers for as long as they do not change."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard.check_host(Request(scope), parts_of(scope))
        await super().__call__(scope, receive, send)


def _route(line: _Open | _Theirs) -> Route:
    if isinstance(line, _Open):
        return Route(line.path, _open(line), methods=[line.method])
    return Route(line.path, _theirs(line), methods=[line.method])


def _open(line: _Open) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        parts = parts_of(request.scope)
        if not line.for_guests:
            guard.check_host(request, parts)
        return await line.endpoint(wire.bounded(request, most_bytes=line.most_bytes), parts)

    return answer


def _theirs(line: _Theirs) -> Callable[[Request], Awaitable[Response]]:
    rate = line.rate or (Rate.READ if line.method == "GET" else Rate.WRITE)

    async def permitted(
        request: Request, parts: Parts, person: Person, ask: Callable[[], Awaitable[Person]]
    ) -> Response:
        """Answer *person*, unless they ask too often: a stranger, or their body, does not come so far."""
        standing = await parts.rates.hit(rate, person.id, route=line.path)
        try:
            if standing is not None:
                standing.check()
            bounded = wire.bounded(request, most_bytes=line.most_bytes, tempo=line.tempo)
            answer = await line.endpoint(Call(request=bounded, parts=parts, person=person, ask_again=ask))
            guard.rename_cookie(request, parts, answer, person)
        except errors.NanohookError as exc:
            answer = failures.told(exc, worded=line.worded)
        if standing is not None:
            standing.mark(answer.headers)
        return answer

    async def answer(request: Request) -> Response:
        parts = parts_of(request.scope)
        guard.check_host(request, parts)

        async def ask() -> Person:
            return await guard.require(request, parts, line.who)

        try:
            person = await guard.let_in(parts, ask)
            return await parts.shares.loop_time.measure(person.id, permitted(request, parts, person, ask))
        except errors.NanohookError as exc:
            return failures.told(exc, worded=line.worded)

    return answer
