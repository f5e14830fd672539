"""
The schema, as the metadata that alembic reads.

Times are integers: microseconds since the epoch, UTC. Every table of people's things has its ``owner_id``.
"""

import enum

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

from nanohook.rules import credit, job, status

_UPLOAD_COLUMNS = ("owner_id", "deleted_at", "purged_at", "upload_bytes")
_LISTED_BY = ("owner_id", "owner_id status", "owner_id project_id", "owner_id project_id status", "status")
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, words: type[enum.StrEnum], *, or_none: bool = False) -> CheckConstraint:
    # Not IN: SQLite builds a table of the words for that, anew for every UPDATE.
    allowed = [f"{column} = '{word.value}'" for word in words]
    return CheckConstraint(" OR ".join([f"{column} IS NULL"] * or_none + allowed), name=column)


users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("is_admin", Integer, nullable=False, server_default=text("0")),
    Column("verified_at", Integer),
    Column("disabled_at", Integer),
    Column("created_at", Integer, nullable=False),
    Column("password_hash", Text),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("sha256", LargeBinary, nullable=False, unique=True),
    Column("is_admin", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Integer, nullable=False),
    Column("revoked_at", Integer),
    Column("name", Text),
    Column("prefix", Text),
    Column("last_used_at", Integer),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False, index=True),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer, nullable=False, index=True),
    Column("user_agent", Text),
    Column("address", Text),
    Column("last_used_at", Integer),
)

balances = Table(
    "balances",
    metadata,
    Column("owner_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("available", Integer, nullable=False, server_default=text("0")),
    Column("reserved", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("available >= 0", name="available"),
    CheckConstraint("reserved >= 0", name="reserved"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("kind", Text, nullable=False),
    # What the row changes of each half of the balance: the sums of these columns are the balance.
    Column("available", Integer, nullable=False),
    Column("reserved", Integer, nullable=False),
    # No foreign keys: the ledger outlives the job.
    Column("job_id", Text),
    Column("attempt", Integer),
    Column("idx", Integer),
    Column("note", Text),
    Column("created_at", Integer, nullable=False),
    _one_of("kind", credit.Kind),
    Index("uq_ledger_once", "job_id", "attempt", "idx", "kind", unique=True),
    Index("ix_ledger_owner_id_id", "owner_id", "id"),
    sqlite_autoincrement=True,
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Integer, nullable=False),
    # Who did it: an account's id, or the command line.
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    sqlite_autoincrement=True,
)

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text),
    # The cover, all of it or nothing.
    Column("key", Text, unique=True),
    Column("thumbnail_key", Text, index=True),
    Column("content_type", Text),
    Column("width_px", Integer),
    Column("height_px", Integer),
    Column("bytes", Integer),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
    Index("ix_projects_owner_id_id", "owner_id", "id"),
    # With "bytes", covers are summed up without a look at their rows.
    Index("ix_projects_cover", "owner_id", "bytes", sqlite_where=text("bytes IS NOT NULL")),
)

