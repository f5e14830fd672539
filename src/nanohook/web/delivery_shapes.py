"""What the log of deliveries looks like, for the document and for those who check against it; see ``shapes``."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from nanohook.stores.deliveries import Effect, Source
from nanohook.stores.delivery_log import Verdict
from nanohook.web import shapes


class Delivery(shapes.Shape):
    """One request to the webhook, or one answer of `record-info`."""

    delivery_id: shapes.Id
    verdict: Verdict
    source: Source | None
    """How it came in; null where it was rejected."""
    job_id: str | None
    """As its address was signed for; a rejected one names nothing that could be believed."""
    attempt: shapes.Count | None
    index: shapes.Count | None
    task_id: str | None
    """NanoBanana's own id, as the body names it."""
    effect: Effect | None
    reason: str | None
    """Why it had no effect, could not be applied, or was rejected."""
    received_at: AwareDatetime
    tries: shapes.Count
    """How often applying it was tried again."""
    repeats: shapes.Count
    """How often the same came again."""
    repeated_at: AwareDatetime | None
    bytes: shapes.Count
    """Of the body, as it is stored."""
    peer: str | None
    """Who sent what was rejected."""


class DeliveryList(shapes.Shape):
    """A page of the log. It may be short, or empty, and have a next."""

    deliveries: list[Delivery]
    next_cursor: shapes.PageCursor


class WholeDelivery(Delivery):
    """A delivery with what came; whatever opens something is masked."""

    headers: str
    """`name: value`, a line each."""
    body: str
    """As text; what is not UTF-8 is marked."""


class Replayed(shapes.Shape):
    """What a delivery did when it was applied again; its line in the log keeps that it was applied once."""

    delivery_id: shapes.Id
    effect: Effect
    reason: str | None


class SeveralReplayed(shapes.Shape):
    """What deliveries did when they were applied again."""

    replayed: shapes.Count
    effects: Annotated[dict[Effect, shapes.Count], Field(description="How many had which effect.")]
    next_cursor: Annotated[str | None, Field(description="`cursor` of the next request; null when all are done.")]


class TestedWay(shapes.Shape):
    """Whether a callback sent to the public address came in here."""

    ok: bool
    http_status: int | None
    """Null where nothing answered."""
    took_ms: shapes.Count
    delivery_id: shapes.Id | None
    sent_to: str
    """Host of the public address."""
    reason: str | None
    """What is wrong; null where nothing is."""
