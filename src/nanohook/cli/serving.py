"""What the serving commands share."""

import asyncio
import logging
import socket
from typing import Any, Final

from starlette.applications import Starlette

from nanohook import http1, logs, server, settings
from nanohook.settings import Settings

logger = logging.getLogger(__name__)

LEAST_EVERY_S: Final = 3
"""Asking more often than this risks NanoBanana's rate limit."""
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


def configured(**given: Any) -> Settings:
    """
    Read the settings, of which *given* ones win, and set up the log.

    Raises:
        ConfigError: With every problem.
    """
    chosen = settings.load(**given)
    logs.configure(level=chosen.log_level, form=chosen.log_format)
    if chosen.reconcile_every_s < LEAST_EVERY_S:
        logger.warning("settings.asks_often", extra={"setting": "NANOHOOK_RECONCILE_EVERY_S", "risk": "HTTP 429"})
    if former := settings.former_names():
        logger.warning(
            "settings.not_used", extra={"settings": former, "instead": "NANOHOOK_REDIS_URL, once it is supported"}
        )
    for name in settings.unknown_names():
        logger.warning("settings.unknown", extra={"setting": name})
    return chosen


def run(app: Starlette, listener: socket.socket, *, name: str, limits: http1.Limits | None = None) -> None:
    """
    Serve *app* until a signal; where it cannot go on, this process ends here with the reason.

    Raises:
        ConfigError: It did not start.
    """
    greeting = f"{name} serves on {server.address(listener)}"
    running = server.Server(app, greeting=greeting, limits=limits)
    with logs.printing(), asyncio.Runner(loop_factory=running.config.get_loop_factory()) as runner:
        runner.run(running.serve(sockets=[listener]))
        if running.fatal is not None:
            server.leave(running.fatal)
    if not running.started:
        server.raise_refusal(app)
