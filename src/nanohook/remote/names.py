"""
Looking up the hosts that strangers name, beside all other lookups.

The system's resolver blocks its thread until a name server answers, or has not for up to half a minute. Event
loops have few threads for it: a handful of names whose server is silent would hold up every other lookup.
"""

import asyncio
import collections
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

Lookup = Callable[[str], Sequence[str]]
"""Host to IP addresses as text, in a thread of its own; raises ``OSError`` where the name is not known."""

MAX_LOOKUPS: Final = 64
"""Threads at one time."""
MAX_PER_DOMAIN: Final = 4
"""Of them, for names below one domain: sixteen domains must be silent at once to be felt by another."""
LOOKUP_S: Final = 10.0
"""Two servers are asked within it. Source: resolv.conf(5), timeout: 5 s for each."""


def system_lookup(host: str) -> Sequence[str]:
    """Ask the system's name server; raises ``OSError`` where it does not know *host*."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class Resolver:
    """
    Resolves names with a bulkhead for each domain: those whose name server is silent wait for one another alone.

    A name is looked up once for all who ask meanwhile. Nothing can stop a lookup, so one that is given up keeps
    its place until it ends; its thread holds up no end of the process.

    Args:
        lookup: In place of the system's.
        timeout_s: Given to each caller, waiting for a place included.
    """

    def __init__(self, lookup: Lookup = system_lookup, *, timeout_s: float = LOOKUP_S) -> None:
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._under_way: dict[str, asyncio.Future[Sequence[str]]] = {}
        self._places = asyncio.Semaphore(MAX_LOOKUPS)
        self._shares: dict[str, asyncio.Semaphore] = {}
        self._users: collections.Counter[str] = collections.Counter()
        """By domain: those who wait for a place of its share, or have one."""

    async def resolve(self, host: str, _port: int) -> Sequence[str]:
        """
        Find the addresses of *host*.

        Raises:
            TimeoutError: The name server did not answer in time.
            OSError: It does not know the name.
        """
        async with asyncio.timeout(self._timeout_s):
            if host not in self._under_way:
                await self._take_place(domain := _domain(host))
                if host in self._under_way:
                    # Somebody who waited as well was first.
                    self._free_place(domain)
                else:
                    self._start(host, domain)
            # Those who give up do not end it for the others.
            return await asyncio.shield(self._under_way[host])

    def _start(self, host: str, domain: str) -> None:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def ended(addresses: Sequence[str], error: Exception | None) -> None:
            del self._under_way[host]
            self._free_place(domain)
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)
                found.exception()  # nobody may be left to hear it

        def work() -> None:
            addresses: Sequence[str] = ()
            error = None
            try:
                addresses = self._lookup(host)
            except Exception as exc:  # noqa: BLE001 - it is for those who asked
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(ended, addresses, error)

        # A daemon: a pool of the library is waited for when the process ends.
        thread = threading.Thread(target=work, name="lookup", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            self._free_place(domain)
            raise OSError("no thread for a lookup") from exc
        self._under_way[host] = found

    async def _take_place(self, domain: str) -> None:
        """Wait for a place of the domain's share first: who waits there takes nobody else's."""
        share = self._shares.setdefault(domain, asyncio.Semaphore(MAX_PER_DOMAIN))
        self._users[domain] += 1
        try:
            await share.acquire()
            try:
                await self._places.acquire()
            except BaseException:
                share.release()
                raise
        except BaseException:
            self._leave(domain)
            raise

    def _free_place(self, domain: str) -> None:
        self._places.release()
        self._shares[domain].release()
        self._leave(domain)

    def _leave(self, domain: str) -> None:
        self._users[domain] -= 1
        if not self._users[domain]:
            del self._users[domain], self._shares[domain]


def _domain(host: str) -> str:
    """Cut *host* to its last two labels: where many people have names below one, they share its places."""
    return ".".join(host.lower().rstrip(".").split(".")[-2:])
