"""Deleting an account with all that is in it."""

from typing import Final

from nanohook.database import Transaction
from nanohook.flow import cancel
from nanohook.stores import accounts, audit, jobs, projects

AT_ONCE: Final = 50
"""Jobs deleted in one transaction: others wait for it."""


async def delete(tx: Transaction, *, user_id: str, actor: str, now_us: int) -> bool:
    """
    Delete some of a person's images; when none is left, their projects, keys, sessions and address.

    The ledger stays, and so do the row that it belongs to and the credits in it. To be called after ``disable``,
    so that nothing new comes.

    Returns:
        Whether all is gone. Until it is, this is to be called again: half done, it is a person with fewer images.
    """
    left = await jobs.of_owner(tx, user_id, most=AT_ONCE)
    for job in left:
        await cancel.delete(tx, owner_id=user_id, job_id=job.id, now_us=now_us)
    if len(left) == AT_ONCE:
        return False
    await projects.delete_all(tx, owner_id=user_id)
    await accounts.erase(tx, user_id)
    await audit.append(tx, actor=actor, action="user.delete", subject=user_id, now_us=now_us)
    return True
