"""people, projects, money"""

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _replace_index(name: str, columns: list[str], *, where: str | None) -> None:
    op.drop_index(name, table_name="jobs")
    op.create_index(name, "jobs", columns, sqlite_where=None if where is None else sa.text(where))


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "balances",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("available", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reserved", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("available >= 0", name=op.f("ck_balances_available")),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_balances_reserved")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_balances_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", name=op.f("pk_balances")),
    )
    op.create_table(
        "idempotency",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_idempotency_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "route", "key", name=op.f("pk_idempotency")),
    )
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_created_at"), ["created_at"], unique=False)

    op.create_table(
        "job_counts",
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.CheckConstraint("number >= 0", name=op.f("ck_job_counts_number")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_job_counts_owner_id")),
        sa.PrimaryKeyConstraint("owner_id", "project_id", "status", name=op.f("pk_job_counts")),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("available", sa.Integer(), nullable=False),
        sa.Column("reserved", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("idx", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            "kind = 'grant' OR kind = 'reserve' OR kind = 'charge' OR kind = 'return'", name=op.f("ck_ledger_kind")
        ),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_ledger_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_owner_id_id", ["owner_id", "id"], unique=False)
        batch_op.create_index("uq_ledger_once", ["job_id", "attempt", "idx", "kind"], unique=True)

    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("thumbnail_key", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("width_px", sa.Integer(), nullable=True),
        sa.Column("height_px", sa.Integer(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_projects_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("key", name=op.f("uq_projects_key")),
    )
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.create_index("ix_projects_owner_id_id", ["owner_id", "id"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_sessions_owner_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_expires_at"), ["expires_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_sessions_owner_id"), ["owner_id"], unique=False)

    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("name", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("prefix", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("last_used_at", sa.Integer(), nullable=True))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("purged_at", sa.Integer(), nullable=True))
        batch_op.create_index(
            "ix_jobs_deleted_at",
            ["deleted_at"],
            unique=False,
            sqlite_where=sa.text("deleted_at IS NOT NULL AND purged_at IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_source_job_id",
            ["source_job_id"],
            unique=False,
            sqlite_where=sa.text("source_job_id IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_jobs_owner_id_project_id_status_id",
            ["owner_id", "project_id", "status", "id"],
            unique=False,
            sqlite_where=sa.text("deleted_at IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_status_id", ["status", "id"], unique=False, sqlite_where=sa.text("deleted_at IS NULL")
        )

    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("asked_at", sa.Integer(), nullable=True))

    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.add_column(sa.Column("password_hash", sa.Text(), nullable=True))
    _replace_index("ix_jobs_owner_id_id", ["owner_id", "id"], where="deleted_at IS NULL")
    _replace_index("ix_jobs_owner_id_status_id", ["owner_id", "status", "id"], where="deleted_at IS NULL")
    _replace_index("ix_jobs_owner_id_project_id_id", ["owner_id", "project_id", "id"], where="deleted_at IS NULL")
    # What there is already: every account has a balance, and every job that can be seen is counted.
    op.execute("INSERT INTO balances (owner_id) SELECT id FROM users")
    op.execute(
        "INSERT INTO job_counts (owner_id, project_id, status, number) "
        "SELECT owner_id, COALESCE(project_id, ''), status, COUNT(*) FROM jobs WHERE deleted_at IS NULL "
        "GROUP BY owner_id, COALESCE(project_id, ''), status"
    )


def downgrade() -> None:
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_column("password_hash")

    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("asked_at")

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_source_job_id", sqlite_where=sa.text("source_job_id IS NOT NULL"))
        batch_op.drop_index("ix_jobs_status_id", sqlite_where=sa.text("deleted_at IS NULL"))
        batch_op.drop_index("ix_jobs_owner_id_project_id_status_id", sqlite_where=sa.text("deleted_at IS NULL"))
        batch_op.drop_index(
            "ix_jobs_deleted_at", sqlite_where=sa.text("deleted_at IS NOT NULL AND purged_at IS NULL")
        )
        batch_op.drop_column("purged_at")

    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("prefix")
        batch_op.drop_column("name")

    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sessions_owner_id"))
        batch_op.drop_index(batch_op.f("ix_sessions_expires_at"))

    op.drop_table("sessions")
    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_index("ix_projects_owner_id_id")

    op.drop_table("projects")
    with op.batch_alter_table("ledger", schema=None) as batch_op:
        batch_op.drop_index("uq_ledger_once")
        batch_op.drop_index("ix_ledger_owner_id_id")

    op.drop_table("ledger")
    op.drop_table("job_counts")
    with op.batch_alter_table("idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_created_at"))

    op.drop_table("idempotency")
    op.drop_table("balances")
    op.drop_table("audit")
    _replace_index("ix_jobs_owner_id_id", ["owner_id", "id"], where=None)
    _replace_index("ix_jobs_owner_id_status_id", ["owner_id", "status", "id"], where=None)
    _replace_index("ix_jobs_owner_id_project_id_id", ["owner_id", "project_id", "id"], where=None)
