"""
Logging: one line an event, JSON unless a terminal.

A message is a constant such as ``delivery.accepted``; what belongs to it travels in ``extra``. The request id
is added to every line written while a request is served.
"""

import contextvars
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import orjson

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""Id of the request being served, for every line written on its behalf."""

_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_NEVER_BELOW_WARNING: Final = (
    "databases",
    "httpx",
    "httpcore",
    "multipart",
    "python_multipart",
    "aiosqlite",
    "asyncio",
)
"""Libraries whose debug lines hold addresses, headers or statements with their values."""


def configure(*, level: str, form: Literal["auto", "json", "text"]) -> None:
    """Send every line to standard error, as JSON or as text for people."""
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    logging.basicConfig(level=level, handlers=[_Lines(_as_text if as_text else _as_json)], force=True)
    # Where a line came from is not printed, and finding out costs a walk up the stack, or a call, each time.
    logging._srcfile = ""  # noqa: SLF001 - as the logging HOWTO recommends
    logging.setLogRecordFactory(_Record)
    for name in _NEVER_BELOW_WARNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "alembic"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # The service tells of its own start and end; the server's errors still come through.
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_wanted)
    logging.getLogger("alembic").setLevel(logging.WARNING)


class _Record(logging.LogRecord):
    """A record of what is printed: the rest, found out anew for each, costs more than the line itself."""

    pathname = filename = module = ""
    lineno = process = thread = 0
    msecs = 0.0
    exc_text = stack_info = None

    def __init__(
        self,
        name: str,
        level: int,
        _pathname: str,
        _lineno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        *_rest: object,
        **_others: object,
    ) -> None:
        self.name = name
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.msg = str(msg)
        self.args = args[0] if len(args) == 1 and isinstance(args[0], dict) and args[0] else args
        self.exc_info = exc_info
        self.created = time.time()


class _Lines(logging.Handler):
    """Writes each record as one line, by one system call: nothing waits in a buffer when the process dies."""

    def __init__(self, form: Callable[[logging.LogRecord], bytes]) -> None:
        super().__init__()
        self._form = form

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit *record*; without the lock that other handlers need, since a line is one write."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(sys.stderr.fileno(), self._form(record))
        except Exception:  # noqa: BLE001 - as every handler of the library: a log never breaks what it tells of
            self.handleError(record)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drop the server's own account of a refused start: the command line says it in one sentence."""
    return not record.getMessage().startswith(("Traceback", "Application startup failed"))


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Collect what belongs to a line: ``extra``, or ``extra={"fields": …}`` where a line must be cheap."""
    found = getattr(record, "fields", None)
    if found is None:
        found = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
    return found


def _as_json(record: logging.LogRecord) -> bytes:
    """One JSON object."""
    line = {
        "at": _at(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **_fields(record),
    }
    request = request_id.get()
    if request is not None:
        line["request_id"] = request
    if record.exc_info:
        line["exception"] = _FORMATTER.formatException(record.exc_info)
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)


def _as_text(record: logging.LogRecord) -> bytes:
    """A line for people: time, level, message, then what belongs to it."""
    fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
    text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname:<7} "
    text += f"{record.getMessage()} {fields}".rstrip()
    if record.exc_info:
        text += f"\n{_FORMATTER.formatException(record.exc_info)}"
    return f"{text}\n".encode(errors="backslashreplace")


_FORMATTER: Final = logging.Formatter()
_second: tuple[int, str] = (0, "")


def _at(created_s: float) -> str:
    """RFC 3339 UTC with milliseconds; the text of a second is made once."""
    global _second  # noqa: PLW0603 - a cache of one entry, replaced whole
    whole = int(created_s)
    if _second[0] != whole:
        _second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return f"{_second[1]}.{int((created_s - whole) * 1000):03d}Z"
