"""
The hub: tails the event log in id order and owns the open streams.

A stream is in one of three states. *Catching up*: a pump alone sends, first what the stream begins with, then
pages of the log. *Live*: the request's task is parked, and the hub alone sends bytes that were encoded once for
all readers. *Closed*. The hub never waits for a reader: it drives the server's ``send`` one step, and a reader
whose socket is full goes back to catching up, from the log. So a slow reader costs nobody else's time, and bounded
memory: a piece of the log, what the server takes before it lets a sender wait (64 KiB), and the kernel's buffer
(``http1.sockets``).
"""

import asyncio
import collections
import contextlib
import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import orjson

from nanohook import clock, errors
from nanohook.bell import Bell
from nanohook.database import Database, Transaction
from nanohook.event_stream import Message, Stream
from nanohook.faults import reach
from nanohook.rules import sse, views
from nanohook.stores import credentials, events
from nanohook.stores.credentials import Credential
from nanohook.stores.events import Event

logger = logging.getLogger(__name__)

LOOK_S: Final = 0.25
"""The log is looked at this often even if nobody woke the hub: another process may have written to it."""
HEARTBEAT_S: Final = 15
LIFE_S: Final = 600.0
"""A stream lives 80-100 % of this, so that readers do not come back all at once."""
RETRY_MS: Final = (1_000, 4_000)
MOST_MISSED: Final = 1_000
"""Missed events that are replayed to a stream of all jobs; more, and it starts anew from the present."""
CREDENTIALS_EVERY_S: Final = 0.5
"""Who may not come in any more is looked for this often: any process may have shut them out."""
CUT_AFTER_S: Final = 0.25
"""Who is sent away and does not take even that is cut off after this: all are gone within the second promised."""
_YIELD_EVERY: Final = 256

Turn = Callable[[str], contextlib.AbstractAsyncContextManager[None]]


