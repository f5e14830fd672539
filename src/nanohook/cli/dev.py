"""``nanohook dev``: service and sandbox on this machine, with a login link."""

import asyncio
import contextlib
import os
import pathlib
import secrets
import signal
import socket
import sys
import time
from typing import Final

import typer

from nanohook import app, errors, http1, logs, server, settings
from nanohook.cli import people, reach, serving
from nanohook.cli.printing import plain
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from nanohook.settings import AUTO, Settings
from nanohook.web import pages

DATA_DIR: Final = pathlib.Path("var/dev")
EMAIL: Final = "demo@localhost"
CREDITS: Final = 100_000
"""Of the demo account: its pictures cost nothing."""
_SANDBOX_PORT: Final = "sandbox-port"


async def run(*, port: int, live: bool) -> None:
    """
    Serve until a signal.

    Raises:
        ConfigError: The port is taken; or with *live*, what the real NanoBanana needs is missing.
    """
    stop = asyncio.Event()

    def told(number: int) -> None:
        """Go in order at the first signal, at once at the second."""
        if stop.is_set():
            os._exit(128 + number)
        server.exit_within(server.EXIT_S)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told, number)
    listener = server.listen("127.0.0.1", port)
    here = server.address(listener)
    async with contextlib.AsyncExitStack() as stack:
        chosen = await _live_settings(here) if live else await _with_sandbox(stack, here)
        service = app.create_app(chosen, guests_are_local=True)
        limits = http1.Limits(keep_alive_s=chosen.keep_alive_s)
        served = await stack.enter_async_context(server.serving(service, listener, limits=limits))
        served.on_fatal = stop.set
        parts = service.state.parts
        person = await people.person(parts.database, EMAIL, credits=CREDITS)
        expires = int(time.time()) + pages.LOGIN_S
        token = parts.tokens.sign_purpose(pages.LOGIN, f"{person.id} {secrets.token_hex(8)}", expires)
        stack.enter_context(logs.printing())
        # Plain lines: whatever folds or colours them breaks the link.
        typer.echo(f"nanohook dev serves on {here}{' with the real NanoBanana' if live else ', sandbox inside'}")
        if live:
            typer.echo(plain(f"NanoBanana reaches it at {parts.terms.public_url}"))
        typer.echo("for an API key:")
        typer.echo(f"NANOHOOK_DATA_DIR={DATA_DIR} {sys.argv[0]} user create EMAIL --verified --credits 100")
        typer.echo("open this once to log in:")
        typer.echo(f"{here}/login?token={token}")
        await stop.wait()
        if served.fatal is not None:
            server.leave(served.fatal)


async def _live_settings(here: str) -> Settings:
    """
    Read the settings for the real NanoBanana; without a public URL, ngrok's tunnel is taken.

    Raises:
        ConfigError: Names everything that is missing, and how to come by it.
    """
    chosen = serving.configured(data_dir=DATA_DIR)
    missing = []
    if chosen.nanobanana_api_key is None:
        missing.append("NANOBANANA_API_KEY: take one from nanobananaapi.ai/api-key")
    if chosen.public_url is None:
        # Whoever works on a laptop has a tunnel, or nothing that could be set.
        chosen = settings.load(data_dir=DATA_DIR, public_url=AUTO)
    try:
        await reach.public_url(chosen, here)
    except errors.ConfigError as exc:
        missing.append(f"{exc}; or set NANOHOOK_PUBLIC_URL to an https address that leads here")
    if missing:
        raise errors.ConfigError("\n  ".join(["dev --live needs what is missing:", *missing]))
    return chosen


async def _with_sandbox(stack: contextlib.AsyncExitStack, here: str) -> Settings:
    """Start a sandbox, and build settings that never leave this machine."""
    log = settings.load_log()
    logs.configure(level=log.log_level, form=log.log_format)
    listener = await asyncio.to_thread(_same_port)
    upstream = server.address(listener)
    await stack.enter_async_context(server.serving(create_sandbox(Options()), listener))
    return local_settings(here=here, upstream=upstream, data_dir=DATA_DIR)


def _same_port() -> socket.socket:
    """Listen where the sandbox of the last start did, if that is free: jobs of then know it by that address."""
    note = DATA_DIR / _SANDBOX_PORT
    listener = None
    # No note yet, nonsense in it, or somebody else there by now.
    with contextlib.suppress(OSError, ValueError, OverflowError, errors.ConfigError):
        listener = server.listen("127.0.0.1", int(note.read_text()))
    listener = listener or server.listen("127.0.0.1", 0)
    # Whether the folder can be written is for those to say who need it.
    with contextlib.suppress(OSError):
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        note.write_text(str(listener.getsockname()[1]))
    return listener


def local_settings(*, here: str, upstream: str, data_dir: pathlib.Path) -> Settings:
    """Build settings for a service at *here* whose NanoBanana is the sandbox at *upstream*."""
    return settings.fixed(
        nanobanana_api_key="sandbox",
        nanobanana_url=upstream,
        public_url=here,
        data_dir=data_dir,
        download_hosts=(upstream.removeprefix("http://"),),
        reconcile_after_s=30,
    )
