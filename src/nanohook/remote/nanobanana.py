"""
Speaks to NanoBanana: submits tasks, asks after them, asks for the credit.

What a submit's answer means decides over money: a task is paid when it is accepted, and there is no
idempotency key. So `submit` never guesses. It returns one of the outcomes below, and everything that does
not prove that nothing was bought is `Unknown`.

Source: NanoBanana's API pages; the table of outcomes in "What is paid, once".
"""

import dataclasses
import decimal
import ipaddress
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx
import orjson

from nanohook import awake, errors
from nanohook.remote import envelopes, orders
from nanohook.rules import backoff, inflate

MAX_ANSWER_BYTES = 1_048_576
"""Of an answer, and of what comes out of one that is compressed."""
UNREADABLE = "unreadable"
"""Code of an answer that came from NanoBanana, as it seems, and cannot be understood."""

_MAX_MESSAGE_CHARS = 500
# A shorter prompt may be part of any sentence; cutting it out would only break the message.
_MIN_CUT_CHARS = 8
# Shorter than the 5 s after which many servers drop an idle connection: a submit must not go out on a
# connection that the other side is closing, because that would be an unknown outcome.
_KEEPALIVE_S = 2.0
_OK = 200
_SERVER_FAULT = 500
_BUSY = frozenset({429, 455})
_NO_CREDIT = 402
_BLOCKED = frozenset({401, _NO_CREDIT, 403})


@dataclasses.dataclass(frozen=True)
class Accepted:
    """Bought. The task runs."""

    task_id: str


@dataclasses.dataclass(frozen=True)
class NotSent:
    """Nothing left this machine: try again."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Busy:
    """Refused for the moment: try again, not before ``retry_after_s`` seconds if it is known."""

    code: int
    retry_after_s: float | None


@dataclasses.dataclass(frozen=True)
class Blocked:
    """Refused, and every other submit too: the key (401, 403) or the credit (402)."""

    code: int


@dataclasses.dataclass(frozen=True)
class Refused:
    """Refused for good; ``message`` is the upstream's, cut free of what this service sent."""

    code: int
    message: str


@dataclasses.dataclass(frozen=True)
class TryOnceMore:
    """The upstream failed before it made a task; one more try is allowed."""

    code: int


@dataclasses.dataclass(frozen=True)
class Unknown:
    """Perhaps bought: never to be sent again by itself. ``task_id`` is known now and then."""

    reason: str
    task_id: str | None


Outcome = Accepted | NotSent | Busy | Blocked | Refused | TryOnceMore | Unknown


@dataclasses.dataclass(frozen=True)
class Answer:
    """What record-info said: an envelope, unparsed; it may hold the prompt and the callback's address."""

    http_status: int
    body: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class _Reply:
    http_status: int
    retry_after_s: float | None
    body: bytes = dataclasses.field(repr=False)


class _TooLargeError(Exception):
    """The answer has more than ``MAX_ANSWER_BYTES``."""


# Everything that a request may end with, apart from being cancelled.
_TROUBLE = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, _TooLargeError)