class Hub:
    """
    Every open stream of this process.

    Args:
        sign: From a storage key to the signed address that is shown.
        turn: Waits for a person's turn at reading and encoding what one reader alone missed, and holds it.
    """

    def __init__(self, database: Database, *, sign: views.Sign, turn: Turn, streams_per_user: int) -> None:
        self._database = database
        self._sign = sign
        self._turn = turn
        self._streams_per_user = streams_per_user
        self._by_job: dict[str, set[Stream]] = {}
        self._by_owner: dict[str | None, set[Stream]] = {}
        """Those of all jobs, by whose they are; ``None``: everybody's."""
        self._count: collections.Counter[str] = collections.Counter()
        # Streams by the second of the heartbeat's round that is theirs.
        self._slots: list[set[Stream]] = [set() for _ in range(HEARTBEAT_S)]
        self._next_slot = 0
        self._pumps: set[asyncio.Task[None]] = set()
        self._bell = Bell()
        self._draining = False
        self._head: int | None = None
        """Everything up to this id has been handed out; unknown while nobody reads."""
        self.sent = 0

    def __len__(self) -> int:
        return self._count.total()

    def wake(self) -> None:
        """There may be new events."""
        self._bell.ring()

    def enter(self, owner_id: str) -> bool:
        """Take a place for a stream of *owner_id*; ``False``: they have all theirs, or the service goes down."""
        if self._draining or self._count[owner_id] >= self._streams_per_user:
            return False
        self._count[owner_id] += 1
        return True

    def leave(self, owner_id: str) -> None:
        """Give a place back."""
        self._count[owner_id] -= 1
        if not self._count[owner_id]:
            del self._count[owner_id]

    def add(self, stream: Stream) -> None:
        """
        Take in a stream that has its place, in the task of its request.

        It is catching up until its pump says otherwise; so it is sent away like any other before its first byte.
        """
        stream.task = asyncio.current_task()
        stream.ends_at = asyncio.get_running_loop().time() + LIFE_S * random.uniform(0.8, 1.0)  # noqa: S311
        for index, key in self._places(stream):
            index.setdefault(key, set()).add(stream)
        self._slots[hash(stream) // 16 % HEARTBEAT_S].add(stream)

    def remove(self, stream: Stream) -> None:
        """Let go of a stream and its place."""
        for index, key in self._places(stream):
            if group := index.get(key):
                group.discard(stream)
                if not group:
                    del index[key]
        self._slots[hash(stream) // 16 % HEARTBEAT_S].discard(stream)
        self.leave(stream.credential.user_id)

    async def catch_up(self, stream: Stream) -> bool:
        """Send *stream* its opening and what it missed, until it is live; ``False`` if it has ended instead."""
        try:
            return await self._catch_up(stream)
        except (errors.Unavailable, errors.TooMany) as exc:
            logger.warning("stream.put_off", extra={"reason": str(exc)})
            await stream.send(ending())
            return False

    async def _catch_up(self, stream: Stream) -> bool:
        opening, stream.opening = stream.opening, ()
        is_over = await self._send_pieces(stream, opening) and stream.is_over
        if self._head is None:
            await self._find_head()
        while not is_over and not self._is_ending(stream):
            # Whatever the hub passes from here on either shows in the page, or sets this again.
            stream.behind = False
            async with self._turn(stream.credential.user_id):
                page = await self._database.read(lambda tx: self._page(tx, stream))
            if page is None:
                await self._send_pieces(stream, [sse.reset() + sse.ready(stream.cursor)])
            elif page:
                ended = [stream.passed(event) for event in page][-1]
                is_over = await self._send_page(stream, page) and ended
            elif not stream.behind and not self._is_ending(stream):
                stream.is_live = True
                return True
        await stream.send(_body(b"", more=False) if is_over else ending())
        return False

    async def _send_page(self, stream: Stream, page: Sequence[Event]) -> bool:
        """Do as ``_send_pieces`` with *page*; a turn is held while a piece is encoded, not while it is sent."""
        pieces = sse.pieces(map(self._encoded, page))
        is_sent = True
        while is_sent:
            async with self._turn(stream.credential.user_id):
                piece = next(pieces, None)
            if piece is None:
                break
            is_sent = await self._send_pieces(stream, [piece])
        return is_sent

    async def _send_pieces(self, stream: Stream, pieces: Iterable[bytes]) -> bool:
        """Send *pieces*, each when the one before has left; ``False``: the stream is to end before their last."""
        for piece in pieces:
            if self._is_ending(stream):
                return False
            await stream.send(_body(piece))
        return True

    def _is_ending(self, stream: Stream) -> bool:
        """Tell whether *stream* is sent away; nobody is sent a long history first: the cursor stays good."""
        return self._draining or asyncio.get_running_loop().time() > stream.ends_at

    async def drain(self) -> None:
        """End every stream and take no more: readers are told when to come back."""
        self._draining = True
        for slot in self._slots:
            for stream in list(slot):
                if stream.is_live:
                    self._offer_end(stream)
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Cancel the pumps that are left; their readers do not read."""
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def run_tail(self) -> None:
        """Tail the log, until canceled; if it ends otherwise, it can be run again and leaves nothing out."""
        while True:
            await self._bell.wait(LOOK_S)
            reach("hub.tail")
            try:
                await self._follow()
            except errors.Unavailable as exc:
                logger.warning("hub.database_away", extra={"reason": str(exc)})

    async def _follow(self) -> None:
        """Hand out what the log has beyond the head."""
        if not self._count:
            self._head = None
        while self._head is not None:
            page = await self._after(self._head)
            if not page:
                return
            await self._fan_out(page)
            self._head = page[-1].id

    async def _after(self, head: int) -> list[Event]:
        return await self._database.read(lambda tx: events.after(tx, head))

    async def _find_head(self) -> None:
        """Begin to follow the log, for the first reader: it reads for itself what lies before."""
        head = await self._database.read(events.head)
        if self._head is None:
            self._head = head
            self._bell.ring()

    async def _fan_out(self, page: Sequence[Event]) -> None:
        """Give every reader its events of *page* in one message: a write costs more than what is in it."""
        readers: dict[Stream, list[Event]] = {}
        for event in page:
            group = (
                *self._by_job.get(event.job_id, ()),
                *self._by_owner.get(event.owner_id, ()),
                *self._by_owner.get(None, ()),
            )
            for stream in group:
                readers.setdefault(stream, []).append(event)
            if len(group) > _YIELD_EVERY:
                await asyncio.sleep(0)
        messages: dict[tuple[int, ...], Message] = {}
        for number, (stream, missed) in enumerate(readers.items(), start=1):
            if not stream.is_live:
                stream.behind = True
            elif news := [event for event in missed if event.id > stream.cursor]:
                self._give(stream, news, messages)
            if number % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    def _give(self, stream: Stream, news: list[Event], messages: dict[tuple[int, ...], Message]) -> None:
        """Send a live reader its *news*; *messages* keeps what was encoded, by whether it ends and the ids."""
        cursor, ids = stream.cursor, stream.ids
        ended = [stream.passed(event) for event in news][-1]
        key = (ended, *(event.id for event in news))
        message = messages.get(key)
        if message is None:
            message = messages[key] = _body(b"".join(map(self._encoded, news)), more=not ended)
        if len(message["body"]) > sse.PIECE_BYTES or not self._offer(stream, message):
            stream.cursor, stream.ids = cursor, ids
            self._fall_back(stream)
        elif ended:
            stream.is_live = False

    def _offer(self, stream: Stream, message: Message) -> bool:
        """Drive ``send`` one step: written, or not begun at all because it would wait."""
        sending = stream.send(message)
        try:
            sending.send(None)
        except StopIteration:
            self.sent += 1
            return True
        except Exception as exc:  # noqa: BLE001 - a stream's error is its own, the others go on
            logger.info("stream.send_failed", extra={"reason": type(exc).__name__})
            stream.is_live = False
            return True
        sending.close()
        return False

    def _fall_back(self, stream: Stream) -> None:
        stream.is_live = False
        pump = asyncio.create_task(self._pump(stream), name="stream-pump")
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _pump(self, stream: Stream) -> None:
        try:
            await self.catch_up(stream)
        except Exception:
            logger.exception("stream.pump_failed")
            # Nobody sends it anything any more: its reader is to come back, not to wait.
            await stream.send(ending())

    async def run_heartbeat(self) -> None:
        """Keep idle streams alive and end the old ones, until canceled; it can be run again."""
        loop = asyncio.get_running_loop()
        heartbeats = {text: _body(text) for text in (sse.HEARTBEAT, sse.HEARTBEAT_EVENT)}
        while True:
            await asyncio.sleep(1)
            reach("hub.heartbeat")
            self._next_slot = (self._next_slot + 1) % HEARTBEAT_S
            now = loop.time()
            for number, stream in enumerate(list(self._slots[self._next_slot]), start=1):
                if now > stream.ends_at:
                    self._end(stream)
                elif stream.is_live and not self._offer(stream, heartbeats[stream.heartbeat]):
                    self._fall_back(stream)
                if number % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)

    async def run_credentials(self) -> None:
        """End the streams of accounts that were disabled or deleted, and of keys and sessions that ended."""
        while True:
            await asyncio.sleep(CREDENTIALS_EVERY_S)
            reach("hub.credentials")
            streams = [stream for slot in self._slots for stream in slot]
            if not streams:
                continue
            try:
                revoked = await self._revoked({stream.credential for stream in streams})
            except errors.Unavailable as exc:
                logger.warning("hub.database_away", extra={"reason": str(exc)})
                continue
            for stream in streams:
                if stream.credential in revoked:
                    self._end(stream)

    async def _revoked(self, used: set[Credential]) -> set[Credential]:
        return await self._database.read(lambda tx: credentials.revoked(tx, used, now_us=clock.now_us()))

    def _end(self, stream: Stream) -> None:
        """Send a reader away: its pump sends nothing more but that, and who does not take it is cut off."""
        stream.ends_at = -math.inf
        if stream.is_live and self._offer_end(stream):
            return
        if stream.task is not None:
            asyncio.get_running_loop().call_later(CUT_AFTER_S, stream.task.cancel)

    def _offer_end(self, stream: Stream) -> bool:
        """Send a live reader the end; if that would wait, a pump sends it, and nothing else."""
        if self._offer(stream, ending()):
            stream.is_live = False
            return True
        self._fall_back(stream)
        return False

    async def _page(self, tx: Transaction, stream: Stream) -> list[Event] | None:
        """Read what *stream* has not had; ``None``: too much, it starts anew from the newest id."""
        if stream.jobs is not None:
            return await events.of_jobs_after(tx, stream.cursor, owner_id=stream.sees, job_ids=stream.jobs)
        page = await events.of_owner_after(tx, stream.cursor, owner_id=stream.sees)
        if len(page) < events.PAGE:
            return page
        missed = await events.count_after(tx, stream.cursor, owner_id=stream.sees, most=MOST_MISSED + 1)
        if missed <= MOST_MISSED:
            return page
        stream.cursor = await events.head(tx)
        return None

    def _places(self, stream: Stream) -> Iterable[tuple[dict[Any, set[Stream]], str | None]]:
        if stream.jobs is None:
            return ((self._by_owner, stream.sees),)
        return [(self._by_job, job_id) for job_id in stream.jobs]

    def _encoded(self, event: Event) -> bytes:
        return sse.event(name=event.name, data=shown(event.payload, self._sign), id=event.id)


def shown(payload: str, sign: views.Sign) -> str | bytes:
    """Give a stored payload as it is sent: with the addresses of its pictures, if it has any."""
    if '"images":[{' not in payload:
        return payload
    return orjson.dumps(views.addressed(orjson.loads(payload), sign))


def retry() -> bytes:
    """Tell a reader when to come back: jittered, so that not all come at once."""
    return sse.retry(random.randint(*RETRY_MS))  # noqa: S311 - spreads load, keeps no secret


def ending() -> Message:
    """Say when to come back, and end the stream."""
    return _body(retry(), more=False)


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
