"""The answer to a request that nobody else will see."""

from nanohook import ids
from nanohook.http1.exchange import answer_head
from nanohook.http1.head import Refused
from nanohook.web import failures


def answer(exc: Refused, *, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """Write the answer to what was *exc*; it is its connection's last."""
    problem = failures.problem(exc.status, code=exc.code, detail=exc.detail)
    headers = [
        *default_headers,
        *problem.raw_headers,
        (b"x-request-id", ids.new_id().encode()),
        (b"connection", b"close"),
    ]
    return answer_head(exc.status, headers) + bytes(problem.body)
