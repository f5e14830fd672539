"""The only place that builds the service's parts and joins them; one lifespan opens and closes all of them."""

import asyncio
import contextlib
import logging
import os
import pathlib
import secrets
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from nanohook import address, clock, database, errors, migrations, page_check, signing_keys
from nanohook.database import Database, Topic
from nanohook.decoding import Decoder
from nanohook.flow import gate, submit
from nanohook.flow.terms import SECOND_US, Terms
from nanohook.hub import Hub
from nanohook.page_check import PageCheck
from nanohook.passwords import Passwords
from nanohook.remote.fetch import Fetcher
from nanohook.remote.mail import Mailer
from nanohook.remote.nanobanana import Client
from nanohook.remote.ngrok import Agent
from nanohook.rules import backoff, signing, smtp
from nanohook.rules.job import Step
from nanohook.settings import AUTO, Settings
from nanohook.storage import Storage
from nanohook.stores import facts
from nanohook.supervision import Supervisor, Work
from nanohook.web import failures, guard, parts, routes
from nanohook.web.edge import Edge
from nanohook.web.forwarded import Forwarded
from nanohook.web.metrics import Metrics
from nanohook.web.rates import Cooldown, Rates
from nanohook.web.readiness import Readiness
from nanohook.web.rejections import Rejections
from nanohook.web.shares import Shares
from nanohook.work.account import Account
from nanohook.work.apply import Applier
from nanohook.work.ask import AT_ONCE, Asker
from nanohook.work.finish import Finisher
from nanohook.work.loop import LEASE_US, Loop, Trade
from nanohook.work.marks import Marks, note_deaths
from nanohook.work.pace import Pace
from nanohook.work.submit import Submitter
from nanohook.work.sweep import Sweeper
from nanohook.work.tunnel import Tunnel

logger = logging.getLogger(__name__)

SUBMIT_STOP_S: Final = 6.0
"""A submit under way at shutdown is given this long: cut off, its outcome is unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What a started service can be told."""

    parts: parts.Parts
    loop: Loop
    supervisor: Supervisor

    async def drain(self) -> None:
        """
        Go down in order: not ready, no more claims, streams told to come back, then submits and mails ended.

        It takes ``SUBMIT_STOP_S`` and a second at most. Nothing is waited for where nothing can be stored.
        """
        if self.parts.readiness.is_draining:
            return
        self.parts.readiness.is_draining = True
        logger.info("service.draining", extra={"streams": len(self.parts.hub)})
        await self.parts.hub.drain()
        if self.supervisor.reason is None:
            await asyncio.gather(self.loop.stop(), self.parts.mailer.close())
        logger.info("service.drained")


def database_path(settings: Settings) -> pathlib.Path:
    """Tell where the embedded database is."""
    return settings.data_dir / "nanohook.db"


def create_app(settings: Settings, *, guests_are_local: bool = False) -> Starlette:
    """
    Build the service; nothing is opened before its lifespan starts.

    Args:
        guests_are_local: For ``dev``: a Host that is not loopback reaches only the webhook and media.
    """
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, parts.Parts]]:
        # Where our server listens; another one does not say.
        local_url: str | None = getattr(app.state, "local_url", None)
        try:
            async with _running(
                settings,
                metrics,
                supervisor=Supervisor(getattr(app.state, "end", _end)),
                local_url=local_url,
                guests_are_local=guests_are_local,
            ) as running:
                app.state.parts = running.parts
                app.state.running = running
                # The server gives this with every request, without the cost of an attribute of the app's state.
                yield {"parts": running.parts}
        except errors.NanohookError as exc:
            # The server only says that start-up failed; whoever started it says why.
            is_told = isinstance(exc, errors.ConfigError)
            app.state.refusal = exc if is_told else errors.ConfigError(f"the service did not start: {exc}")
            raise

    made = Starlette(
        routes=routes.table(settings),
        lifespan=lifespan,
        exception_handlers={
            errors.NanohookError: failures.on_ours,
            HTTPException: failures.on_http,
            Exception: failures.on_bug,
        },
    )
    # A slash too many is an unknown path, not an answer built from the caller's own Host.
    made.router.redirect_slashes = False
    # Around all of it, Starlette's own outermost layer included: a crash, too, has its line and its id.
    edge: Any = Edge(_for_others(made.build_middleware_stack(), settings), lane=routes.lane(), metrics=metrics)
    if settings.trusted_proxies:
        edge = Forwarded(edge, trusted=settings.trusted_proxies)
    made.middleware_stack = edge
    return made


def _end(_reason: errors.Fatal) -> None:
    """End a process whose server has no way for that but its signal."""
    signal.raise_signal(signal.SIGTERM)


