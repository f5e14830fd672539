"""How deliveries, and the work as a whole, look from outside: by HTTP and on the command line."""

from nanohook.clock import rfc3339
from nanohook.flow.workload import Workload
from nanohook.rules import masking
from nanohook.stores.delivery_log import Line, Whole


def delivery(line: Line) -> dict[str, object]:
    """Show a line of the log."""
    return {
        "delivery_id": line.id,
        "verdict": line.verdict,
        "source": line.source,
        "job_id": line.job_id,
        "attempt": line.attempt,
        "index": line.index,
        "task_id": line.task_id,
        "effect": line.effect,
        "reason": line.reason,
        "received_at": rfc3339(line.received_at),
        "tries": line.tries,
        "repeats": line.repeats,
        "repeated_at": None if line.repeated_at is None else rfc3339(line.repeated_at),
        "bytes": line.bytes,
        "peer": line.peer,
    }


def whole_delivery(found: Whole) -> dict[str, object]:
    """Show a line with what came; what opens something is masked."""
    return {**delivery(found.line), "headers": masking.masked(found.headers), "body": masking.shown(found.body)}


def work(stands: Workload) -> dict[str, object]:
    """Show whether the work goes on: what everybody may know, whose jobs wait for it."""
    return {
        "state": stands.state,
        "reason": stands.gate.reason,
        "since": None if stands.since is None else rfc3339(stands.since),
    }


def whole_work(stands: Workload) -> dict[str, object]:
    """Show also how much there is of it, of everybody's."""
    return {**work(stands), "under_way": stands.load.under_way, "waiting": stands.load.waiting}
