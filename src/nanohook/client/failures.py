"""
What can go wrong, as one tree.

    ClientError
    ├── NoAnswer     none came, or half of one
    ├── Problem      an answer that is no success
    ├── BadAnswer    a success that cannot be understood
    ├── Deleted      the job that was followed is gone
    └── NotMade      ``change`` ended without a picture
"""

import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx

from nanohook.client.values import Job

_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_BUSY: Final = frozenset({httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE})


class ClientError(Exception):
    """Root of every error that the client raises on purpose."""

    idempotency_key: str | None = None
    """Of the order that it ended: under the same key it can be sent again, and is paid once."""


class NoAnswer(ClientError):
    """No answer came, or half of one: whether the request arrived is unknown. The cause is httpx's."""


class BadAnswer(ClientError):
    """A success that cannot be understood: a proxy's page, or a service of another version."""


class Deleted(ClientError):
    """The job that was followed has been deleted."""


class NotMade(ClientError):
    """A job ended without a picture; ``job.error`` tells why."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"job {job.job_id} ended {job.status}: {job.message}")
        self.job = job


class Problem(ClientError):
    """
    An answer that is no success: problem JSON, or a proxy's page, whose ``code`` is then ``unknown``.

    Args:
        answer: Has been read.
    """

    def __init__(self, answer: httpx.Response) -> None:
        content = _object(answer)
        self.status = answer.status_code
        self.code = str(content.get("code") or "unknown")
        """Stable word for programs."""
        self.detail = str(content.get("detail") or answer.reason_phrase)
        self.request_id: str | None = answer.headers.get("x-request-id")
        """What the service's log knows this request by."""
        self.errors = _fields(content.get("errors"))
        """What is wrong with which field."""
        self.retry_after_s = _retry_after_s(answer.headers.get("retry-after"))
        super().__init__(f"{self.status} {self.code}: {self.detail}")

    @property
    def is_passing(self) -> bool:
        """Whether nothing was done yet, and the same request may succeed later."""
        # ``in_progress``: an earlier try broke on its way back, and the service still works on it.
        return self.status in _BUSY or self.code == "in_progress"


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _fields(told: object) -> tuple[Mapping[str, object], ...]:
    return tuple(each for each in told if isinstance(each, dict)) if isinstance(told, list) else ()


def _retry_after_s(text: str | None) -> float | None:
    """Read ``Retry-After``: whole seconds, or a date; ``None`` for what cannot be understood."""
    text = (text or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):
        # The standard library's parser lets all of these out for one odd date or another.
        return None
