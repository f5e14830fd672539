"""Pages of lists: rendered apart from the database, and bounded in bytes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import orjson
from starlette.responses import Response

from nanohook.web.outgoing import MAX_PAGE_BYTES
from nanohook.web.parts import Call

SLICE_ROWS: Final = 8
"""Rows rendered before others have their turn on the event loop: about a millisecond."""

R = TypeVar("R")
Cursor = str | int | None


async def page(
    call: Call,
    name: str,
    rows: Sequence[R],
    *,
    render: Callable[[R], object],
    cursor_of: Callable[[R], Cursor],
    next_cursor: Cursor,
    more: dict[str, object] | None = None,
) -> Response:
    """
    Render a page, as many of *rows* as have room in it.

    Args:
        name: Of the field that holds them.
        cursor_of: Where the next page begins if a row is the last of this one.
        next_cursor: Where it begins if all of them are on this one.
        more: Fields beside these.

    Raises:
        TooMany: This person has not read enough of the answers before.
        Unavailable: Everybody together has not.
    """
    fields = more or {}
    left = MAX_PAGE_BYTES - len(orjson.dumps({name: [], "next_cursor": next_cursor, **fields}))
    pieces: list[bytes] = []
    for number, row in enumerate(rows):
        if number % SLICE_ROWS == SLICE_ROWS - 1:
            await asyncio.sleep(0)
        piece = orjson.dumps(render(row))
        left -= len(piece) + 1
        if left < 0 and pieces:
            next_cursor = cursor_of(rows[number - 1])
            break
        pieces.append(piece)
    rest = orjson.dumps({"next_cursor": next_cursor, **fields}).removeprefix(b"{")
    body = b'{"%b":[%b],%b' % (name.encode(), b",".join(pieces), rest)
    return call.parts.shares.outgoing.answer(call.person.id, body)
