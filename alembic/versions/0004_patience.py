"""patience: all addresses of a result are tried, and a task whose decoding kills the process ends"""

import json
from collections.abc import Callable

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEY = "job_id = :job_id AND attempt = :attempt AND idx = :idx"


def upgrade() -> None:
    op.execute("ALTER TABLE tasks RENAME COLUMN result_url TO candidates")
    _rewrite(lambda url: json.dumps([{"url": url, "outcome": None}]))
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("suspect_deaths", sa.Integer(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("tasks", schema=None) as batch_op:
        batch_op.drop_column("suspect_deaths")
    _rewrite(lambda text: json.loads(text)[0]["url"])
    op.execute("ALTER TABLE tasks RENAME COLUMN candidates TO result_url")


def _rewrite(change: Callable[[str], str]) -> None:
    """Turn an address into the one candidate that it is, or back."""
    connection = op.get_bind()
    found = connection.execute(
        sa.text("SELECT job_id, attempt, idx, candidates FROM tasks WHERE candidates IS NOT NULL")
    )
    for row in found.mappings().all():
        values = {**row, "candidates": change(row["candidates"])}
        connection.execute(sa.text(f"UPDATE tasks SET candidates = :candidates WHERE {_KEY}"), values)
