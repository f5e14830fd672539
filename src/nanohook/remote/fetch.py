"""
Download result pictures without being led astray: the address of a picture comes from outside.

A host is resolved once, every address it has must be public (or the operator lists the host), and the
connection goes to one of those very addresses, so that a second answer of the name server cannot move it.
Redirects are followed by hand and pass the same door. httpx's client is left out on purpose: its transport
alone follows nothing, keeps no cookie, reads no proxy setting, unpacks no body and logs no address.

What a host says about its body counts for little: length, encoding and type are claims, and the bytes decide.
"""

import asyncio
import contextlib
import mmap
import pathlib
import ssl
import time
import types
from collections.abc import AsyncIterator, Mapping
from typing import Final, Self

import httpcore
import httpx

from nanohook import errors
from nanohook.remote import names, pinned, spool
from nanohook.remote.transfer import Transfer
from nanohook.rules import addresses, backoff, containers, inflate
from nanohook.rules.downloads import DownloadFailed, Outcome
from nanohook.rules.tempo import Tempo, Watch
from nanohook.values import frozen

LIMIT_BYTES = 50 * 1024 * 1024
MOST_REDIRECTS = 3

MAX_RESUMES: Final = 3
"""Of one download that breaks off; then it begins anew, as the caller's next try."""

CONNECT_TIMEOUT_S = 5.0
"""For each address of a host: one that does not answer leaves time for the next."""

_HEADERS: Final = {
    # What is read, best first. ``image/*`` would make some hosts choose a format that hardly anybody reads.
    "Accept": "image/jpeg, image/png, image/webp, image/gif, image/avif;q=0.5, image/tiff;q=0.3",
    "Accept-Encoding": "identity",
    "User-Agent": "nanohook",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429})
_NO_RIGHT = frozenset({401, 403})
_NO_SUCH_RANGE, _SERVER_FAULT = 416, 500


@frozen
class Download:
    """A body that was fetched."""

    body: bytes | mmap.mmap
    """All of it, not empty, inflated if it came compressed; a mapped file where memory was short."""


