"""
Logging: one line an event, JSON unless a terminal.

A message is a constant such as ``delivery.accepted``; what belongs to it travels in ``extra``. The request id
is added to every line written while a request is served. Whoever reads the log holds nobody up: lines that find no
room are dropped, and the next one that is taken comes behind their number.
"""

import contextlib
import contextvars
import logging
import sys
import time
from collections.abc import Callable
from typing import Final, Literal

import orjson

from nanohook import clock, ids, output

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
    # There is no stream where the process was started without one.
    as_text = form == "text" or (form == "auto" and sys.stderr is not None and sys.stderr.isatty())
    logging.basicConfig(level=level, handlers=[_Lines(_text if as_text else _json)], force=True)
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


def lines_dropped() -> int:
    """Count the lines that found no room, since the log was set up."""
    return sum(handler.output.dropped for handler in logging.root.handlers if isinstance(handler, _Lines))


def printing() -> contextlib.AbstractContextManager[None]:
    """Let what others print (warnings, tracebacks, a greeting) hold nobody up either, within the block."""
    [stderr] = [handler.output for handler in logging.root.handlers if isinstance(handler, _Lines)]
    return output.printing(stdout=output.Output(sys.stdout), stderr=stderr)


def info(logger: logging.Logger, message: str, fields: dict[str, object]) -> None:
    """
    Log *message* with *fields* by the short way, for what is logged thousands of times a second.

    The same line as ``logger.info(message, extra=fields)``: where only our own handler listens, the library's
    record and its walk up the loggers are left out, which cost more than the line.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], _Lines):
        try:
            handlers[0].write(time.time(), "INFO", logger.name, message, fields)
        except Exception:  # noqa: BLE001 - the long way knows what to do with a line that cannot be written
            logger.info(message, extra=fields)
    else:
        logger.info(message, extra=fields)


class _Lines(logging.Handler):
    """Writes each record as one line, by one system call: nothing waits in a buffer when the process dies."""

    def __init__(self, form: "_Form") -> None:
        super().__init__()
        self._form = form
        self.output = output.Output(sys.stderr)
        self._told = 0
        """Of the lines dropped, those whose number was written."""

    def write(self, at_s: float, level: str, logger: str, message: str, fields: dict[str, object]) -> None:
        """Write one line."""
        if self.output.dropped != self._told and not self._tell():
            return  # counted by what could not be told
        self.output.put(self._form(at_s, level, logger, message, fields))

    def _tell(self) -> bool:
        """Write how many lines were dropped since that was told last, if there is room."""
        dropped = self.output.dropped
        fields: dict[str, object] = {"count": dropped - self._told}
        is_taken = self.output.put(self._form(time.time(), "WARNING", __name__, "log.lines_dropped", fields))
        if is_taken:
            self._told = dropped
        return is_taken

    def close(self) -> None:
        """Tell of what is not told yet, and leave the stream to itself."""
        if not self.output.closed and self.output.dropped != self._told:
            self._tell()
        self.output.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
            if record.exc_info:
                fields["exception"] = _FORMATTER.formatException(record.exc_info)
            self.write(record.created, record.levelname, record.name, record.getMessage(), fields)
        except Exception:  # noqa: BLE001 - as every handler of the library: a log never breaks what it tells of
            self.handleError(record)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Drop the server's own account of a refused start: the command line says it in one sentence."""
    return not record.getMessage().startswith(("Traceback", "Application startup failed"))


def _json(at_s: float, level: str, logger: str, message: str, fields: dict[str, object]) -> bytes:
    """One JSON object."""
    line = {"at": clock.rfc3339(int(at_s * 1e6)), "level": level, "logger": logger, "message": message, **fields}
    request = request_id.get()
    if request is not None:
        line["request_id"] = request
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)


def _text(at_s: float, level: str, _logger: str, message: str, fields: dict[str, object]) -> bytes:
    """A line for people: time, level, message, then what belongs to it, ids by their end."""
    shown = " ".join(f"{key}={_short(key, value)}" for key, value in fields.items() if key != "exception")
    text = f"{time.strftime('%H:%M:%S', time.localtime(at_s))} {level:<7} {message} {shown}".rstrip()
    if "exception" in fields:
        text += f"\n{fields['exception']}"
    return f"{text}\n".encode(errors="backslashreplace")


def _short(key: object, value: object) -> object:
    if not isinstance(value, str):
        return value
    # A terminal takes none of it for a command: much of what is logged was said by strangers.
    return (ids.short(value) if str(key).endswith("_id") else value).translate(_CONTROLS)


_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_Form = Callable[[float, str, str, str, dict[str, object]], bytes]
_FORMATTER: Final = logging.Formatter()
