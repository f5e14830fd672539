"""
The service as a process that can be made to die.

    python -m tests.process.entry --port N --data-dir D --upstream URL
        [--die-at POINT[:nth]] [--crash-at POINT] [--stick-at POINT] [--settings JSON]
        [--grace S] [--impatient S] [--clock FILE] [--stream-life S]

Fault points are switched on here alone: no setting of ``nanohook serve`` reaches them.
"""

import argparse
import functools
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import orjson

from nanohook import app, faults, hub, logs, server, settings, storage, supervision
from nanohook.cli import serving
from nanohook.flow import submit
from nanohook.remote.fetch import Fetcher
from nanohook.remote.nanobanana import Client
from nanohook.rules.tempo import Tempo
from nanohook.work import loop


def chosen(*, port: int, data_dir: pathlib.Path, upstream: str, given: dict[str, Any]) -> settings.Settings:
    """Settings of a service under test; *given* ones win."""
    values: dict[str, Any] = {
        "nanobanana_api_key": "sandbox",
        "nanobanana_url": upstream,
        "public_url": f"http://127.0.0.1:{port}",
        "data_dir": data_dir,
        "download_hosts": (upstream.removeprefix("http://"),),
        "upstream_rate": "1000/second",
        "disk_reserve_bytes": 0,
    }
    return settings.fixed(**{**values, **given})


def killer(text: str) -> Callable[[str], None]:
    """Die as by ``kill -9`` at the nth passing of a point; *text* is ``POINT`` or ``POINT:nth``."""
    point, _, number = text.partition(":")
    left = int(number or 1)

    def at(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return at


def crasher(point: str, switch: pathlib.Path) -> Callable[[str], None]:
    """Crash at each passing of *point* while there is a file *switch*, as by an error that nobody thought of."""

    def at(reached: str) -> None:
        if reached == point and switch.exists():
            raise RuntimeError("nobody thought of it")

    return at


def sticker(point: str) -> Callable[[str], None]:
    """Stay at *point* for good, in whichever thread passes it."""

    def at(reached: str) -> None:
        if reached == point:
            time.sleep(3600)

    return at


def make_walk_stick() -> None:
    """Let the folder of the media never tell its files, as that of a disk over a network that is down."""
    storage._below = lambda *_: (time.sleep(3600) for _ in "x")  # type: ignore[assignment, return-value]


def make_impatient(wait_s: float) -> None:
    """Wait *wait_s* for an answer, a picture, or before what is submitted once more; thrice that for a lease."""
    app.Client = functools.partial(Client, read_timeout_s=wait_s, total_timeout_s=3 * wait_s)  # type: ignore[assignment, misc]
    app.Fetcher = functools.partial(Fetcher, tempo=Tempo(silence_s=wait_s))  # type: ignore[assignment, misc]
    loop.LEASE_US = 3 * int(wait_s * 1_000_000)  # type: ignore[misc]
    loop.HEARTBEAT_S = wait_s  # type: ignore[misc]
    submit.ONCE_MORE_AFTER_US = int(wait_s * 1_000_000)  # type: ignore[misc]


def shorten_streams(life_s: float) -> None:
    """Let streams live for *life_s* instead of minutes, and their readers come back soon."""
    hub.LIFE_S = life_s  # type: ignore[misc]
    hub.HEARTBEAT_S = 1  # type: ignore[misc]
    hub.RETRY_MS = (200, 400)  # type: ignore[misc]


def set_clock(path: pathlib.Path) -> None:
    """Let the wall clock be wrong by as many seconds as the file at *path* says now; it can change at any time."""
    true_s, true_ns = time.time, time.time_ns
    time.time = lambda: true_s() + int(path.read_text() or 0)
    time.time_ns = lambda: true_ns() + int(path.read_text() or 0) * 1_000_000_000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=pathlib.Path, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--die-at")
    parser.add_argument("--crash-at", help="While there is a file `crash` in the data dir.")
    parser.add_argument("--stick-at", help="The name of a point, or `walk`.")
    parser.add_argument("--settings", type=orjson.loads, default={})
    parser.add_argument("--grace", type=float, help="How long open requests are given at shutdown.")
    parser.add_argument("--impatient", type=float, help="Seconds in place of the minute that others are given.")
    parser.add_argument("--clock", type=pathlib.Path, help="Holds by how many seconds the wall clock is wrong.")
    parser.add_argument("--stream-life", type=float, help="Seconds that a stream lives.")
    asked = parser.parse_args()
    if asked.clock is not None:
        set_clock(asked.clock)
    if asked.grace is not None:
        server.GRACE_S = asked.grace  # type: ignore[misc]
    if asked.impatient is not None:
        make_impatient(asked.impatient)
    if asked.stream_life is not None:
        shorten_streams(asked.stream_life)
    if asked.die_at is not None:
        faults.at = killer(asked.die_at)
    if asked.crash_at is not None:
        faults.at = crasher(asked.crash_at, asked.data_dir / "crash")
        supervision.FIRST_PAUSE_S = supervision.MAX_PAUSE_S = 0.05  # type: ignore[misc]
    if asked.stick_at == "walk":
        make_walk_stick()
    elif asked.stick_at is not None:
        faults.at = sticker(asked.stick_at)
    logs.configure(level="INFO", form="json")
    made = chosen(port=asked.port, data_dir=asked.data_dir, upstream=asked.upstream, given=asked.settings)
    serving.run(app.create_app(made), server.listen("127.0.0.1", asked.port), name="nanohook")


if __name__ == "__main__":
    main()
