"""What admins did, in SQL: kept for good."""

from nanohook.database import Transaction

COMMAND_LINE = "command line"
"""The actor of whoever has the machine itself."""


async def append(
    tx: Transaction,
    *,
    actor: str,
    action: str,
    subject: str,
    before: str | None = None,
    after: str | None = None,
    now_us: int,
) -> None:
    """
    Write an admin's act down.

    Args:
        actor: An account's id, or ``COMMAND_LINE``.
        action: Such as ``credits.change``.
        subject: Id of what it was done to.
        before: How that was before, in words or a number.
        after: How it was after.
    """
    await tx.run(
        "INSERT INTO audit (at, actor, action, subject, before, after) VALUES (?, ?, ?, ?, ?, ?)",
        (now_us, actor, action, subject, before, after),
    )
