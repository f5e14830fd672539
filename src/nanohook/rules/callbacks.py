"""
What a callback, or an answer of ``record-info``, says: three shapes of JSON read into one.

The bodies come from outside and are believed only as far as their shape: any type may be in any place, and
nothing but ``NotJson`` and ``Unreadable`` leaves this module.

    A  {"code", "msg", "data": {"taskId", "info": {"resultImageUrl"}}}
    B  {"code", "msg", "data": {"taskId", "successFlag", "response": {"resultImageUrl"}, "errorCode", …}}
    C  {"job_id", "status", "data": {"url", "image_url", "images", "progress", "error"}}

Source: docs.nanobananaapi.ai, callback pages of ``generate`` and ``generate-2``; CONTRACT section 6.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal

from nanohook import errors
from nanohook.rules import foreign_json, status
from nanohook.values import frozen

MAX_ID_CHARS: Final = 512
"""Of an id of NanoBanana's, wherever it comes from: one that is taken in one place is taken in all."""
MAX_WORD_CHARS: Final = 64
MAX_MESSAGE_CHARS: Final = 500
MAX_URL_CHARS: Final = 4096
MAX_URLS: Final = 20

Shape = Literal["A", "B", "C"]

# Characters that a terminal, a log or PostgreSQL's text would choke on.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NOT_TEXT: Final = re.compile(r"[\x00\ud800-\udfff]")
_INTEGER: Final = re.compile(r"(-?[0-9]{1,18})(?:\.0*)?")
_POLICY: Final = re.compile(r"sensitive|policy|flagged|prohibited|nsfw", re.IGNORECASE)

_LIST_NAMES: Final = ("resultImageUrls", "resultUrls", "result_urls")
_SUCCESS: Final = 200
_NOT_FOUND: Final = 404
_SERVER_FAULT: Final = 500
_CONTENT_POLICY: Final = "400"
# record-info, when it has nothing to show: not yet visible, unknown, or a fault that looks like both.
_WITHOUT_RECORD: Final = frozenset({200, 404, 422, 500})
_FLAGS: Final = {
    0: status.Stage.GENERATING,
    1: status.Stage.COMPLETED,
    2: status.Stage.FAILED,
    3: status.Stage.FAILED,
}

# A longer number is no id, and takes long to write out.
_MAX_INTEGER: Final = 2**64

_Object = dict[str, object]


class NotJson(errors.Rejected):
    """The body is not JSON, however patiently it is read."""

    code = "not_json"


class Unreadable(errors.Invalid):
    """JSON, but of no known shape, or its ids disagree."""

    code = "unreadable_callback"


@frozen
class Reading:
    """What one body says about one task."""

    shape: Shape
    """Which of the three it was."""

    task_id: str | None
    """The upstream's id, opaque, 1 to ``MAX_ID_CHARS`` characters; ``None`` when the body names none."""

    job_id: str | None
    """Our job as the body names it; nothing is proven by it."""

    stage: status.Stage | None
    """``None`` is no news. ``COMPLETED`` means that finishing is due."""

    word: str
    """The word or code that *stage* was read from, for the log; at most ``MAX_WORD_CHARS``."""

    progress: int | None
    """60 to 69 where shape C counts while generating, else ``None``."""

    urls: tuple[str, ...]
    """Where the picture is said to be, with a success: best first, not checked, at most ``MAX_URLS``."""

    error_code: str | None
    """The upstream's own, only with a failure; at most ``MAX_WORD_CHARS``."""

    error_message: str | None
    """The upstream's own, on one line, only with a failure; at most ``MAX_MESSAGE_CHARS``."""

    repairs: tuple[str, ...] = ()
    """What had to be mended before the body could be read as JSON, in words; see ``foreign_json``."""

    @property
    def is_success(self) -> bool:
        """Whether there is something to fetch."""
        return self.stage is status.Stage.COMPLETED and bool(self.urls)


@frozen
class Record:
    """An answer of ``record-info``."""

    found: bool
    """Whether it has a record of the task."""

    reading: Reading | None
    """What the record says; ``None`` exactly when not found."""

    code: int
    """
    The envelope's. Without a record 404 is a firm "no such task"; 200 and 422 are also what a task gets that
    was created a moment ago, and 500 may be a fault of theirs.
    """

    @property
    def is_gone(self) -> bool:
        """It says firmly that it has no such task."""
        return not self.found and self.code == _NOT_FOUND

    @property
    def is_fault(self) -> bool:
        """It says that something went wrong there, and nothing of the task."""
        return not self.found and self.code == _SERVER_FAULT


