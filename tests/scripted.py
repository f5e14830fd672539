"""A server that says what a test wrote, byte for byte: for answers and breaks that no framework would give."""

import asyncio
import contextlib

import orjson

CUT = b""
"""No answer: the connection is closed as soon as the request is there."""
STATE = {
    "job_id": "j1",
    "status": "PENDING",
    "progress": 0,
    "stage": "uploaded",
    "message": "Picture uploaded",
    "error": None,
    "attempt": 1,
}
MOMENT = "2026-01-02T03:04:05.678901Z"
RETRY = "retry: 10\n\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


class Asked:
    """One request as it came."""

    def __init__(self, head, body):
        line, *lines = head.decode().strip().split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in lines)}
        self.body = body


class Server:
    """
    Answers one request after the other with what a test gave it, raw bytes or an async function that writes them.

    The last answer stands for all later ones. A path in *by_path* has answers of its own, for requests that come
    in an order nobody knows; what no answer was written for is a 500.
    """

    def __init__(self, *answers, by_path=None):
        self.answers = list(answers) or [refused(500, "unexpected")]
        self.by_path = by_path or {}
        self.asked = []
        self.base = ""

    def answer_to(self, asked):
        self.asked.append(asked)
        answers = self.by_path.get(asked.path, self.answers)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def handle(self, reader, writer):
        # A browser opens connections that it never uses.
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = Asked(head, b"").headers.get("content-length", "0")
            answer = self.answer_to(Asked(head, await reader.readexactly(int(length))))
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(writer)
            await writer.drain()
        writer.close()


def http(body, *, status=200, kind="application/json", headers=""):
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    head = f"HTTP/1.1 {status} Said\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\n"
    return (head + f"connection: close\r\n{headers}\r\n").encode() + content


def refused(status, code="unavailable", *, retry_after=None):
    headers = "" if retry_after is None else f"retry-after: {retry_after}\r\n"
    body = {"status": status, "code": code, "detail": "not now"}
    return http(body, status=status, kind="application/problem+json", headers=headers)


def stream(*pieces, is_cut=False):
    """Answer with an event stream in chunks; one that *is_cut* misses the end."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in map(str.encode, pieces))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
    return head + b"connection: close\r\n\r\n" + chunks + (b"" if is_cut else b"0\r\n\r\n")


def status(number, status="GENERATING", **more):
    data = orjson.dumps({**STATE, "status": status, "images": [], "at": MOMENT, "progress": number, **more})
    return f"id: {number}\nevent: status\ndata: {data.decode()}\n\n"
