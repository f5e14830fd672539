"""
The gate before NanoBanana: what keeps every submit waiting, whosever it is.

Either the operator has paused the work, or NanoBanana refuses the account itself (its key or its credit). What has
been submitted goes on either way: callbacks, questions, finishing.
"""

from typing import Final

import orjson

from nanohook.database import Topic, Transaction
from nanohook.stores import audit, facts
from nanohook.values import frozen, replace

_FACT: Final = "gate"


@frozen
class Gate:
    """Whether submits go through, and since when not; times are µs."""

    paused_at: int | None = None
    is_draining: bool = False
    """It was paused so that what is under way comes to its end."""
    blocked_code: int | None = None
    """401, 402 or 403: what NanoBanana refuses every submit with."""
    blocked_since: int | None = None

    @property
    def is_open(self) -> bool:
        """Nothing keeps a submit waiting."""
        return self.paused_at is None and self.blocked_code is None

    @property
    def reason(self) -> str | None:
        """Why not: ``paused``, or the error code that a job would end with."""
        if self.paused_at is not None:
            return "paused"
        if self.blocked_code is None:
            return None
        return fault_code(self.blocked_code)


FAULT_CODES: Final = ("no_credit", "bad_key")


def fault_code(code: int) -> str:
    """Name NanoBanana's refusal of the account by one of ``FAULT_CODES``."""
    return FAULT_CODES[0] if code == 402 else FAULT_CODES[1]  # noqa: PLR2004 - the vendor's code


async def read(tx: Transaction) -> Gate:
    """Tell how the gate stands."""
    text = await facts.get(tx, _FACT)
    return Gate() if text is None else Gate(**orjson.loads(text))


async def pause(tx: Transaction, *, is_draining: bool = False, actor: str, now_us: int) -> Gate:
    """Submit nothing from now on, whosever it is; what waits keeps its place."""
    before = await read(tx)
    after = replace(before, paused_at=before.paused_at or now_us, is_draining=is_draining)
    return await _change(tx, before, after, action="drain" if is_draining else "pause", actor=actor, now_us=now_us)


async def resume(tx: Transaction, *, actor: str, now_us: int) -> Gate:
    """Take a pause back."""
    before = await read(tx)
    after = replace(before, paused_at=None, is_draining=False)
    return await _change(tx, before, after, action="resume", actor=actor, now_us=now_us)


async def block(tx: Transaction, code: int, *, now_us: int) -> None:
    """Note that NanoBanana refuses the account; a refusal that lasts keeps its beginning."""
    before = await read(tx)
    if before.blocked_code != code:
        since = before.blocked_since or now_us
        await _store(tx, replace(before, blocked_code=code, blocked_since=since))


async def unblock(tx: Transaction) -> None:
    """Note that NanoBanana has taken a task."""
    before = await read(tx)
    if before.blocked_code is not None:
        await _store(tx, replace(before, blocked_code=None, blocked_since=None))
        tx.wake(Topic.WORK)


async def _change(tx: Transaction, before: Gate, after: Gate, *, action: str, actor: str, now_us: int) -> Gate:
    if after != before:
        await _store(tx, after)
        await audit.append(tx, actor=actor, action=f"work.{action}", subject="work", now_us=now_us)
        tx.wake(Topic.WORK)
    return after


async def _store(tx: Transaction, gate: Gate) -> None:
    await facts.put(
        tx,
        _FACT,
        orjson.dumps(
            {
                "paused_at": gate.paused_at,
                "is_draining": gate.is_draining,
                "blocked_code": gate.blocked_code,
                "blocked_since": gate.blocked_since,
            }
        ).decode(),
    )