class Client:
    """
    A connection pool to NanoBanana; use it with ``async with``.

    Args:
        base_url: Plain http is taken for loopback only.
        api_key: Sent as bearer; never shown.
        paths: By model, the last part of the submit's address below ``/api/v1/nanobanana/``.
        connections: At most so many at once; more requests wait ``connect_timeout_s`` for one.
        connect_timeout_s: Until a connection stands, TLS included.
        read_timeout_s: Longest silence while writing or reading, but for a submit.
        total_timeout_s: For a whole request, while this process runs.

    Raises:
        errors.ConfigError: *base_url* or *api_key* cannot be used.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        paths: Mapping[str, str],
        connections: int = 20,
        connect_timeout_s: float = 5.0,
        read_timeout_s: float = 30.0,
        total_timeout_s: float = 60.0,
    ) -> None:
        self._root = f"{_checked_base_url(base_url)}/api/v1"
        self._paths = dict(paths)
        self._total_timeout_s = total_timeout_s
        self._api_key = _checked_key(api_key)
        self._timeout = httpx.Timeout(read_timeout_s, connect=connect_timeout_s, pool=connect_timeout_s)
        # Whether a submit was taken is told by its answer alone: that is waited for as long as there is time.
        self._submit_timeout = httpx.Timeout(None, connect=connect_timeout_s, pool=connect_timeout_s)
        self._http = httpx.AsyncClient(
            headers={
                "authorization": f"Bearer {api_key}",
                "user-agent": "nanohook",
                # Bytes are counted as they come; nothing may grow afterwards.
                "accept-encoding": "identity",
            },
            limits=httpx.Limits(max_connections=connections, keepalive_expiry=_KEEPALIVE_S),
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self._http.aclose()

    async def submit(self, order: orders.Order) -> Outcome:
        """
        Ask for one task; may cost money, so call it once for each decision to buy.

        Raises:
            errors.Invalid: No path is known for the order's model; nothing was sent.
        """
        path = self._paths.get(order.model)
        if path is None:
            raise errors.Invalid("no submit path is set for this model", code="unknown_model")
        watch = _Watch()
        try:
            reply = await self._send(
                "POST", f"nanobanana/{path}", watch=watch, json=orjson.dumps(orders.body(order))
            )
        except _TROUBLE as exc:
            reason = type(exc).__name__
            outcome: Outcome = Unknown(reason, None) if watch.sent else NotSent(reason)
        else:
            outcome = _outcome(reply)
        if isinstance(outcome, Refused):
            outcome = dataclasses.replace(outcome, message=self._cut(outcome.message, order))
        return outcome

    async def record_info(self, task_id: str) -> Answer:
        """
        Ask what became of a task. "Task not found" is an answer too.

        Raises:
            errors.Transient: No answer came (network, time-out, a gateway's page), it says 429 or 455
                (``retry_after_s`` is set if it was told), or it is about the account: ``code`` is then
                ``bad_key`` (401, 403) or ``no_credit`` (402). ``UNREADABLE``: an answer that is no envelope, or
                too long.
        """
        reply, _ = await self._ask("nanobanana/record-info", {"taskId": task_id})
        return Answer(reply.http_status, reply.body)

    async def credit(self) -> decimal.Decimal:
        """
        Ask how much the account holds.

        Raises:
            errors.Transient: As `record_info`; also for an answer without a number.
        """
        _, envelope = await self._ask("common/credit", {})
        if envelope.code != _OK:
            raise errors.Transient(f"NanoBanana answered the credit with code {envelope.code}")
        credit = envelopes.number(envelope.data)
        if credit is None:
            raise errors.Transient("NanoBanana's credit is not a number")
        return credit

    async def _ask(self, path: str, params: dict[str, str]) -> tuple[_Reply, envelopes.Envelope]:
        name = path.rpartition("/")[2]
        try:
            reply = await self._send("GET", path, params=params)
        except _TooLargeError as exc:
            raise errors.Transient(f"NanoBanana's {name} is longer than anybody reads", code=UNREADABLE) from exc
        except _TROUBLE as exc:
            raise errors.Transient(f"NanoBanana's {name} was not reached: {type(exc).__name__}") from exc
        envelope = envelopes.read(reply.body)
        codes = {reply.http_status} | ({envelope.code} if envelope else set())
        if blocked := codes & _BLOCKED:
            code = "no_credit" if _NO_CREDIT in codes else "bad_key"
            raise errors.Transient(f"NanoBanana's {name} refuses this account (code {min(blocked)})", code=code)
        if codes & _BUSY:
            raise errors.Transient(f"NanoBanana's {name} is busy", retry_after_s=reply.retry_after_s)
        if envelope is None:
            raise errors.Transient(
                f"NanoBanana's {name} gave HTTP {reply.http_status} without an envelope",
                # A gateway that cannot reach it answers in its place: that is no answer of NanoBanana's.
                code=None if httpx.codes.is_server_error(reply.http_status) else UNREADABLE,
                retry_after_s=reply.retry_after_s,
            )
        return reply, envelope

    async def _send(
        self,
        method: str,
        path: str,
        *,
        watch: "_Watch | None" = None,
        json: bytes | None = None,
        params: dict[str, str] | None = None,
    ) -> _Reply:
        body = bytearray()
        inflater = inflate.Inflater(max_bytes=MAX_ANSWER_BYTES)
        async with (
            awake.Timeout(self._total_timeout_s),
            self._http.stream(
                method,
                f"{self._root}/{path}",
                content=json,
                params=params,
                headers={"content-type": "application/json"} if json is not None else None,
                extensions={"trace": watch} if watch is not None else None,
                timeout=self._timeout if watch is None else self._submit_timeout,
            ) as response,
        ):
            # Whatever the label says: the bytes tell whether they are compressed.
            async for chunk in response.aiter_raw():
                body += _inflated(inflater.feed(chunk))
        body += _inflated(inflater.finish())
        retry_after = backoff.parse_retry_after(response.headers.get("retry-after"), now_s=time.time())
        return _Reply(response.status_code, retry_after, bytes(body))

    def _cut(self, message: str, order: orders.Order) -> str:
        for ours in (self._api_key, order.callback_url, *order.image_urls, order.prompt):
            if len(ours) >= _MIN_CUT_CHARS:
                message = message.replace(ours, "…")
        return message[:_MAX_MESSAGE_CHARS]


def _inflated(pieces: Iterator[bytes]) -> bytes:
    """Join *pieces* of what is inflated; what is damaged is no envelope, and ends as what it is so far."""
    out = bytearray()
    try:
        for piece in pieces:
            out += piece
    except inflate.TooMuch:
        raise _TooLargeError from None
    except inflate.Damaged:
        return bytes(out)
    return bytes(out)


class _Watch:
    """Sees whether a request has begun to leave; before that, no failure can have bought anything."""

    def __init__(self) -> None:
        self.sent = False

    async def __call__(self, event: str, _info: Mapping[str, Any]) -> None:
        # Source: httpcore's extensions page, "trace".
        if event.endswith("send_request_headers.started"):
            self.sent = True


def _outcome(reply: _Reply) -> Outcome:
    envelope = envelopes.read(reply.body)
    if envelope is None:
        if reply.http_status in _BUSY:
            return Busy(reply.http_status, reply.retry_after_s)
        return Unknown(f"HTTP {reply.http_status} without an envelope", None)
    code = envelope.code
    if envelope.task_id is not None:
        if code == _OK and httpx.codes.is_success(reply.http_status):
            return Accepted(envelope.task_id)
        return Unknown(f"HTTP {reply.http_status}, code {code}, with a task id", envelope.task_id)
    if code == _OK:
        return Unknown(f"HTTP {reply.http_status}, code {code}, without a task id", None)
    return _refusal(envelope, reply)


def _refusal(envelope: envelopes.Envelope, reply: _Reply) -> Outcome:
    code = envelope.code
    if code in _BLOCKED:
        return Blocked(code)
    for each in (code, reply.http_status):
        if each in _BUSY:
            return Busy(each, reply.retry_after_s)
    if code == _SERVER_FAULT:
        return TryOnceMore(code)
    return Refused(code, envelope.message)


def _checked_base_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as exc:
        raise errors.ConfigError("NANOHOOK_NANOBANANA_URL is not an address") from exc
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment or url.userinfo:
        raise errors.ConfigError("NANOHOOK_NANOBANANA_URL must look like https://host, without a query or user")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise errors.ConfigError("NANOHOOK_NANOBANANA_URL must be https: the key would travel in the open")
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _checked_key(key: str) -> str:
    # A header takes no more than this; refused here, where the message can keep the value to itself.
    if not key or not key.isascii() or not key.isprintable() or key != key.strip():
        raise errors.ConfigError("NANOBANANA_API_KEY must be printable ASCII without spaces around it")
    return key