job_counts = Table(
    "job_counts",
    metadata,
    Column("owner_id", Text, ForeignKey("users.id"), primary_key=True),
    # Empty for jobs without one: a key has no NULL.
    Column("project_id", Text, primary_key=True),
    Column("status", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    CheckConstraint("number >= 0", name="number"),
)
"""Jobs that are not deleted, counted as they change: counting rows would take longer with every job."""

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("route", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at", Integer, nullable=False, index=True),
)

originals = Table(
    "originals",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("thumbnail_key", Text, nullable=False, index=True),
    Column("content_type", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("project_id", Text),
    Column("source_job_id", Text),
    # Those that were asked for in one request.
    Column("batch_id", Text),
    Column("original_id", Text, ForeignKey("originals.id"), index=True),
    Column("status", Text, nullable=False),
    Column("stage", Text, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("error_code", Text),
    Column("error_detail", Text),
    Column("attempt", Integer, nullable=False),
    Column("prompt", Text),
    Column("transformation_type", Text),
    Column("model", Text),
    Column("options", Text, nullable=False),
    Column("priority", Text, nullable=False),
    Column("language", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("last_event_id", Integer, nullable=False, server_default=text("0")),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
    Column("completed_at", Integer),
    Column("deleted_at", Integer),
    # Its pictures and words are gone for good; what is left says that there was a job.
    Column("purged_at", Integer),
    # Of the picture that it was made of, for the quota of those that were never generated.
    Column("upload_bytes", Integer),
    _one_of("status", status.ImageJobStatus),
    _one_of("stage", status.Stage),
    CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
    # Lists are newest first; ids are UUIDv7, so their order is that of creation. Deleted jobs are in none of them.
    *(
        Index(f"ix_jobs_{'_'.join(names)}", *names, sqlite_where=text("deleted_at IS NULL"))
        for names in ([*each.split(), "id"] for each in _LISTED_BY)
    ),
    # As of covers: "upload_bytes" is summed up without a look at the rows.
    Index("ix_jobs_upload", *_UPLOAD_COLUMNS, sqlite_where=text("upload_bytes IS NOT NULL AND purged_at IS NULL")),
    Index("ix_jobs_source_job_id", "source_job_id", sqlite_where=text("source_job_id IS NOT NULL")),
    Index("ix_jobs_batch_id_id", "batch_id", "id", sqlite_where=text("batch_id IS NOT NULL")),
    Index("ix_jobs_deleted_at", "deleted_at", sqlite_where=text("deleted_at IS NOT NULL AND purged_at IS NULL")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("error_code", Text),
    Column("created_at", Integer, nullable=False),
    Column("ended_at", Integer),
    _one_of("status", status.ImageJobStatus),
)

tasks = Table(
    "tasks",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("task_id", Text, index=True),
    Column("stage", Text, nullable=False),
    Column("progress", Integer, nullable=False),
    Column("error_code", Text),
    Column("error_detail", Text),
    # The step that is due, when, and whose it is: the row is the job of the work loop.
    Column("step", Text),
    Column("due_at", Integer),
    Column("claim", Integer, nullable=False, server_default=text("0")),
    Column("held", Integer, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("asks", Integer, nullable=False, server_default=text("0")),
    Column("submit_started_at", Integer),
    Column("accepted_at", Integer),
    Column("finish_since", Integer),
    # The addresses of its result and what came of each, as JSON: only ever read and written with the row.
    Column("candidates", Text),
    Column("said", Text),
    Column("may_buy", Integer, nullable=False, server_default=text("0")),
    Column("deliveries", Integer, nullable=False, server_default=text("0")),
    # When NanoBanana was last asked after it, for a person or by ourselves.
    Column("asked_at", Integer),
    # Its place in the line of those that wait for their submit: see stores/line.py.
    Column("priority", Integer, nullable=False, server_default=text("1")),
    Column("turn", Integer, nullable=False, server_default=text("0")),
    Column("queued_at", Integer, nullable=False, server_default=text("0")),
    # "Server error" answers to its submit that took nothing.
    Column("server_faults", Integer, nullable=False, server_default=text("0")),
    # Its decoding may have killed the process: how often it did while nothing else was decoded.
    Column("suspect_deaths", Integer),
    _one_of("stage", status.Stage),
    _one_of("step", job.Step, or_none=True),
    Index("ix_tasks_step_due_at", "step", "due_at", sqlite_where=text("step IS NOT NULL")),
    Index("ix_tasks_step_owner", "step", "owner_id", "due_at", sqlite_where=text("step IS NOT NULL")),
    Index("ix_tasks_suspect", "due_at", sqlite_where=text("step = 'finish' AND suspect_deaths IS NOT NULL")),
    # With "held", those that are being served are left out of a count without a look at their rows.
    Index("ix_tasks_line", "turn", "priority", "queued_at", "held", sqlite_where=text("step = 'submit'")),
    Index("ix_tasks_owner_line", "priority", "owner_id", "turn", sqlite_where=text("step = 'submit'")),
)

pictures = Table(
    "pictures",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("thumbnail_key", Text, nullable=False, index=True),
    Column("content_type", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("created_at", Integer, nullable=False),
)

unclaimed = Table(
    "unclaimed",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("owner_id", Text, ForeignKey("users.id"), nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("thumbnail_key", Text, nullable=False, index=True),
    Column("content_type", Text, nullable=False),
    Column("width_px", Integer, nullable=False),
    Column("height_px", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("created_at", Integer, nullable=False, index=True),
)
"""Pictures that came when their task had ended already: kept for a while, for their owner to take."""

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("job_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Nothing follows until a person acts: a stream of this job may end here.
    Column("is_last", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", Integer, nullable=False),
    Index("ix_events_job_id_id", "job_id", "id"),
    Index("ix_events_owner_id_id", "owner_id", "id"),
    # Ids never restart, not even after every row is gone: a browser's cursor outlives the rows.
    sqlite_autoincrement=True,
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text),
    Column("source", Text, nullable=False),
    Column("job_id", Text),
    Column("attempt", Integer),
    Column("idx", Integer),
    Column("webhook_id", Text),
    Column("task_id", Text),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("effect", Text, nullable=False),
    Column("reason", Text),
    Column("received_at", Integer, nullable=False),
    # An unapplied delivery is tried again when this is due.
    Column("due_at", Integer),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    # The same came again: how often, and when last. Its bytes are here already.
    Column("repeats", Integer, nullable=False, server_default=text("0")),
    Column("repeated_at", Integer),
    Index("uq_deliveries_same", "job_id", "attempt", "idx", "body_sha256", unique=True),
    Index("uq_deliveries_webhook_id", "webhook_id", unique=True, sqlite_where=text("webhook_id IS NOT NULL")),
    Index("ix_deliveries_task_id", "task_id", sqlite_where=text("effect = 'parked'")),
    # Of the few that somebody has to look at; all others are found by their id, newest first.
    Index(
        "ix_deliveries_effect_id",
        "effect",
        "id",
        sqlite_where=text("effect = 'parked' OR effect = 'unapplied' OR effect = 'dead'"),
    ),
    Index("ix_deliveries_due_at", "due_at", sqlite_where=text("due_at IS NOT NULL")),
)

rejections = Table(
    "rejections",
    metadata,
    # Of the same kind as those of deliveries: one list, in order of time.
    Column("id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("peer", Text, nullable=False),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Integer, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""Few things the service must remember about itself: key fingerprints, pauses, used login links."""
