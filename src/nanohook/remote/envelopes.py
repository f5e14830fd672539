"""
Reads NanoBanana's envelope, ``{code, msg or message, data}``, and believes nothing about its types.

Source: NanoBanana's API pages; the tolerated variations were seen in public integrations.
"""

import dataclasses
import decimal
from typing import Any

from nanohook.rules import callbacks, foreign_json

_TASK_ID_FIELDS = ("taskId", "task_id", "recordId")
# Longer than any float's text; "1e999999999" is short and huge, so the exponent has its own limit.
_MAX_NUMBER_CHARS = 32
_MAX_EXPONENT = 18


@dataclasses.dataclass(frozen=True)
class Envelope:
    """An answer that is one."""

    code: int
    """The body's own code, whatever HTTP says; 200 is success."""

    message: str = dataclasses.field(repr=False)
    task_id: str | None
    data: Any = dataclasses.field(repr=False)


def read(body: bytes) -> Envelope | None:
    """Parse *body* with patience; ``None`` for anything but a JSON object with a whole number as ``code``."""
    try:
        top = foreign_json.parse(body).value
    except ValueError:
        return None
    if not isinstance(top, dict) or (code := _integer(top.get("code"))) is None:
        return None
    message = top.get("msg") or top.get("message")
    data = top.get("data")
    return Envelope(code, message if isinstance(message, str) else "", _task_id(data), data)


def number(data: object) -> decimal.Decimal | None:
    """Read the account's credit: a bare number, or one named ``credit`` or ``credits``."""
    if isinstance(data, dict):
        data = data.get("credit", data.get("credits"))
    return _decimal(data)


def _task_id(data: object) -> str | None:
    if not isinstance(data, dict):
        return None
    ids = (callbacks.task_id(data.get(field)) for field in _TASK_ID_FIELDS)
    return next((text for text in ids if text is not None), None)


def _integer(value: object) -> int | None:
    exact = _decimal(value)
    return int(exact) if exact is not None and exact == exact.to_integral_value() else None


def _decimal(value: object) -> decimal.Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    try:
        exact = decimal.Decimal(text)
    except decimal.InvalidOperation:
        return None
    return exact if exact.is_finite() and abs(exact.adjusted()) <= _MAX_EXPONENT else None
