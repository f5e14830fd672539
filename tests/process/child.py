"""Our programs as processes of their own: started, watched, told to go, and gone in the end."""

import contextlib
import dataclasses
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
import orjson

from tests import live

ROOT = pathlib.Path(__file__).parents[2]
NANOHOOK = (sys.executable, "-m", "nanohook")
START_S = 20.0


@dataclasses.dataclass
class Child:
    """A process, and the files that its standard output and standard error go to."""

    process: subprocess.Popen[bytes]
    output: pathlib.Path
    log: pathlib.Path

    @property
    def code(self) -> int | None:
        """Its exit code."""
        return self.process.returncode

    @property
    def printed(self) -> str:
        return self.output.read_text()

    @property
    def said(self) -> str:
        """What came on standard error: its log."""
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of its log."""
        return [orjson.loads(line) for line in self.said.splitlines() if line.startswith("{")]

    async def exited(self, *, timeout_s: float = 20.0) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        try:
            await live.until(lambda: self.process.poll() is not None, timeout_s=timeout_s)
        except TimeoutError:
            raise AssertionError(f"it is still there after {timeout_s} s\n{self.said[-3000:]}") from None
        return int(self.process.returncode)

    async def stopped(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = 15.0) -> int:
        """Tell it to go, and wait for its end; return its exit code."""
        self.process.send_signal(number)
        return await self.exited(timeout_s=timeout_s)

    async def is_up(self, base: str) -> bool:
        """Wait until it is ready at *base*; ``False`` if it ended instead."""
        port = int(base.rpartition(":")[2])
        await live.until(lambda: is_listening(port) or self.process.poll() is not None, timeout_s=START_S)
        try:
            # It listens before it is ready: the question waits in the line.
            async with httpx.AsyncClient(trust_env=False, timeout=START_S) as client:
                return (await client.get(f"{base}/readyz")).status_code == 200
        except httpx.TransportError:
            await self.exited()
            return False


@contextlib.contextmanager
def started(
    command: tuple[str, ...],
    folder: pathlib.Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: pathlib.Path = ROOT,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[Child]:
    """
    Start *command* in an environment of *env* alone; what it says is kept in *folder*. Killed in the end.

    It has no terminal of its own but what *stdin* is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = str(len(list(folder.glob("*.err"))))
    output, log = folder / f"{name}.out", folder / f"{name}.err"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env or {}), stdin=stdin, stdout=out, stderr=err, start_new_session=True
        )
    try:
        yield Child(process, output, log)
    finally:
        process.kill()
        process.wait()


async def ran(
    *words: str,
    folder: pathlib.Path,
    env: Mapping[str, str] | None = None,
    cwd: pathlib.Path = ROOT,
    timeout_s: float = 30.0,
) -> Child:
    """Run ``nanohook`` with *words* to its end."""
    with started((*NANOHOOK, *words), folder, env=env, cwd=cwd) as child:
        await child.exited(timeout_s=timeout_s)
        return child


@contextlib.asynccontextmanager
async def service(data_dir: pathlib.Path, *, port: int, **how: Any) -> AsyncIterator[Child]:
    """Run the test entry point on *data_dir*, with *how* as ``entry`` takes it; yields when it is ready."""
    with started(entry(data_dir, port=port, **how), data_dir / "logs") as child:
        if not await child.is_up(f"http://127.0.0.1:{port}"):
            raise AssertionError(f"the service did not start\n{child.said[-3000:]}")
        yield child


def entry(
    data_dir: pathlib.Path,
    *,
    port: int,
    upstream: str,
    die_at: str | None = None,
    crash_at: str | None = None,
    stick_at: str | None = None,
    grace_s: float | None = None,
    impatient_s: float | None = None,
    clock: pathlib.Path | None = None,
    stream_life_s: float | None = None,
    **given: Any,
) -> tuple[str, ...]:
    """Spell the command that runs the test entry point on *data_dir*; *given* are settings."""
    command = [sys.executable, "-m", "tests.process.entry"]
    command += ["--port", str(port), "--data-dir", str(data_dir), "--upstream", upstream]
    command += ["--settings", orjson.dumps(given).decode()]
    command += ["--die-at", die_at] if die_at else []
    command += ["--crash-at", crash_at] if crash_at else []
    command += ["--stick-at", stick_at] if stick_at else []
    command += ["--grace", str(grace_s)] if grace_s else []
    command += ["--impatient", str(impatient_s)] if impatient_s else []
    command += ["--clock", str(clock)] if clock else []
    command += ["--stream-life", str(stream_life_s)] if stream_life_s else []
    return tuple(command)


@contextlib.asynccontextmanager
async def serving(
    folder: pathlib.Path, *, upstream: str, **env: str
) -> AsyncIterator[tuple[Child, str, dict[str, str]]]:
    """Run ``nanohook serve``; yields it, its address, and the environment for commands beside it."""
    port = live.closed_port()
    base = f"http://127.0.0.1:{port}"
    env = {
        "NANOHOOK_DATA_DIR": str(folder / "data"),
        "NANOHOOK_PUBLIC_URL": base,
        "NANOHOOK_NANOBANANA_URL": upstream,
        "NANOHOOK_DOWNLOAD_HOSTS": upstream.removeprefix("http://"),
        "NANOBANANA_API_KEY": "sandbox",
        "NANOHOOK_DISK_RESERVE_BYTES": "0",
        **env,
    }
    with started((*NANOHOOK, "serve", "--port", str(port)), folder / "serve", env=env, cwd=folder) as child:
        if not await child.is_up(base):
            raise AssertionError(f"the service did not start\n{child.said[-3000:]}")
        yield child, base, env


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