class Fetcher:
    """
    The only way to a picture that somebody else names. Close it, or use it as ``async with``.

    Args:
        spool_dir: For bodies that do not fit into memory; made if it is not there. One process has it.
        download_hosts: ``host`` or ``host:port`` that may be private or plain http.
        limit_bytes: Largest picture.
        memory_bytes: Held in memory at a time, of all downloads together.
        tempo: How slow one may be.
        most_redirects: Followed in one ``get``.
        resolve: In place of the system's name server.
        network: Makes the connections, given IP addresses alone; in place of the system's sockets.
        tls: In place of a context that trusts certifi's authorities.

    Raises:
        StorageFailed: *spool_dir* cannot be used.
    """

    def __init__(
        self,
        *,
        spool_dir: pathlib.Path,
        download_hosts: frozenset[str] = frozenset(),
        limit_bytes: int = LIMIT_BYTES,
        memory_bytes: int = spool.MEMORY_BYTES,
        tempo: Tempo | None = None,
        most_redirects: int = MOST_REDIRECTS,
        resolve: pinned.Resolve | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._download_hosts = frozenset(host.lower() for host in download_hosts)
        self._limit_bytes = limit_bytes
        self._tempo = tempo or Tempo()
        self._most_redirects = most_redirects
        self._spool = spool.Spool(spool_dir, memory_bytes=memory_bytes)
        door = pinned.Door(
            download_hosts=self._download_hosts,
            resolve=resolve or names.Resolver().resolve,
            network=network or httpcore.AnyIOBackend(),
        )
        self._transport = pinned.PinnedTransport(door, tls or httpx.create_ssl_context(trust_env=False))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._transport.aclose()

    @contextlib.asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[Download]:
        """
        Download what is behind *url*; when the block ends, its memory is given back.

        Raises:
            DownloadFailed: Whatever went wrong, with its ``outcome``; no other error comes from here.
        """
        try:
            place = self._permitted(addresses.parse(url))
        except errors.Invalid as exc:
            raise DownloadFailed(str(exc), outcome=Outcome.REFUSED) from exc
        with self._spool.body(max_bytes=self._limit_bytes) as body:
            yield Download(body=await self._download(Transfer(place=place, body=body)))

    async def _download(self, transfer: Transfer) -> bytes | mmap.mmap:
        cut: DownloadFailed | None = None
        try:
            cut = await self._receive(transfer)
            whole = await transfer.body.finish()
        except inflate.TooMuch as exc:
            raise self._too_large(transfer.place) from exc
        except inflate.Damaged as exc:
            damaged = _failed(transfer.place, "sent a compressed body that is damaged", Outcome.BROKEN)
            raise cut or damaged from exc
        except errors.StorageFailed as exc:
            raise DownloadFailed(str(exc), outcome=Outcome.NOT_STORED) from exc
        if not whole:
            raise cut or _failed(transfer.place, "sent an empty body", Outcome.BROKEN)
        # A length that promised more than the picture has is a wrong label, no more.
        if cut is not None and not containers.is_ended(whole):
            raise cut
        return whole

    async def _receive(self, transfer: Transfer) -> DownloadFailed | None:
        """
        Fetch as much of the body as can be had.

        Returns:
            ``None`` when that is all of it, else why it ended before.

        Raises:
            DownloadFailed: There is nothing of it.
        """
        watch = Watch(self._tempo, now_s=_now_s())
        try:
            async with asyncio.timeout_at(watch.ends_at_s) as timer:
                await self._follow(transfer, watch, timer)
        except DownloadFailed as exc:
            failed, cause = exc, exc.__cause__
        except httpx.TransportError as exc:
            failed, cause = _failed(transfer.place, f"broke off: {type(exc).__name__}", Outcome.BROKEN), exc
        except TimeoutError as exc:
            failed, cause = _failed(transfer.place, f"is too slow: {watch.verdict}", Outcome.AWAY), exc
        except OSError as exc:
            # TLS that breaks in the middle comes as Python's own error.
            failed, cause = _failed(transfer.place, f"broke off: {type(exc).__name__}", Outcome.AWAY), exc
        else:
            return None
        failed.__cause__ = cause
        if not transfer.body.received_bytes:
            raise failed
        return failed

    async def _follow(self, transfer: Transfer, watch: Watch, timer: asyncio.Timeout) -> None:
        """
        Go where redirects lead, and take up what breaks off.

        Raises:
            TransportError: It broke off once too often, or cannot be taken up.
        """
        redirects = resumes = 0
        while not transfer.is_done:
            place = transfer.place
            try:
                await self._ask(transfer, watch, timer)
            except httpx.TransportError as exc:
                if not transfer.body.received_bytes:
                    reason = f"could not be reached: {_reason(exc)}"
                    raise _failed(place, reason, Outcome.AWAY) from exc
                if not transfer.may_resume or resumes == MAX_RESUMES:
                    raise
                resumes += 1
            redirects += transfer.place is not place
            if redirects > self._most_redirects:
                reason = f"is behind more than {self._most_redirects} redirects"
                raise _failed(transfer.place, reason, Outcome.MISSING)

    async def _ask(self, transfer: Transfer, watch: Watch, timer: asyncio.Timeout) -> None:
        """
        Send one request and take what its answer says.

        Raises:
            TransportError: There is no answer, or it has broken off.
        """
        place = transfer.place
        request = httpx.Request(
            "GET",
            httpx.URL(
                scheme=place.scheme, host=place.host, port=place.port, raw_path=place.target.encode("ascii")
            ),
            headers=_HEADERS | transfer.resuming,
            extensions={"timeout": {"connect": CONNECT_TIMEOUT_S}},
        )
        async with self._transport.stream(request) as response:
            watch.begun(now_s=_now_s())
            timer.reschedule(watch.ends_at_s)
            if response.status_code in _REDIRECTS:
                transfer.place = self._redirected(place, response)
                return
            if not httpx.codes.is_success(response.status_code):
                raise _refusal(place, response.status_code, response.headers)
            transfer.begin(response.status_code, response.headers)
            if (transfer.total_bytes or 0) > self._limit_bytes:
                raise self._too_large(place)
            async for piece in response.aiter_raw():
                watch.received(len(piece), now_s=_now_s())
                timer.reschedule(watch.ends_at_s)
                await transfer.body.add(piece)
        if not transfer.end():
            raise httpx.RemoteProtocolError("a part of the body is missing")

    def _redirected(self, place: addresses.Place, response: httpx.Response) -> addresses.Place:
        location = next((value for name, value in response.headers.raw if name.lower() == b"location"), b"")
        try:
            return self._permitted(addresses.redirected(place, location))
        except errors.Invalid as exc:
            outcome = Outcome.MISSING if exc.code == "no_url" else Outcome.REFUSED
            raise _failed(place, f"answered {response.status_code}: {exc}", outcome) from exc

    def _permitted(self, place: addresses.Place) -> addresses.Place:
        listed = addresses.is_listed_host(place.host, place.port, self._download_hosts)
        if place.scheme != "https" and not listed:
            cure = "is not https: list the host in NANOHOOK_DOWNLOAD_HOSTS to allow it"
            raise _failed(place, cure, Outcome.REFUSED)
        return place

    def _too_large(self, place: addresses.Place) -> DownloadFailed:
        return _failed(place, f"has more than the {self._limit_bytes:,} bytes that are taken", Outcome.TOO_LARGE)


def _refusal(place: addresses.Place, status: int, headers: Mapping[str, str]) -> DownloadFailed:
    """Say what a status that brings no picture means."""
    if status in _BUSY or status >= _SERVER_FAULT:
        after_s = backoff.parse_retry_after(headers.get("retry-after"), now_s=time.time())
        return _failed(place, f"answered {status}", Outcome.AWAY, retry_after_s=after_s)
    if status in _NO_RIGHT:
        return _failed(place, f"answered {status}: the picture may not be had", Outcome.FORBIDDEN)
    if status == _NO_SUCH_RANGE:
        return _failed(place, "broke off, and does not have the rest", Outcome.BROKEN)
    return _failed(place, f"answered {status}: the picture is not there", Outcome.MISSING)


def _failed(
    place: addresses.Place, what: str, outcome: Outcome, *, retry_after_s: float | None = None
) -> DownloadFailed:
    return DownloadFailed(f"{place.shown} {what}", outcome=outcome, retry_after_s=retry_after_s)


def _reason(exc: httpx.TransportError) -> str:
    """Say why there was no answer, without a word of what the host has sent."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    # Behind the colon is the host's own text.
    text = str(exc).partition(":")[0]
    return f"{type(exc).__name__} ({text})" if isinstance(exc, httpx.RemoteProtocolError) else type(exc).__name__


def _now_s() -> float:
    return asyncio.get_running_loop().time()
