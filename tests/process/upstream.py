"""The sandbox, with answers that wait for something, or with something odd before it."""

import asyncio
import collections
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from nanohook.sandbox.app import create_app
from nanohook.sandbox.options import Options
from nanohook.sandbox.tasks import Table
from tests import live


class Patient:
    """
    The sandbox, except that it answers some requests only when *until* is true; everything else at once.

    Args:
        held: Method and start of the path of those requests.
        until: Given the sandbox's tasks.
    """

    def __init__(self, options: Options, *, held: tuple[str, str], until: Callable[[Table], bool]) -> None:
        self._sandbox = create_app(options)
        self._held = held
        self._until = until
        self.tasks: Table = self._sandbox.state.tasks
        self.waiting = asyncio.Event()
        """Set as soon as one of those requests waits for its answer."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_late(message: Any) -> None:
            self.waiting.set()
            await live.until(lambda: self._until(self.tasks), timeout_s=60)
            await send(message)

        method, path = self._held
        is_held = scope["type"] == "http" and scope["method"] == method and scope["path"].startswith(path)
        await self._sandbox(scope, receive, send_late if is_held else send)


Meeting = Callable[[Any, Any, Any, Any], Awaitable[None]]
"""Given the sandbox, then what every ASGI application is given."""


class Odd:
    """
    The sandbox, behind what a test puts before it.

    Each request for a task whose prompt has a word in it meets the next of what was written for that word, and
    the sandbox itself when nothing is left of that. Every prompt has the empty word in it.

    Args:
        submit: For the submits.
        ask: For ``record-info``.
        picture: For the downloads of the result.
    """

    def __init__(
        self,
        options: Options,
        *,
        submit: Mapping[str, list[Meeting]] | None = None,
        ask: Mapping[str, list[Meeting]] | None = None,
        picture: Mapping[str, list[Meeting]] | None = None,
    ) -> None:
        self._sandbox = create_app(options)
        self._written = {
            kind: {word: list(meetings) for word, meetings in (written or {}).items()}
            for kind, written in (("submit", submit), ("ask", ask), ("picture", picture))
        }
        self.tasks: Table = self._sandbox.state.tasks
        self.asked: collections.defaultdict[tuple[str, str], list[float]] = collections.defaultdict(list)
        """When each kind came, by prompt; s."""

    def put_before(self, kind: str, *meetings: Meeting) -> None:
        """Let requests for ``submit``, ``ask`` or ``picture`` meet *meetings* from now on, whatever the prompt."""
        self._written[kind] = {"": list(meetings)}

    def let_through(self, kind: str) -> None:
        """Put nothing before the sandbox any more, for ``submit``, ``ask`` or ``picture``."""
        self._written[kind] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._sandbox(scope, receive, send)
            return
        body = await _read(receive)
        kind, prompt = self._kind(scope, body)
        self.asked[kind, prompt].append(time.monotonic())
        written = self._written.get(kind, {})
        word = next((word for word in written if word in prompt), None)
        meeting = written[word][0] if word is not None and written[word] else straight
        if meeting is not straight and not isinstance(meeting, Always):
            written[word].pop(0)
        await meeting(self._sandbox, scope, _again(body, receive), send)

    def _kind(self, scope: Any, body: bytes) -> tuple[str, str]:
        path = scope["path"]
        if scope["method"] == "POST":
            return "submit", str(orjson.loads(body)["prompt"])
        if path.startswith("/r/"):
            return "picture", self._prompt(path.removeprefix("/r/").partition("_")[0])
        if path.endswith("/record-info"):
            return "ask", self._prompt(scope["query_string"].decode().partition("taskId=")[2])
        return "other", ""

    def _prompt(self, task_id: str) -> str:
        task = self.tasks.by_id.get(task_id)
        return "" if task is None else task.order.prompt


class Always:
    """Meets each request from now on in the same way."""

    def __init__(self, meeting: Meeting) -> None:
        self._meeting = meeting

    async def __call__(self, sandbox: Any, scope: Any, receive: Any, send: Any) -> None:
        await self._meeting(sandbox, scope, receive, send)


class Hold:
    """Keeps a request back until it is let go."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        """Set as soon as there is one."""
        self.gate = asyncio.Event()

    async def __call__(self, sandbox: Any, scope: Any, receive: Any, send: Any) -> None:
        self.waiting.set()
        await self.gate.wait()
        await sandbox(scope, receive, send)


def changed(change: Callable[[bytes], bytes], **headers: str) -> Meeting:
    """Let the sandbox answer, with a body that *change* made of its own, and *headers* in place of its own."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def answer(sandbox: Any, scope: Any, receive: Any, send: Any) -> None:
        start: dict[str, Any] = {}
        body = b""

        async def keep(message: Any) -> None:
            nonlocal body
            start.update(message if message["type"].endswith(".start") else {})
            body += message.get("body", b"")

        await sandbox(scope, receive, keep)
        content = change(body)
        kept = [each for each in start["headers"] if each[0] not in {b"content-length", *dict(raw)}]
        length = (b"content-length", str(len(content)).encode())
        await send({**start, "type": "http.response.start", "headers": [*kept, *raw, length]})
        await send({"type": "http.response.body", "body": content})

    return answer


async def straight(sandbox: Any, scope: Any, receive: Any, send: Any) -> None:
    """The sandbox alone."""
    await sandbox(scope, receive, send)


async def cut(_sandbox: Any, _scope: Any, receive: Any, send: Any) -> None:
    """Nothing at all: the connection is reset."""
    send.__self__.transport.abort()
    await _until_gone(receive)


async def silent(sandbox: Any, scope: Any, receive: Any, _send: Any) -> None:
    """The sandbox takes it, and no answer ever comes."""

    async def swallow(_message: Any) -> None:
        """Keep it."""

    await sandbox(scope, receive, swallow)
    await _until_gone(receive)


def said(status: int, body: object, **headers: str) -> Meeting:
    """Answer without the sandbox; *body* is JSON unless it is bytes."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if "content_length" not in headers:
        raw.append((b"content-length", str(len(content)).encode()))

    async def answer(_sandbox: Any, _scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content, "more_body": "content_length" in headers})
        if "content_length" in headers:  # it promised more
            send.__self__.transport.close()
            await _until_gone(receive)

    return answer


def refused(code: int, **headers: str) -> Meeting:
    """Refuse as the vendor does."""
    return said(200, {"code": code, "msg": "not now", "data": None}, **headers)


async def _read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Any) -> Any:
    """Give *body* once more, then whatever else comes."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Any:
        return left.pop() if left else await receive()

    return receive_again


async def _until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
