"""What a measured server tells about itself, and how it is told to listen; shared by the ``serve_`` modules."""

import asyncio
import gc
import json
import pathlib
import resource
import socket
import sys
from typing import Any

import uvicorn

_BACKLOG = 4096


def options() -> dict[str, Any]:
    """Read what ``processes.serving`` passes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    read: dict[str, Any] = json.loads(sys.argv[1])
    return read


def listen() -> socket.socket:
    """Open a listening socket on any port of loopback."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def tell_port(listener: socket.socket) -> None:
    """Tell the starter where this process listens."""
    print(listener.getsockname()[1], flush=True)


def speak(running: uvicorn.Server, protocol: str | None) -> None:
    """Have a server speak by another class than ours: ``httptools`` or ``h11``, as uvicorn has them."""
    if protocol in {"httptools", "h11"}:
        running.config.http = protocol  # type: ignore[assignment]


def memory() -> dict[str, int]:
    """Tell memory in KB and the number of tasks, after what is garbage has gone."""
    gc.collect()
    status = pathlib.Path("/proc/self/status").read_text()
    rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
    return {
        "rss_kb": _field(status, "VmRSS:"),
        "pss_kb": _field(rollup, "Pss:"),
        "tasks": len(asyncio.all_tasks()),
    }


def _field(text: str, name: str) -> int:
    return int(text.split(name, 1)[1].split(None, 1)[0])
