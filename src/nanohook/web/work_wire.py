"""What is asked of many jobs at once, as it comes in; see ``wire``."""

from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError, model_validator

from nanohook import errors
from nanohook.flow import batch
from nanohook.rules.wishes import Wish
from nanohook.web import wire
from nanohook.web.wire import Generate

BATCH_BYTES: Final = 8 * 1024 * 1024
"""As many of the longest prompts as a batch may have, whatever their letters, written as UTF-8."""
MAX_JOB_IDS: Final = 200
"""Jobs that may be named in one request."""


class Batch(wire.BothCases):
    """Body of ``POST /api/batches``; its jobs are read one by one, so that all that is wrong is told together."""

    jobs: Annotated[list[SkipValidation[Generate]], Field(min_length=1, max_length=batch.MOST_JOBS)]
    priority: Literal["low", "normal", "high"] | None = None

    def wishes(self, language: str) -> tuple[dict[int, tuple[Generate, Wish]], dict[int, dict[str, str]]]:
        """Read every job, by its number: those that can be used, and what is wrong with the fields of the rest."""
        read: dict[int, tuple[Generate, Wish]] = {}
        wrong: dict[int, dict[str, str]] = {}
        for number, given in enumerate(self.jobs):
            try:
                asked = Generate.model_validate(given)
                if self.priority is not None and "priority" not in asked.model_fields_set:
                    asked = asked.model_copy(update={"priority": self.priority})
                read[number] = asked, asked.wish(language)
            except ValidationError as exc:
                wrong[number] = wire.fields_of(exc)
            except errors.Invalid as exc:
                wrong[number] = exc.fields
        return read, wrong


class RetryMany(wire.BothCases):
    """Body of ``POST /api/jobs/retry``: either jobs by name, or all that failed."""

    job_ids: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_JOB_IDS)] | None = None
    all_failed: Annotated[bool, Field(strict=True)] = False
    cursor: Annotated[str, Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.job_ids is not None) == self.all_failed:
            raise ValueError("give either job_ids or all_failed")
        if self.cursor is not None and not self.all_failed:
            raise ValueError("cursor goes with all_failed")
        return self


class JobIds(BaseModel):
    """Body of the routes that do one thing with many jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_ids: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_JOB_IDS)]
