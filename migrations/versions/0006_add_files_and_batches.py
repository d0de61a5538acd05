"""Files, uploads, batches and their lines.

Only adds: a release that knows nothing of it ends lines without counting them, and who tends the batch counts anew.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
OPEN_BATCH = sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")
OPEN_LINE = sa.text("batch_id IS NOT NULL AND status IN ('queued', 'in_progress', 'cancelling')")
LEAVING = sa.text("status IN ('arriving', 'deleted')")
EXPIRES = sa.text("expires_at IS NOT NULL")


def upgrade() -> None:
    _files()
    _batches()


def _files() -> None:
    op.create_table(
        "file",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(length=24), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("bytes", BIG, nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file")),
    )
    op.create_index("ix_file_project_id", "file", ["project_id", "id"], unique=False)
    op.create_index(
        "ix_file_expires_at", "file", ["expires_at"], unique=False, postgresql_where=EXPIRES, sqlite_where=EXPIRES
    )
    op.create_index(
        "ix_file_leaving", "file", ["created_at"], unique=False, postgresql_where=LEAVING, sqlite_where=LEAVING
    )
    op.create_table(
        "file_part",
        sa.Column("file_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "number", name=op.f("pk_file_part")),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE file_part ALTER COLUMN body SET STORAGE EXTERNAL")
    op.create_table(
        "upload",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(length=24), nullable=False),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("bytes", BIG, nullable=False),
        sa.Column("file_expires_s", sa.Integer(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("file_id", ID, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload")),
    )
    op.create_index("ix_upload_expires_at", "upload", ["expires_at"], unique=False)
    op.create_table(
        "upload_part",
        sa.Column("upload_id", ID, nullable=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("bytes", BIG, nullable=False),
        sa.Column("parts", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "id", name=op.f("pk_upload_part")),
    )


def _batches() -> None:
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("key_id", ID, nullable=True),
        sa.Column("endpoint", sa.String(length=64), nullable=False),
        sa.Column("input_file_id", ID, nullable=False),
        sa.Column("window", sa.String(length=8), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=True),
        sa.Column("output_expires_s", sa.Integer(), nullable=True),
        sa.Column("status", sa.String(length=12), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("errors", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("in_progress_at", MOMENT, nullable=True),
        sa.Column("finalizing_at", MOMENT, nullable=True),
        sa.Column("completed_at", MOMENT, nullable=True),
        sa.Column("failed_at", MOMENT, nullable=True),
        sa.Column("expired_at", MOMENT, nullable=True),
        sa.Column("cancelling_at", MOMENT, nullable=True),
        sa.Column("cancelled_at", MOMENT, nullable=True),
        sa.Column("owner", ID, nullable=True),
        sa.Column("leased_until", MOMENT, nullable=True),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("taken_line", sa.Integer(), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("written_line", sa.Integer(), nullable=False),
        sa.Column("output_file_id", ID, nullable=True),
        sa.Column("error_file_id", ID, nullable=True),
        sa.Column("output_parts", sa.Integer(), nullable=False),
        sa.Column("output_bytes", BIG, nullable=False),
        sa.Column("error_parts", sa.Integer(), nullable=False),
        sa.Column("error_bytes", BIG, nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("expired", sa.Integer(), nullable=False),
        sa.Column("input_tokens", BIG, nullable=True),
        sa.Column("output_tokens", BIG, nullable=True),
        sa.Column("cached_tokens", BIG, nullable=True),
        sa.Column("reasoning_tokens", BIG, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index("ix_batch_project_id", "batch", ["project_id", "id"], unique=False)
    op.create_index(
        "ix_batch_open", "batch", ["status", "id"], unique=False, postgresql_where=OPEN_BATCH, sqlite_where=OPEN_BATCH
    )
    op.create_table(
        "batch_line",
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("encoding", sa.String(length=8), nullable=True),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_line")),
    )
    op.create_table(
        "batch_tally",
        sa.Column("batch_id", ID, nullable=False),
        sa.Column("slot", sa.SmallInteger(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("rest", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", "slot", name=op.f("pk_batch_tally")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "ix_job_batch_open",
        "job",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=OPEN_LINE,
        sqlite_where=OPEN_LINE,
    )
