"""How the work stands: whether it runs, and how much of it there is."""

from nanohook.database import Transaction
from nanohook.flow import gate
from nanohook.flow.gate import Gate
from nanohook.stores import stats
from nanohook.stores.stats import Load
from nanohook.values import frozen


@frozen
class Workload:
    """The work of everybody."""

    gate: Gate
    load: Load

    @property
    def state(self) -> str:
        """``running``, ``paused``, ``draining`` and then ``drained``, or ``blocked``: NanoBanana refuses us."""
        if self.gate.paused_at is None:
            return "running" if self.gate.is_open else "blocked"
        if not self.gate.is_draining:
            return "paused"
        return "draining" if self.load.under_way else "drained"

    @property
    def since(self) -> int | None:
        """Since when nothing is submitted, µs; ``None``: it is."""
        return self.gate.blocked_since if self.gate.paused_at is None else self.gate.paused_at


async def read(tx: Transaction, *, now_us: int) -> Workload:
    """Tell how the work stands."""
    return Workload(gate=await gate.read(tx), load=await stats.load(tx, owner_id=None, now_us=now_us))


async def pause(tx: Transaction, *, is_draining: bool, actor: str, now_us: int) -> Workload:
    """Submit nothing from now on; tell how the work stands then."""
    await gate.pause(tx, is_draining=is_draining, actor=actor, now_us=now_us)
    return await read(tx, now_us=now_us)


async def resume(tx: Transaction, *, actor: str, now_us: int) -> Workload:
    """Take a pause back; tell how the work stands then."""
    await gate.resume(tx, actor=actor, now_us=now_us)
    return await read(tx, now_us=now_us)
