"""``nanohook dev``: service and sandbox on this machine, with a login link."""

import asyncio
import contextlib
import pathlib
import secrets
import signal
import sys
import time
from typing import Final

import typer

from nanohook import app, logs, server, settings
from nanohook.cli import people, serving
from nanohook.sandbox.app import create_app as create_sandbox
from nanohook.sandbox.options import Options
from nanohook.web import pages

DATA_DIR: Final = pathlib.Path("var/dev")
EMAIL: Final = "demo@localhost"
CREDITS: Final = 100_000
"""Of the demo account: its pictures cost nothing."""


async def run(*, port: int, live: bool) -> None:
    """Serve until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = server.listen("127.0.0.1", port)
    here = server.address(listener)
    async with contextlib.AsyncExitStack() as stack:
        chosen = serving.configured(data_dir=DATA_DIR) if live else await _with_sandbox(stack, here)
        service = app.create_app(chosen, guests_are_local=True)
        await stack.enter_async_context(server.serving(service, listener))
        parts = service.state.parts
        person = await people.person(parts.database, EMAIL, credits=CREDITS)
        expires = int(time.time()) + pages.LOGIN_S
        token = parts.tokens.sign_purpose(pages.LOGIN, f"{person.id} {secrets.token_hex(8)}", expires)
        # Plain lines: whatever folds or colours them breaks the link.
        typer.echo(f"nanohook dev serves on {here}{' with the real NanoBanana' if live else ', sandbox inside'}")
        typer.echo("for an API key:")
        typer.echo(f"NANOHOOK_DATA_DIR={DATA_DIR} {sys.argv[0]} user create EMAIL --verified --credits 100")
        typer.echo("open this once to log in:")
        typer.echo(f"{here}/login?token={token}")
        await stop.wait()


async def _with_sandbox(stack: contextlib.AsyncExitStack, here: str) -> settings.Settings:
    """Start a sandbox, and build settings that never leave this machine."""
    logs.configure(level="INFO", form="auto")
    listener = server.listen("127.0.0.1", 0)
    upstream = server.address(listener)
    await stack.enter_async_context(server.serving(create_sandbox(Options()), listener))
    return local_settings(here=here, upstream=upstream, data_dir=DATA_DIR)


def local_settings(*, here: str, upstream: str, data_dir: pathlib.Path) -> settings.Settings:
    """Build settings for a service at *here* whose NanoBanana is the sandbox at *upstream*."""
    return settings.fixed(
        nanobanana_api_key="sandbox",
        nanobanana_url=upstream,
        public_url=here,
        data_dir=data_dir,
        download_hosts=(upstream.removeprefix("http://"),),
        reconcile_after_s=30,
    )
