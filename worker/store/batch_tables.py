"""Files and batches. A line is an ordinary job; what only a batch knows of it stands beside, never in the job's row."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from worker.store.moment import Moment
from worker.store.tables import Big, _id
from worker.store.tables import metadata as metadata  # noqa: PLC0414 - with these it is whole

_OPEN: Final = sa.text("status IN ('validating', 'in_progress', 'finalizing', 'cancelling')")

file: Final = sa.Table(
    "file",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(24), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),  # arriving: not to be seen yet; ready; deleted: parts may go
    sa.Column("bytes", Big, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Index("ix_file_project_id", "project_id", "id"),
    sa.Index(
        "ix_file_expires_at",
        "expires_at",
        postgresql_where=sa.text("expires_at IS NOT NULL"),
        sqlite_where=sa.text("expires_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_file_leaving",
        "created_at",
        postgresql_where=sa.text("status IN ('arriving', 'deleted')"),
        sqlite_where=sa.text("status IN ('arriving', 'deleted')"),
    ),
)

file_part: Final = sa.Table(
    "file_part",
    metadata,
    _id("file_id", primary_key=True),  # of a file, or of a part of an upload until that is complete
    sa.Column("number", sa.Integer, primary_key=True),
    # zlib. On Postgres its storage is EXTERNAL: what is compressed already is not compressed again.
    sa.Column("body", sa.LargeBinary, nullable=False),
)

upload: Final = sa.Table(
    "upload",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(24), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("file_expires_s", sa.Integer),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    _id("file_id"),
    sa.Index("ix_upload_expires_at", "expires_at"),
)

upload_part: Final = sa.Table(
    "upload_part",
    metadata,
    _id("upload_id", primary_key=True),
    _id("id", primary_key=True),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

batch: Final = sa.Table(
    "batch",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    _id("key_id"),
    sa.Column("endpoint", sa.String(64), nullable=False),
    _id("input_file_id", nullable=False),
    sa.Column("window", sa.String(8), nullable=False),  # as it was asked for
    sa.Column("metadata", sa.Text),  # JSON
    sa.Column("output_expires_s", sa.Integer),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("errors", sa.Text),  # JSON list
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    sa.Column("in_progress_at", Moment),
    sa.Column("finalizing_at", Moment),
    sa.Column("completed_at", Moment),
    sa.Column("failed_at", Moment),
    sa.Column("expired_at", Moment),
    sa.Column("cancelling_at", Moment),
    sa.Column("cancelled_at", Moment),
    # Whoever tends it; the lease says until when. A page is written only by the owner, so a second one harms nothing.
    _id("owner"),
    sa.Column("leased_until", Moment),
    sa.Column("total", sa.Integer, nullable=False),
    # How far its lines are jobs: the number of the last one in the file, and how many those are.
    sa.Column("taken_line", sa.Integer, nullable=False),
    sa.Column("taken", sa.Integer, nullable=False),
    # How far its files are written, and what they came to. The ids are nobody's business before the end.
    sa.Column("written_line", sa.Integer, nullable=False),
    _id("output_file_id"),
    _id("error_file_id"),
    sa.Column("output_parts", sa.Integer, nullable=False),
    sa.Column("output_bytes", Big, nullable=False),
    sa.Column("error_parts", sa.Integer, nullable=False),
    sa.Column("error_bytes", Big, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("expired", sa.Integer, nullable=False),
    sa.Column("input_tokens", Big),
    sa.Column("output_tokens", Big),
    sa.Column("cached_tokens", Big),
    sa.Column("reasoning_tokens", Big),
    sa.Index("ix_batch_project_id", "project_id", "id"),
    sa.Index("ix_batch_open", "status", "id", postgresql_where=_OPEN, sqlite_where=_OPEN),
    postgresql_with={"fillfactor": 50},
)

batch_line: Final = sa.Table(
    "batch_line",
    metadata,
    _id("batch_id", primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),  # of the file, from 1
    _id("job_id", nullable=False),
    sa.Column("custom_id", sa.Text, nullable=False),  # JSON, so that any text fits
    sa.Column("encoding", sa.String(8)),  # of vectors, where it was asked for
)

# How many lines have ended. A row for each of a few slots, so that writers do not wait for one another; a writer adds
# to its slot in the transaction that ends the lines.
batch_tally: Final = sa.Table(
    "batch_tally",
    metadata,
    _id("batch_id", primary_key=True),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("rest", sa.Integer, nullable=False),
    postgresql_with={"fillfactor": 50},
)
