"""Deaths of workers, by the jobs they had: what convicts a job that kills them.

Only adds: a release that knows nothing of it counts no death, as before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def _index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "job", columns, unique=False, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def upgrade() -> None:
    op.add_column("job", sa.Column("deaths", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    _index("ix_job_suspect", ["run_at", "id"], "status = 'queued' AND deaths >= 2")
    _index("ix_job_dead_letter", ["project_id", "id"], "error_kind IN ('poison', 'internal')")
    _index("ix_job_retry_of", ["retry_of"], "retry_of IS NOT NULL")
    op.create_table(
        "death",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("claim_id", ID, nullable=False),
        sa.Column("worker_id", ID, nullable=False),
        sa.Column("host", sa.Text(), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("heartbeat_at", MOMENT, nullable=True),
        sa.Column("found_at", MOMENT, nullable=False),
        sa.Column("in_flight", sa.Integer(), nullable=False),
        sa.Column("open_target", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("job_id", "claim_id", name=op.f("pk_death")),
    )