def _for_others(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Let pages of the origins allowed ask with a key or a token of theirs; never with a cookie."""
    if not settings.allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
        # Whatever a page's tracer adds (traceparent, baggage, ...) is answered by its name: no cookie is ever
        # allowed, so a header gives nobody anything, and one that is refused stops every request of the page.
        allow_headers=("*",),
        expose_headers=(
            "Date",
            "Idempotent-Replayed",
            "RateLimit",
            "RateLimit-Policy",
            "Retry-After",
            "X-Request-Id",
        ),
    )


@contextlib.asynccontextmanager
async def _running(
    settings: Settings,
    metrics: Metrics,
    *,
    supervisor: Supervisor,
    local_url: str | None,
    guests_are_local: bool,
) -> AsyncIterator[Running]:
    metrics.background_restarts = supervisor.restarts
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(page_check.at_start, database_path(settings))
        await asyncio.to_thread(migrations.upgrade, database_path(settings))
        stack.enter_context(migrations.alone(settings.data_dir))
        stack.enter_context(address.told(settings.data_dir, local_url))
        opened = await stack.enter_async_context(
            database.open_database(database_path(settings), supervisor=supervisor)
        )
        terms = Terms.of(settings)
        upstream = await _upstream(stack, settings, opened, terms)
        storage = await asyncio.to_thread(Storage, settings.data_dir / "media")
        sweeper = Sweeper(opened, storage, reserve_bytes=settings.disk_reserve_bytes)
        made = await _parts(
            stack,
            settings,
            opened,
            storage=storage,
            sweeper=sweeper,
            terms=terms,
            metrics=metrics,
            upstream=upstream,
            guests_are_local=guests_are_local,
        )
        marks = await asyncio.to_thread(Marks, settings.data_dir / "decoding")
        loop = await _work(stack, made, upstream, marks)
        applier = Applier(opened, made.terms)
        metrics.sweep_failures = sweeper.failures
        tunnel = await _tunnel(stack, made, local_url)
        # After the look for a tunnel: whether callbacks can come decides about a submit that was cut off.
        taken = await opened.write(lambda tx: submit.recover(tx, terms=made.terms, now_us=clock.now_us()))
        await note_deaths(opened, marks)
        held_by = (await opened.read(gate.read)).reason
        logger.info("service.started", extra={"tasks_taken_over": taken, "held_by": held_by})
        opened.listen(Topic.EVENTS, made.hub.wake)
        opened.listen(Topic.WORK, loop.wake)
        opened.listen(Topic.UNAPPLIED, applier.wake)
        # A thread that decodes cannot be stopped: it is not waited for, and this end of it is no crash.
        stack.callback(marks.forget)
        stack.callback(made.decoder.close)
        stack.push_async_callback(made.rejections.flush)
        stack.push_async_callback(made.mailer.close)
        stack.push_async_callback(made.hub.close)
        background = _background(
            settings, made, loop=loop, applier=applier, sweeper=sweeper, tunnel=tunnel, upstream=upstream
        )
        for name, work in background.items():
            await stack.enter_async_context(supervisor.running(name, work))
        running = Running(parts=made, loop=loop, supervisor=supervisor)
        # Also without a signal (a test, another server) nothing is left under way.
        stack.push_async_callback(running.drain)
        yield running


class _Upstream(NamedTuple):
    """The way to NanoBanana, for those who submit and those who ask."""

    client: Client
    asker: Asker
    pace: Pace
    account: Account


def _background(
    settings: Settings,
    made: parts.Parts,
    *,
    loop: Loop,
    applier: Applier,
    sweeper: Sweeper,
    tunnel: Tunnel | None,
    upstream: _Upstream | None,
) -> dict[str, Work]:
    """Name what runs beside the requests; ``supervision`` tells what becomes of each when it crashes."""
    return {
        "database-watch": made.database.file.run_watch,
        "page-check": PageCheck(database_path(settings), made.database.file).run,
        "hub-tail": made.hub.run_tail,
        "hub-heartbeat": made.hub.run_heartbeat,
        "hub-credentials": made.hub.run_credentials,
        "work": loop.run,
        "work-heartbeat": loop.run_heartbeat,
        "rejections": made.rejections.run,
        "apply": applier.run,
        "mail": made.mailer.run,
        "sweep": sweeper.run,
        "sweep-room": sweeper.run_room,
        **({} if tunnel is None else {"tunnel": tunnel.run}),
        **({} if upstream is None else {"account": upstream.account.run}),
    }


async def _upstream(
    stack: contextlib.AsyncExitStack, settings: Settings, opened: Database, terms: Terms
) -> _Upstream | None:
    """Open the way to NanoBanana; ``None`` without a key."""
    if settings.nanobanana_api_key is None:
        logger.warning("settings.no_api_key", extra={"setting": "NANOBANANA_API_KEY"})
        return None
    client = await stack.enter_async_context(
        Client(
            base_url=settings.nanobanana_url,
            api_key=settings.nanobanana_api_key.get_secret_value(),
            paths=settings.submit_paths,
        )
    )
    pace = Pace(settings.upstream_rate)
    asker = Asker(database=opened, client=client, pace=pace, terms=terms)
    return _Upstream(client, asker, pace, Account(opened, client, pace))


async def _parts(
    stack: contextlib.AsyncExitStack,
    settings: Settings,
    opened: Database,
    *,
    storage: Storage,
    sweeper: Sweeper,
    terms: Terms,
    metrics: Metrics,
    upstream: _Upstream | None,
    guests_are_local: bool,
) -> parts.Parts:
    """Build what the web side stands on."""
    tokens = signing.Tokens(await signing_keys.load(settings, opened))
    decoder = Decoder(max_threads=max(2, os.cpu_count() or 1))
    stack.callback(decoder.close)
    passwords = await asyncio.to_thread(Passwords)
    stack.callback(passwords.close)
    relay, shares = settings.smtp_url, Shares()
    return parts.Parts(
        settings=settings,
        instance=await opened.write(lambda tx: facts.keep(tx, facts.INSTANCE, secrets.token_hex(4))),
        terms=terms,
        database=opened,
        storage=storage,
        decoder=decoder,
        tokens=tokens,
        hub=Hub(
            opened,
            sign=lambda key: parts.signed_address(tokens, key),
            turn=shares.openings.take,
            streams_per_user=settings.streams_per_user,
        ),
        rejections=Rejections(opened),
        metrics=metrics,
        webhook_secrets=tuple(signing.parse_secret(each.get_secret_value()) for each in settings.webhook_secrets),
        readiness=Readiness(opened),
        guests_are_local=guests_are_local,
        passwords=passwords,
        mailer=Mailer(None if relay is None else smtp.parse(relay.get_secret_value()), settings.mail_from),
        rates=Rates(status=settings.rate_status, write=settings.rate_write, upload=settings.rate_upload),
        proxy_notes=Cooldown(guard.PROXY_NOTED_EVERY_S),
        shares=shares,
        make_room=sweeper.make_room,
        want_room=sweeper.want_room,
        check=None if upstream is None else upstream.asker.check,
    )


async def _work(
    stack: contextlib.AsyncExitStack, made: parts.Parts, upstream: _Upstream | None, marks: Marks
) -> Loop:
    """Build the work loop; without an API key it only finishes what is known already."""
    settings, terms = made.settings, made.terms
    hosts, spool_dir = frozenset(settings.download_hosts), settings.data_dir / "spool"
    made_fetcher = await asyncio.to_thread(Fetcher, spool_dir=spool_dir, download_hosts=hosts)
    fetcher = await stack.enter_async_context(made_fetcher)
    finisher = Finisher(
        database=made.database,
        fetcher=fetcher,
        decoder=made.decoder,
        storage=made.storage,
        marks=marks,
        most_pixels=settings.max_pixels,
        can_ask=upstream is not None,
    )
    trades = [
        # Half of them: what hangs is fetched again and again, which takes the event loop's time as well.
        Trade(step=Step.FINISH, most=settings.finish_concurrency, do=finisher.do, share_of_one=1 / 2),
        Trade(step=Step.FINISH, most=1, do=finisher.do, is_suspect=True),
    ]
    # What a step can ask for at most: a host's Retry-After, or the deadline; and a lease on top.
    furthest_us = max(int(backoff.MOST_RETRY_AFTER_S * SECOND_US), terms.deadline_us) + 2 * LEASE_US
    if upstream is None:
        return Loop(made.database, trades, furthest_us=furthest_us, on_jump=made.readiness.clock_jumped)
    client, asker, pace, account = upstream
    submitter = Submitter(
        database=made.database,
        client=client,
        pace=pace,
        tokens=made.tokens,
        terms=terms,
        account=account,
        open_tasks=settings.open_tasks,
    )
    submits = Trade(
        step=Step.SUBMIT,
        most=settings.submit_concurrency,
        do=submitter.do,
        is_open=submitter.is_open,
        stop_s=SUBMIT_STOP_S,
    )
    asks = Trade(step=Step.ASK, most=AT_ONCE, do=asker.do, deadline_us=terms.deadline_us)
    return Loop(
        made.database,
        [submits, asks, *trades],
        pace=pace,
        furthest_us=furthest_us,
        on_jump=made.readiness.clock_jumped,
    )


async def _tunnel(stack: contextlib.AsyncExitStack, made: parts.Parts, local_url: str | None) -> Tunnel | None:
    """Look for ngrok's tunnel, where our public address is whatever that is called."""
    if made.settings.public_url != AUTO:
        return None
    if local_url is None:
        raise errors.ConfigError("NANOHOOK_PUBLIC_URL: auto works with nanohook's own server alone")
    agent = await stack.enter_async_context(Agent(made.settings.ngrok_api, port=address.port_of(local_url)))
    tunnel = Tunnel(database=made.database, agent=agent, address=made.terms.address)
    await tunnel.look()
    return tunnel
