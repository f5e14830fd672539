"""Servers as processes of their own, their log in a file."""

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

_ROOT = pathlib.Path(__file__).parents[2]
_STOP_S = 30


@dataclass(frozen=True, slots=True)
class Address:
    """Where a started server listens."""

    host: str
    port: int
    pid: int

    @property
    def netloc(self) -> str:
        return f"{self.host}:{self.port}"


@contextlib.contextmanager
def serving(module: str, log: pathlib.Path, **options: object) -> Iterator[Address]:
    """Run ``tests.bench.<module>``; it prints its port once it listens, and ends at SIGTERM."""
    command = [sys.executable, "-m", f"tests.bench.{module}", json.dumps(options)]
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            told = process.stdout.readline() if process.stdout else ""
            if not told.strip().isdigit():
                raise RuntimeError(f"{module} did not start, see its log:\n{log.read_text()[-4000:]}")
            yield Address("127.0.0.1", int(told), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def output(module: str, **options: object) -> str:
    """Run ``tests.bench.<module>`` to its end and return what it printed."""
    command = [sys.executable, "-m", f"tests.bench.{module}", json.dumps(options)]
    return subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def memory_mb(pid: int, name: str) -> float:
    """Tell what the kernel says of a process' memory: ``VmRSS`` now, ``VmHWM`` at the most."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:", 1)[1].split(None, 1)[0]) / 1024
