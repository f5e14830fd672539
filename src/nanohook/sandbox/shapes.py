"""
The bodies that go out: envelopes of answers and the three shapes of a callback.

Source: NanoBanana's API pages (answers, record-info, callbacks).
"""

import datetime as dt
import gzip
from typing import Any

import orjson

from nanohook.sandbox import options, orders, tasks

MESSAGES = {
    400: "Your prompt was flagged by Website as violating content policies.",
    401: "You do not have access permissions",
    402: "The credits are insufficient",
    403: "This key or address is not allowed",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "The body is too big",
    422: "The parameters are wrong",
    429: "The call frequency is too high",
    455: "The service is being maintained",
    500: "Server exception, please try again later",
    501: "Image generation task failed",
}


def envelope(code: int, message: str | None = None, data: object = None, *, word: str = "msg") -> bytes:
    """
    Wrap *data* the vendor's way.

    Args:
        code: The body code; 200 is success.
        message: The usual one of *code* if ``None``.
        data: What JSON can hold.
        word: Name of the message's field: submits to the newer tiers say ``message``.
    """
    text = MESSAGES.get(code, "error") if message is None else message
    return orjson.dumps({"code": code, word: text, "data": data})


def accepted(task: tasks.Task) -> bytes:
    """Answer a submit."""
    return envelope(200, "success", {"taskId": task.task_id}, word=message_word(task.order.tier))


def message_word(tier: orders.Tier) -> str:
    """Name the field that carries the message in *tier*'s submit answers."""
    return "msg" if tier == "generate" else "message"


def record(task: tasks.Task) -> bytes:
    """Answer record-info; also the callback of shape B, whose ``code`` is 200 even for a failure."""
    return envelope(200, "success", _record(task))


def final(task: tasks.Task, *, shape: options.Shape) -> bytes:
    """Tell *task*'s outcome in a callback of *shape*."""
    if shape == "auto":
        shape = "b" if task.order.tier == "generate-2" else "a"
    if shape == "b":
        return record(task)
    failure = task.outcome if isinstance(task.outcome, tasks.Failure) else None
    return envelope(
        failure.code if failure else 200,
        failure.message if failure else "Image generated successfully.",
        {"taskId": task.task_id, "info": {"resultImageUrl": task.result_url or ""}},
    )


def progress(task: tasks.Task, percent: int) -> bytes:
    """Tell how far *task* is, in a callback of shape C."""
    return orjson.dumps({"status": "generating", "data": {"task_id": task.task_id, "progress": percent}})


def _record(task: tasks.Task) -> dict[str, Any]:
    failure = task.outcome if isinstance(task.outcome, tasks.Failure) else None
    response = {"originImageUrl": None, "resultImageUrl": task.result_url} if task.result_url else None
    return {
        "taskId": task.task_id,
        "paramJson": orjson.dumps(task.params).decode(),
        "createTime": _time(task.created_at),
        "completeTime": _time(task.completed_at) if task.completed_at else "",
        "operationType": f"{_OPERATIONS[task.order.tier]}_{task.order.resolution.lower()}",
        "response": response,
        "successFlag": int(task.flag),
        "errorCode": failure.code if failure else None,
        "errorMessage": failure.message if failure else None,
    }


_OPERATIONS: dict[orders.Tier, str] = {
    "generate": "nano-banana",
    "generate-pro": "nano-banana-pro",
    "generate-2": "nano-banana-2",
}


def _time(moment: dt.datetime) -> str:
    # Without a zone, as the vendor's examples show it.
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def dressed(body: bytes, dress: options.Dress | None) -> bytes:
    """Wrap JSON as some relay on the way might."""
    if dress == "marked":
        return b"\xef\xbb\xbf" + body
    return gzip.compress(body) if dress == "zipped" else body
