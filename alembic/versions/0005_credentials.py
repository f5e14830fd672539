"""credentials: what a login is known by; and the bytes of pictures that were never generated"""

import sqlalchemy as sa

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("user_agent", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("address", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("last_used_at", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("upload_bytes", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE jobs SET upload_bytes = (SELECT bytes FROM originals WHERE originals.id = jobs.original_id) "
        "WHERE stage = 'uploaded' AND purged_at IS NULL"
    )
    op.create_index(
        "ix_jobs_upload",
        "jobs",
        ["owner_id", "deleted_at", "purged_at", "upload_bytes"],
        sqlite_where=sa.text("upload_bytes IS NOT NULL AND purged_at IS NULL"),
    )
    op.create_index(
        "ix_projects_cover", "projects", ["owner_id", "bytes"], sqlite_where=sa.text("bytes IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_projects_cover", table_name="projects")
    op.drop_index("ix_jobs_upload", table_name="jobs")
    # In place, not by a copy of the table: everything else stays as it is.
    op.execute("ALTER TABLE jobs DROP COLUMN upload_bytes")
    for name in ("last_used_at", "address", "user_agent"):
        op.execute(f"ALTER TABLE sessions DROP COLUMN {name}")
