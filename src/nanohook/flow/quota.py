"""The quota of pictures for which nothing was ever paid: they would fill the disk for everybody."""

from typing import Final

from nanohook import errors
from nanohook.database import Transaction
from nanohook.flow.terms import SECOND_US
from nanohook.stores import uploads
from nanohook.stores.uploads import MAX_COUNT

GRACE_US: Final = 600 * SECOND_US
"""How long a deletion can be taken back even if space is short."""


async def check(
    tx: Transaction, *, owner_id: str, quota_bytes: int, adds_bytes: int, frees_bytes: int = 0
) -> None:
    """
    See to it that a person may keep *adds_bytes* more; in the write that keeps them, so that no two pass at once.

    What is deleted is still on the disk for a while: it may take as much again, or deleting would be a way around.

    Args:
        owner_id: Whose.
        quota_bytes: What they may keep.
        adds_bytes: Of the picture that comes.
        frees_bytes: Of one that goes in exchange.

    Raises:
        TooLarge: ``quota``.
    """
    kept = await uploads.kept(tx, owner_id)
    size_bytes = kept.size_bytes + adds_bytes - frees_bytes
    if size_bytes > quota_bytes or kept.number >= MAX_COUNT:
        raise errors.TooLarge(
            f"pictures you never generated from, and covers, can use up to {quota_bytes:,} bytes and number "
            f"{MAX_COUNT:,}: delete some, or generate from them, and send this one again",
            code="quota",
        )
    deleted = await uploads.deleted(tx, owner_id)
    if size_bytes + deleted.size_bytes > 2 * quota_bytes or kept.number + deleted.number >= 2 * MAX_COUNT:
        raise errors.TooLarge(
            "what you deleted can be restored for another 10 minutes and still counts: send this picture again "
            "a few minutes from now",
            code="quota",
        )
