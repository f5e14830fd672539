"""What an admin asks of the log of deliveries, as it comes in; see ``wire``."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from nanohook import clock
from nanohook.rules import callbacks
from nanohook.stores.deliveries import Effect, Source

MOST_REPLAYED = 1_000
"""Deliveries of one request; its answer tells where the next goes on."""


def _moment(value: object) -> int | None:
    if value is None:
        return None
    # A number would be taken for seconds or milliseconds by one reader, and for µs by another.
    return clock.from_rfc3339(value if isinstance(value, str) else "")


AnyId = Annotated[str, Field(min_length=1, max_length=callbacks.MAX_ID_CHARS)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Moment = Annotated[int | None, BeforeValidator(_moment, json_schema_input_type=Time | None)]
"""Written as RFC 3339 has it, read as µs since the epoch."""


class Replay(BaseModel):
    """Body of ``POST /api/deliveries/replay``: a filter, or ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effect: Effect | None = None
    source: Source | None = None
    job_id: AnyId | None = None
    task_id: AnyId | None = None
    since: Moment = None
    until: Moment = None
    delivery_ids: Annotated[list[AnyId], Field(fail_fast=True, min_length=1, max_length=MOST_REPLAYED)] | None = (
        None
    )
    cursor: AnyId | None = None

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        given = self.model_dump(exclude_none=True, exclude={"cursor"})
        if not given:
            raise ValueError("name at least one of effect, source, job_id, task_id, since, until, delivery_ids")
        if self.delivery_ids is not None and (len(given) > 1 or self.cursor is not None):
            raise ValueError("delivery_ids stands alone: it is no filter")
        return self