def read(body: bytes) -> Reading:
    """
    Read a callback.

    Args:
        body: Raw request bytes; its size is the caller's to limit.

    Raises:
        NotJson: Not JSON however patiently it is read, or nested too deep.
        TooLarge: It is compressed, and holds more than ``foreign_json.MAX_BYTES``.
        Unreadable: No known shape, or ids that disagree.
    """
    top, repairs = _envelope(body)
    return _reading(top, repairs)


def read_record(body: bytes, *, http_status: int) -> Record:
    """
    Read an answer of ``record-info``.

    "Not found" decides whether a task may be bought again, so it is taken only from an envelope that says so,
    never from the HTTP status of whatever stands in between.

    Args:
        body: Raw response bytes.
        http_status: Of the response; a record is a record whatever it is.

    Raises:
        NotJson: See ``read``.
        TooLarge: See ``read``.
        Unreadable: Neither a record nor a known way to say that there is none.
    """
    top, repairs = _envelope(body)
    code = _integer(top.get("code"))
    inner = _object(top.get("data"))
    if "successFlag" in inner or isinstance(inner.get("state"), str):
        return Record(found=True, reading=_reading(top, repairs), code=http_status if code is None else code)
    if code in _WITHOUT_RECORD and http_status in _WITHOUT_RECORD and not top.get("data"):
        return Record(found=False, reading=None, code=code)
    raise Unreadable(f"record-info answered neither with a record nor that it has none: HTTP {http_status}")


def fault_code(reading: Reading) -> str:
    """Say an upstream's failure in the contract's words: ``content_policy`` or ``upstream_failed``."""
    refused = reading.error_code == _CONTENT_POLICY or _POLICY.search(reading.error_message or "")
    return "content_policy" if refused else "upstream_failed"


def task_id(value: object) -> str | None:
    """
    Read an id of NanoBanana's: opaque, so only what can be kept and compared is asked of it.

    Returns:
        1 to ``MAX_ID_CHARS`` printable characters without blanks around them; ``None`` for anything else.
    """
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable():
        return value.strip() or None  # the way of nearly all
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value).strip() if isinstance(value, str) or abs(value) < _MAX_INTEGER else ""
    if not 0 < len(text) <= MAX_ID_CHARS or _UNPRINTABLE.search(text) is not None:
        return None
    return text


def _envelope(body: bytes) -> tuple[_Object, tuple[str, ...]]:
    try:
        parsed = foreign_json.parse(body)
    except foreign_json.NotJson as exc:
        raise NotJson(str(exc)) from None
    except foreign_json.TooLarge as exc:
        raise errors.TooLarge(str(exc)) from None
    if not isinstance(parsed.value, dict):
        raise Unreadable("the body is JSON, but not an object")
    return parsed.value, parsed.repairs


def _reading(top: _Object, repairs: tuple[str, ...]) -> Reading:
    inner = _object(top.get("data"))
    shape, verdict, stage = _verdict(top, inner)
    failed = stage in {status.Stage.FAILED, status.Stage.CANCELED}
    return Reading(
        shape=shape,
        task_id=_one_id("task", inner.get("taskId"), inner.get("task_id"), top.get("taskId"), top.get("task_id")),
        job_id=_one_id("job", top.get("job_id"), top.get("jobId"), inner.get("job_id")),
        stage=stage,
        word=_text(verdict, limit=MAX_WORD_CHARS) or "",
        progress=_progress(inner) if shape == "C" and stage is status.Stage.GENERATING else None,
        urls=_urls(inner, shape) if stage is status.Stage.COMPLETED else (),
        error_code=_error_code(top, inner, shape) if failed else None,
        error_message=_error_message(top, inner, shape) if failed else None,
        repairs=repairs,
    )


