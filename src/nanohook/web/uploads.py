"""Pictures on their way in: read within bounds, measured, made upright, stripped of metadata, stored."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final, NamedTuple, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from nanohook import errors, ids
from nanohook.database import Transaction, Unit
from nanohook.flow import quota
from nanohook.rules import imaging
from nanohook.rules.job import Stored
from nanohook.web.parts import Call, Parts

logger = logging.getLogger(__name__)

_MOST_FIELDS: Final = 8
_MOST_PART_BYTES: Final = 16 * 1024

_NEAR_BYTES: Final = 64 * 1024 * 1024
"""Above the reserve: what is deleted goes early already. Three of the largest uploads."""

_SMALL_BYTES: Final = 16_000_000
"""What a header needs at the most, and a picture of some hundred thousand pixels."""

T = TypeVar("T")


class Form(NamedTuple):
    """What a multipart body held; the file's bytes are on the disk as long as they wait."""

    file: UploadFile | None
    fields: dict[str, str]


def is_form(request: Request) -> bool:
    """Tell whether the body is multipart."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


@contextlib.asynccontextmanager
async def place(call: Call) -> AsyncIterator[None]:
    """
    Hold one of the places that uploads have, and see to it that there is room on the disk.

    Raises:
        TooMany: This person has too many under way.
        Unavailable: The process has.
        DiskFull: Less is free than the reserve.
        TooLarge: ``quota``: they keep as much as they may already.
    """
    parts, owner_id = call.parts, call.person.id
    await check_disk(parts)
    try:
        await parts.database.read(lambda tx: check_quota(tx, parts, owner_id=owner_id, adds_bytes=1))
    except errors.TooLarge:
        await parts.make_room(owner_id)
        await parts.database.read(lambda tx: check_quota(tx, parts, owner_id=owner_id, adds_bytes=1))
    with parts.shares.uploads.take(owner_id):
        yield


async def check_quota(
    tx: Transaction, parts: Parts, *, owner_id: str, adds_bytes: int, frees_bytes: int = 0
) -> None:
    """
    See to it that a person may keep so much more of what was never generated.

    Raises:
        TooLarge: ``quota``.
    """
    await quota.check(
        tx,
        owner_id=owner_id,
        quota_bytes=parts.settings.upload_quota_bytes,
        adds_bytes=adds_bytes,
        frees_bytes=frees_bytes,
    )


@contextlib.asynccontextmanager
async def received(request: Request, *, name: str, most_bytes: int) -> AsyncIterator[Form]:
    """
    Receive a multipart body with at most one file, under *name*; it is open as long as this is held.

    Raises:
        Rejected: It cannot be read.
        TooLarge: The file is.
    """
    try:
        form = await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_MOST_PART_BYTES)
    except (HTTPException, UnicodeError):
        # The parser's own refusals, and what a form may name as its character set.
        raise _unreadable() from None
    try:
        file = form.get(name)
        file = file if isinstance(file, UploadFile) else None
        if file is not None and (file.size or 0) > most_bytes:
            raise errors.TooLarge(f"a picture has at most {most_bytes} bytes")
        yield Form(file, _texts(form))
    finally:
        await form.close()


async def store(call: Call, file: UploadFile, *, folder: str) -> Stored:
    """
    Store a picture that came in, when it is its owner's turn: from here on it is in memory whole.

    Raises:
        ImageRejected: It is none, or too large to be decoded.
        UnknownMediaType: It is one of a kind that is not taken.
        TooMany: As many of this person's wait as may.
        StorageFailed: The disk refused.
    """
    await call.parts.shares.thread_time.wait(call.person.id)
    async with call.parts.shares.storing.take(call.person.id):
        return await _store(call, await file.read(), folder=folder)


async def _store(call: Call, body: bytes, *, folder: str) -> Stored:
    parts, owner_id = call.parts, call.person.id
    most, meter = parts.settings.max_pixels, parts.shares.thread_time.thread_meter(owner_id)
    named: list[Stored] = []

    def normalise() -> imaging.Normalised:
        with meter():
            return imaging.normalise(body, most_pixels=most)

    def put(made: imaging.Normalised) -> Stored:
        stored = _named(made, folder=folder)
        named.append(stored)
        parts.storage.put_now({stored.thumbnail_key: made.thumbnail.body, stored.key: made.picture.body})
        return stored

    def begin() -> Stored | imaging.Probe:
        with meter():
            probe = imaging.probe(body, most_pixels=most)
        # On a busy machine, each way from a thread and back takes longer than a small picture does.
        return put(normalise()) if probe.memory_bytes() <= _SMALL_BYTES else probe

    try:
        # Even the headers of a picture may be long, and are somebody else's: not on the event loop.
        found = await parts.decoder.run(owner_id, _SMALL_BYTES, begin)
        if isinstance(found, Stored):
            return found
        made = await parts.decoder.run(owner_id, found.memory_bytes(), normalise)
        return await asyncio.to_thread(put, made)
    except errors.StorageFailed:
        for stored in named:
            await remove(parts, stored)
        raise


def _named(made: imaging.Normalised, *, folder: str) -> Stored:
    name = f"{folder}/{ids.new_id()}"
    return Stored(
        key=f"{name}.{made.picture.extension}",
        thumbnail_key=f"{name}-small.{made.thumbnail.extension}",
        content_type=made.picture.content_type,
        width_px=made.picture.width_px,
        height_px=made.picture.height_px,
        size_bytes=len(made.picture.body),
    )


async def keep(call: Call, stored: Stored | None, write: Unit[T]) -> T:
    """Write what names *stored*; its files go again if that is refused."""
    try:
        return await call.write(write)
    except errors.NanohookError:
        await remove(call.parts, stored)
        raise


async def remove(parts: Parts, stored: Stored | None) -> None:
    """Remove the files of a picture that nothing names any more; one that cannot be removed stays, with a line."""
    for key in () if stored is None else (stored.key, stored.thumbnail_key):
        try:
            await parts.storage.delete(key)
        except errors.StorageFailed as exc:
            logger.warning("media.not_removed", extra={"key": key, "reason": str(exc)})


async def check_disk(parts: Parts) -> None:
    """
    Keep the reserve free for jobs that already run; near it, what was deleted and never generated goes at once.

    Only who finds less than the reserve waits for that, and not for long.

    Raises:
        DiskFull: Less is free.
    """
    reserve_bytes, free_bytes = parts.settings.disk_reserve_bytes, parts.storage.free_bytes()
    if reserve_bytes <= free_bytes < reserve_bytes + _NEAR_BYTES:
        parts.want_room()
    if free_bytes < reserve_bytes:
        await parts.make_room(None)
        free_bytes = parts.storage.free_bytes()
    if free_bytes < reserve_bytes:
        raise errors.DiskFull("the disk is nearly full, nothing new is taken", retry_after_s=60)


def _texts(form: FormData) -> dict[str, str]:
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    try:
        for text in texts.values():
            text.encode()
    except UnicodeError:  # some character sets decode to what is no text
        raise _unreadable() from None
    return texts


def _unreadable() -> errors.Rejected:
    return errors.Rejected("the multipart body cannot be read", code="bad_multipart")
