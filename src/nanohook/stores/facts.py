"""Few things the service must remember about itself, by name."""

from typing import Final

from nanohook.database import Transaction

INSTANCE: Final = "instance"
"""What tells this service from others on its host: random, and as old as its database."""

UNTRUSTED_PROXY: Final = "untrusted_proxy"
"""When (µs), and by whose address, a write came that was refused for what a proxy was not believed."""


async def get(tx: Transaction, name: str) -> str | None:
    """Fetch a fact."""
    row = await tx.one("SELECT value FROM facts WHERE name = :name", {"name": name})
    return None if row is None else str(row["value"])


async def put(tx: Transaction, name: str, value: str) -> None:
    """Store a fact in place of an older one."""
    await tx.run(
        "INSERT INTO facts (name, value) VALUES (:name, :value) "
        "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        {"name": name, "value": value},
    )


async def keep(tx: Transaction, name: str, value: str) -> str:
    """Store a fact unless there is one already; return the one that is there then."""
    await tx.run("INSERT INTO facts (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
    return await get(tx, name) or value


async def take_once(tx: Transaction, name: str) -> bool:
    """Mark *name* as used; ``False`` if it was already."""
    row = await tx.one(
        "INSERT INTO facts (name, value) VALUES (:name, '') ON CONFLICT DO NOTHING RETURNING name",
        {"name": name},
    )
    return row is not None


async def forget(tx: Transaction, name: str) -> None:
    """Remove a fact."""
    await tx.run("DELETE FROM facts WHERE name = :name", {"name": name})
