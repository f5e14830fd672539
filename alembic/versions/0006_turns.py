"""turns: what is due of some people, and of suspects, is found without a look at everybody's"""

import sqlalchemy as sa

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_tasks_step_owner",
        "tasks",
        ["step", "owner_id", "due_at"],
        sqlite_where=sa.text("step IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_suspect",
        "tasks",
        ["due_at"],
        sqlite_where=sa.text("step = 'finish' AND suspect_deaths IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_tasks_suspect", table_name="tasks")
    op.drop_index("ix_tasks_step_owner", table_name="tasks")
