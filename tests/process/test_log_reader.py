"""Whoever reads the log: slow, not at all, or gone. The service goes on, and tells how many lines it left out."""

import asyncio
import contextlib
import os
import pathlib
import pty
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest

from tests import live
from tests.process import child

MANY = 2_000
"""Answers to strangers, each a line of some 200 bytes: several times the 64 KiB of a pipe, see pipe(7)."""
TOKEN = "metrics-token"


@contextlib.contextmanager
def served(folder: pathlib.Path, *, stderr: int, stdout: int) -> Iterator[tuple[child.Child, str]]:
    """Run ``nanohook serve`` with its output going where nobody of the rig's looks."""
    port = live.closed_port()
    env = {
        "NANOHOOK_DATA_DIR": str(folder / "data"),
        "NANOHOOK_LOG_FORMAT": "json",
        "NANOHOOK_METRICS_TOKEN": TOKEN,
        "NANOHOOK_DISK_RESERVE_BYTES": "0",
    }
    command = (*child.NANOHOOK, "serve", "--port", str(port))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    nothing = folder / "nothing"
    nothing.touch()
    try:
        yield child.Child(process, nothing, nothing), f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def person_at(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=base, trust_env=False, timeout=20)


async def ask_often(person: httpx.AsyncClient, times: int = MANY) -> None:
    """Ask as a stranger for what has a line in the log, and now and then for the service's health."""
    for number in range(times):
        assert (await person.get("/api/images")).status_code == 401
        if number % 100 == 0:
            assert (await person.get("/healthz")).status_code == 200


async def dropped(person: httpx.AsyncClient) -> int:
    """Ask the figures for how many lines were dropped."""
    text = (await person.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).raise_for_status().text
    [line] = [line for line in text.splitlines() if line.startswith("nanohook_log_lines_dropped_total ")]
    return int(float(line.split()[1]))


class Reading:
    """What has been read of a log."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._text = b""
        os.set_blocking(end, False)

    def lines(self) -> list[dict[str, Any]]:
        """Read what is there, and wait for nothing; the last line is left out if it has no end yet."""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._end, 1 << 20):
                self._text += piece
        whole = self._text.splitlines()[: None if self._text.endswith(b"\n") else -1]
        # What was cut off is a line, and no JSON.
        return [orjson.loads(line) for line in whole if line.startswith(b"{") and line.endswith(b"}")]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]


def pipe() -> tuple[int, int]:
    return os.pipe()


def terminal() -> tuple[int, int]:
    return pty.openpty()


def sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("kind", [pipe, terminal, sockets])
async def test_a_log_that_nobody_reads_holds_nobody_up_and_the_lines_left_out_are_counted(tmp_path, kind):
    reader, writer = kind()
    try:
        with served(tmp_path, stderr=writer, stdout=writer) as (service, base):
            # The flag would be every process's that has the same descriptor.
            assert os.get_blocking(writer)
            assert await service.is_up(base)
            async with person_at(base) as person:
                await ask_often(person)
                assert os.get_blocking(writer)
                missing = await dropped(person)
                assert missing > 0

                read = Reading(reader)
                assert read.messages().count("http.request") > 10
                # Somebody reads again: the next line comes behind the number of those that did not.
                assert (await person.get("/api/images")).status_code == 401
                await live.until(lambda: read.messages()[-2:] == ["log.lines_dropped", "http.request"])
                told = [line for line in read.lines() if line["message"] == "log.lines_dropped"]
                assert sum(line["count"] for line in told) == missing
                assert {line["level"] for line in told} == {"WARNING"}
            assert await service.stopped() == 0
        assert "service.draining" in read.messages()
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_pipe_that_is_full_from_the_start_holds_up_no_start(tmp_path):
    """A supervisor gives the next process the pipe that the last one filled."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    try:
        with served(tmp_path, stderr=writer, stdout=writer) as (service, base):
            assert await service.is_up(base)
            assert await service.stopped() == 0
    finally:
        os.close(reader)
        os.close(writer)


async def test_the_count_is_told_with_the_next_line_whatever_it_is(tmp_path):
    reader, writer = os.pipe()
    try:
        with served(tmp_path, stderr=writer, stdout=writer) as (service, base):
            assert await service.is_up(base)
            async with person_at(base) as person:
                await ask_often(person)
                read = Reading(reader)
                before = len(read.lines())
            assert await service.stopped() == 0
        # The next line was one of the way down.
        assert read.messages()[before] == "log.lines_dropped"
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_reader_that_has_gone_is_no_fault_and_costs_nothing(tmp_path):
    """As ``nanohook serve 2>&1 | head -1``."""
    reader, writer = os.pipe()
    with served(tmp_path, stderr=writer, stdout=writer) as (service, base):
        os.close(writer)
        assert await service.is_up(base)
        async with person_at(base) as person:
            await ask_often(person, 200)
            began = cpu_ticks(service)
            await ask_often(person, 200)
            with_reader = cpu_ticks(service) - began
            head = await asyncio.create_subprocess_exec("head", "-1", stdin=reader, stdout=subprocess.DEVNULL)
            os.close(reader)
            assert await head.wait() == 0
            before, began = await dropped(person), cpu_ticks(service)
            await ask_often(person, 200)
            assert await dropped(person) - before == 200
            assert cpu_ticks(service) - began <= 2 * with_reader + 5
        assert await service.stopped() == 0


def cpu_ticks(service: child.Child) -> int:
    """Tell how much time of a processor it has used. Source: proc(5), utime and stime."""
    fields = pathlib.Path(f"/proc/{service.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def test_without_any_standard_stream_it_serves(tmp_path):
    """As ``nanohook serve <&- >&- 2>&-``."""
    port = live.closed_port()
    env = {
        "NANOHOOK_DATA_DIR": str(tmp_path / "data"),
        "NANOHOOK_METRICS_TOKEN": TOKEN,
        "NANOHOOK_DISK_RESERVE_BYTES": "0",
    }
    command = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *child.NANOHOOK, "serve", "--port", str(port))
    with child.started(command, tmp_path / "serve", env=env, cwd=tmp_path) as service:
        base = f"http://127.0.0.1:{port}"
        assert await service.is_up(base)
        async with person_at(base) as person:
            await ask_often(person, 10)
            assert await dropped(person) >= 10
        assert await service.stopped() == 0
