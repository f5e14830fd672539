"""nothing lost"""

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unclaimed",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("thumbnail_key", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("width_px", sa.Integer(), nullable=False),
        sa.Column("height_px", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_unclaimed_job_id")),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_unclaimed_owner_id")),
        sa.PrimaryKeyConstraint("job_id", "attempt", "idx", name=op.f("pk_unclaimed")),
        sa.UniqueConstraint("key", name=op.f("uq_unclaimed_key")),
    )
    with op.batch_alter_table("unclaimed", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_unclaimed_created_at"), ["created_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_unclaimed_thumbnail_key"), ["thumbnail_key"], unique=False)

    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.add_column(sa.Column("repeats", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("repeated_at", sa.Integer(), nullable=True))
        batch_op.create_index(
            "ix_deliveries_effect_id",
            ["effect", "id"],
            unique=False,
            sqlite_where=sa.text("effect = 'parked' OR effect = 'unapplied' OR effect = 'dead'"),
        )

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("batch_id", sa.Text(), nullable=True))
        batch_op.create_index(
            "ix_jobs_batch_id_id", ["batch_id", "id"], unique=False, sqlite_where=sa.text("batch_id IS NOT NULL")
        )

    with op.batch_alter_table("originals", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_originals_thumbnail_key"), ["thumbnail_key"], unique=False)

    with op.batch_alter_table("pictures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_pictures_thumbnail_key"), ["thumbnail_key"], unique=False)

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_projects_thumbnail_key"), ["thumbnail_key"], unique=False)

    with op.batch_alter_table("rejections", schema=None) as batch_op:
        batch_op.alter_column("id", existing_type=sa.INTEGER(), type_=sa.Text(), existing_nullable=False)
    # UUIDv7, as it would have been made then: in the list they stand where they came.
    op.execute(
        "UPDATE rejections SET id = printf('%08x-%04x-7000-8000-%012x', (received_at / 1000) >> 16, "
        "(received_at / 1000) & 65535, CAST(id AS INTEGER))"
    )

    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.Integer(), server_default=sa.text("1"), nullable=False))
        batch_op.add_column(sa.Column("turn", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("queued_at", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("server_faults", sa.Integer(), server_default=sa.text("0"), nullable=False))
        batch_op.create_index(
            "ix_tasks_line",
            ["turn", "priority", "queued_at", "held"],
            unique=False,
            sqlite_where=sa.text("step = 'submit'"),
        )
        batch_op.create_index(
            "ix_tasks_owner_line",
            ["priority", "owner_id", "turn"],
            unique=False,
            sqlite_where=sa.text("step = 'submit'"),
        )
    op.execute(
        "UPDATE tasks SET "
        "queued_at = COALESCE((SELECT created_at FROM attempts WHERE job_id = tasks.job_id AND number = attempt), 0), "
        "priority = COALESCE((SELECT CASE jobs.priority WHEN 'high' THEN 0 WHEN 'low' THEN 2 ELSE 1 END "
        "FROM jobs WHERE id = tasks.job_id), 1)"
    )


def downgrade() -> None:
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_index("ix_tasks_owner_line", sqlite_where=sa.text("step = 'submit'"))
        batch_op.drop_index("ix_tasks_line", sqlite_where=sa.text("step = 'submit'"))
        batch_op.drop_column("server_faults")
        batch_op.drop_column("queued_at")
        batch_op.drop_column("turn")
        batch_op.drop_column("priority")

    op.execute("UPDATE rejections SET id = rowid")
    with op.batch_alter_table("rejections", schema=None) as batch_op:
        batch_op.alter_column("id", existing_type=sa.Text(), type_=sa.INTEGER(), existing_nullable=False)

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_projects_thumbnail_key"))

    with op.batch_alter_table("pictures", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_pictures_thumbnail_key"))

    with op.batch_alter_table("originals", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_originals_thumbnail_key"))

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_batch_id_id", sqlite_where=sa.text("batch_id IS NOT NULL"))
        batch_op.drop_column("batch_id")

    with op.batch_alter_table("deliveries", schema=None) as batch_op:
        batch_op.drop_index(
            "ix_deliveries_effect_id",
            sqlite_where=sa.text("effect = 'parked' OR effect = 'unapplied' OR effect = 'dead'"),
        )
        batch_op.drop_column("repeated_at")
        batch_op.drop_column("repeats")

    with op.batch_alter_table("unclaimed", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_unclaimed_thumbnail_key"))
        batch_op.drop_index(batch_op.f("ix_unclaimed_created_at"))

    op.drop_table("unclaimed")
