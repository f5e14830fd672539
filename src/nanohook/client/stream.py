"""
A job's event stream as the client hears it, over any number of connections.

Source: WHATWG HTML, section 9.2 "Server-sent events"; CONTRACT section 6, "The stream".
"""

import codecs
import contextlib
import dataclasses
import json
import math
import random
import re
from collections.abc import Iterator
from typing import Final

import httpx

from nanohook.client import failures, reading
from nanohook.client.values import Event, Job

_FIRST_PAUSE_S: Final = 1.0
_FIRST_JITTER_S: Final = 0.5
_MOST_PAUSE_S: Final = 30.0
_MOST_DOUBLINGS: Final = 16
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_DIGITS: Final = re.compile(r"[0-9]{1,9}")


class Text:
    """The text of a stream: bytes in, in pieces of any size, events out."""

    def __init__(self) -> None:
        self.cursor = ""
        """The id of the last event that came whole; what ``Last-Event-ID`` is to be."""
        self.pause_s = _FIRST_PAUSE_S
        """How long the server wants to be left alone after a break."""
        self.is_alive = False
        """Something was told in this connection, be it that there is nothing to tell."""
        self.begin()

    def begin(self) -> None:
        """Begin a connection: what came of an event before the last one broke is forgotten."""
        # A byte order mark at the very beginning is no part of the text.
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("replace").decode
        self._rest = ""
        self._ended_in_cr = False
        self.is_alive = False
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Take in what came; the name and data of each event that is whole now."""
        text = self._decode(chunk)
        if not text:
            return
        if self._ended_in_cr:
            # The other half of a line end that was acted upon already: one that may be the last for long.
            text = text.removeprefix("\n")
        self._ended_in_cr = text.endswith("\r")
        *lines, self._rest = _LINE_END.split(self._rest + text)
        for line in lines:
            if line:
                self._take(line)
                continue
            if self._id is not None:
                self.cursor = self._id
            name, lines_of_data = self._name, self._data
            self._clear()
            if lines_of_data:
                self.is_alive = True
                yield name or "message", "\n".join(lines_of_data)

    def _clear(self) -> None:
        self._name = ""
        self._data: list[str] = []
        self._id: str | None = None

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.is_alive = True
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and _DIGITS.fullmatch(value):
            self.pause_s = min(int(value) / 1000, _MOST_PAUSE_S)


class Feed:
    """
    One job's events.

    Args:
        job_id: Whose they are.
    """

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.is_over = False
        """The final event has come."""
        self.is_held_back = False
        """The last connection stood, and nothing came over it."""
        self._text = Text()
        self._has_heard = False
        self._failures = 0
        self._asked_s = 0.0

    def begin(self) -> dict[str, str]:
        """Begin a connection; the headers that say from where it goes on."""
        self._text.begin()
        self._asked_s = 0.0
        cursor = {"Last-Event-ID": self._text.cursor} if self._text.cursor else {}
        return {"Accept": "text/event-stream", "Cache-Control": "no-store", **cursor}

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note how a connection ends."""
        self.is_held_back = False
        try:
            yield
        except httpx.ReadTimeout:
            self.is_held_back = not self._text.is_alive
            raise

    def take_end(self, job: Job) -> Event | None:
        """Take in the job as it was asked for; its final event, if it has ended."""
        if not job.status.is_final:
            return None
        self.is_over = True
        fields = {
            field.name: getattr(job, field.name) for field in dataclasses.fields(Event) if field.name != "at"
        }
        return Event(**fields, at=job.updated_at)

    def check(self, answer: httpx.Response) -> bool:
        """
        Tell whether *answer*, whose body has been read if it is no success, is the stream that was asked for.

        Raises:
            failures.Deleted: The job was there before.
            failures.Problem: This person may not follow it, or there is no such job.
            failures.BadAnswer: What answers is not the service, and never was.
        """
        if answer.status_code == httpx.codes.NO_CONTENT:
            self.is_over = True
        elif _is_stream(answer):
            return True
        elif answer.is_success:
            # In the middle of a job a proxy's page is a break like any other.
            if not self._has_heard:
                raise failures.BadAnswer("the answer is no event stream: is this a nanohook service?")
        else:
            self._refused(failures.Problem(answer))
        return False

    def take(self, chunk: bytes) -> Iterator[Event]:
        """
        Take in what came.

        Raises:
            failures.Deleted: The job was deleted.
            failures.BadAnswer: An event cannot be understood.
        """
        latest = None
        for name, content in self._text.feed(chunk):
            if name == "reset":
                self._text.cursor = ""
            elif name == "deleted":
                raise failures.Deleted(f"job {self.job_id} was deleted")
            elif name == "status":
                latest = reading.take(Event, _json(content))
                self._has_heard = True
                yield latest
        # Judged by the last that is here: behind a final event may come that of a retry, or of being deleted.
        self.is_over = latest is not None and latest.status.is_final

    def next_pause_s(self) -> float:
        """Choose the wait before the next connection, in seconds: never less than what was asked for."""
        # A connection that was taken and ended is no failure: the service ends each after some minutes.
        self._failures = 0 if self._text.is_alive else min(self._failures + 1, _MOST_DOUBLINGS)
        ceiling_s = min(_MOST_PAUSE_S, math.ldexp(_FIRST_JITTER_S, self._failures))
        return max(self._text.pause_s, self._asked_s) + random.random() * ceiling_s  # noqa: S311 - spreads load

    def _refused(self, problem: failures.Problem) -> None:
        if problem.is_passing or httpx.codes.is_server_error(problem.status):
            self._asked_s = min(problem.retry_after_s or 0.0, _MOST_PAUSE_S)
        elif problem.status == httpx.codes.NOT_FOUND and self._has_heard:
            raise failures.Deleted(f"job {self.job_id} was deleted") from problem
        else:
            raise problem


def _is_stream(answer: httpx.Response) -> bool:
    kind = str(answer.headers.get("content-type", ""))
    return answer.status_code == httpx.codes.OK and kind.startswith("text/event-stream")


def _json(content: str) -> object:
    try:
        return json.loads(content)
    except ValueError as exc:
        raise failures.BadAnswer("an event is not JSON") from exc