def _verdict(top: _Object, inner: _Object) -> tuple[Shape, object, status.Stage | None]:
    # The flag goes first: with it the envelope's code is 200 even for a failed task.
    if "successFlag" in inner:
        flag = inner["successFlag"]
        number = int(flag) if isinstance(flag, bool) else _integer(flag)
        return "B", flag, None if number is None else _FLAGS.get(number)
    word = top.get("status")
    if isinstance(word, str):
        return "C", word, status.stage_of(word)
    state = inner.get("state")
    if isinstance(state, str):
        return "B", state, status.stage_of(state)
    code = _integer(top.get("code"))
    if code is None:
        raise Unreadable("the body has none of successFlag, status, state and code")
    return "A", code, status.Stage.COMPLETED if code == _SUCCESS else status.Stage.FAILED


def _one_id(what: str, *values: object) -> str | None:
    found = None
    for value in values:
        # What cannot be an id is no reason to lose a picture: the address says whose it is.
        if value is None or (text := task_id(value)) is None or text == found:
            continue
        if found is not None:
            raise Unreadable(f"the body names more than one {what} id")
        found = text
    return found


def _progress(inner: _Object) -> int | None:
    percent = inner.get("progress")
    return status.generating_progress(percent) if isinstance(percent, int | float | str) else None


def _urls(inner: _Object, shape: Shape) -> tuple[str, ...]:
    # A dictionary keeps the order and drops what comes twice.
    found: dict[str, None] = {}
    for value in _results(inner, shape):
        for item in value if isinstance(value, list) else (value,):
            for text in _addresses(item):
                url = text.strip()
                if url and len(url) <= MAX_URL_CHARS and _UNPRINTABLE.search(url) is None:
                    found[url] = None
                if len(found) == MAX_URLS:
                    return tuple(found)
    return tuple(found)


def _results(inner: _Object, shape: Shape) -> Iterator[object]:
    response, info = inner.get("response"), inner.get("info")
    places = (_object(response), _object(info), inner)
    if shape == "C":
        yield from (inner.get(name) for name in ("url", "image_url", "images"))
    yield from (place.get("resultImageUrl") for place in places)
    yield from (place.get(name) for place in places for name in _LIST_NAMES)
    yield _object(_parsed(inner.get("resultJson"))).get("resultUrls")
    yield from (value for value in (response, info) if isinstance(value, list))
    # Last: the vendor keeps this copy for ten minutes only.
    yield from (place.get("originImageUrl") for place in places)


def _addresses(item: object) -> Iterator[str]:
    if isinstance(item, str):
        yield item
    elif isinstance(item, dict):
        yield from (value for name in ("url", "image_url") if isinstance(value := item.get(name), str))


def _parsed(value: object) -> object:
    # The twin service sends JSON as text inside JSON.
    if not isinstance(value, str):
        return value
    try:
        return foreign_json.parse(value.encode(errors="replace")).value
    except ValueError:
        return None


def _error_code(top: _Object, inner: _Object, shape: Shape) -> str | None:
    code = top.get("code") if shape == "A" else None
    given = (code, inner.get("errorCode"), inner.get("failCode"), _object(inner.get("error")).get("code"))
    texts = (_text(value, limit=MAX_WORD_CHARS) for value in given)
    # The vendor writes 0 where there is no error.
    return next((text for text in texts if text and text != "0"), None)


def _error_message(top: _Object, inner: _Object, shape: Shape) -> str | None:
    error = inner.get("error")
    given = (
        inner.get("errorMessage"),
        inner.get("failMsg"),
        _object(error).get("message"),
        error,
        inner.get("message") if shape == "C" else None,
        # Elsewhere the envelope only says how the call itself went, which is "success".
        *((top.get("msg"), top.get("message")) if shape == "A" else (top.get("error"), top.get("message"))),
    )
    return next((text for value in given if (text := _text(value, limit=MAX_MESSAGE_CHARS))), None)


def _text(value: object, *, limit: int) -> str | None:
    # One line, short, printable. Cut before the work is done, and again where the limit is.
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str):
        return None
    if len(value) <= limit and value.isprintable():
        return value.strip()
    line = " ".join(_NOT_TEXT.sub("\ufffd", value[: limit * 4]).split())
    return _UNPRINTABLE.sub("", line).strip()[:limit]


def _integer(value: object) -> int | None:
    # Some languages have one type of number, and write 200 as 200.0.
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and (found := _INTEGER.fullmatch(value.strip())):
        return int(found[1])
    return None


def _object(value: object) -> _Object:
    return value if isinstance(value, dict) else {}
