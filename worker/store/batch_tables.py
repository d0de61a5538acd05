"""Files and batches. A line is an ordinary job; what only a batch knows of it stands beside, never in the job's row."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from worker.store.columns import Big, id_column, metadata
from worker.store.moment import Moment

# Written out, so that the planner sees the condition of the index, which names no table.
OPEN_BATCH: Final = "status IN ('validating', 'in_progress', 'finalizing', 'cancelling')"

file: Final = sa.Table(
    "file",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
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
    id_column("file_id", primary_key=True),  # of a file, or of a part of an upload until that is complete
    sa.Column("number", sa.Integer, primary_key=True),
    # zlib. On Postgres its storage is EXTERNAL: what is compressed already is not compressed again.
    sa.Column("body", sa.LargeBinary, nullable=False),
)

upload: Final = sa.Table(
    "upload",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(24), nullable=False),
    sa.Column("status", sa.String(12), nullable=False),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("file_expires_s", sa.Integer),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment, nullable=False),
    id_column("file_id"),
    sa.Index("ix_upload_expires_at", "expires_at"),
)

upload_part: Final = sa.Table(
    "upload_part",
    metadata,
    id_column("upload_id", primary_key=True),
    id_column("id", primary_key=True),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("parts", sa.Integer, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
)

batch: Final = sa.Table(
    "batch",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    id_column("key_id"),
    sa.Column("endpoint", sa.String(64), nullable=False),
    id_column("input_file_id", nullable=False),
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
    id_column("owner"),
    sa.Column("leased_until", Moment),
    sa.Column("total", sa.Integer, nullable=False),
    # How far its lines are jobs: the number of the last one in the file, and how many those are.
    sa.Column("taken_line", sa.Integer, nullable=False),
    sa.Column("taken", sa.Integer, nullable=False),
    # How far its files are written, and what they came to. The ids are nobody's business before the end.
    sa.Column("written_line", sa.Integer, nullable=False),
    id_column("output_file_id"),
    id_column("error_file_id"),
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
    sa.Column("priority", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("max_cost_nano", Big),
    sa.Column("cost_nano", Big, nullable=False, server_default=sa.text("0")),  # of the lines that are written
    sa.Column("unpriced", sa.Integer, nullable=False, server_default=sa.text("0")),  # lines of unknown cost among them
    sa.Column("paused_at", Moment),
    sa.Column("parked", sa.Boolean, nullable=False, server_default=sa.false()),  # some lines are out of reach
    sa.Column("stopped_for", sa.String(16)),  # why it was stopped, where nobody asked for it: max_cost
    id_column("retry_of"),
    id_column("origin_id"),  # of a retry: the batch that all retries of its file go back to
    sa.Column("dedupe", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("cache_age", sa.String(8)),  # as it was asked for; NULL: no stored answer is taken
    sa.Column("twins", sa.Integer, nullable=False, server_default=sa.text("0")),  # lines taken so far that are such
    sa.Column("cached", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("awaited", sa.Integer, nullable=False, server_default=sa.text("0")),  # twins whose leader has not ended
    sa.Index("ix_batch_project_id", "project_id", "id"),
    sa.Index(
        "ix_batch_origin_id",
        "origin_id",
        postgresql_where=sa.text("origin_id IS NOT NULL"),
        sqlite_where=sa.text("origin_id IS NOT NULL"),
    ),
    sa.Index("ix_batch_open", "status", "id", postgresql_where=sa.text(OPEN_BATCH), sqlite_where=sa.text(OPEN_BATCH)),
    postgresql_with={"fillfactor": 50},
)

batch_line: Final = sa.Table(
    "batch_line",
    metadata,
    id_column("batch_id", primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True),  # of the file, from 1
    id_column("job_id", nullable=False),
    sa.Column("custom_id", sa.Text, nullable=False),  # JSON, so that any text fits
    sa.Column("encoding", sa.String(8)),  # of vectors, where it was asked for
    sa.Column("hold_nano", Big),  # what it may cost, where the batch has a bound
    id_column("digest"),  # of what it asks: the one line of its batch that stands for all that ask the same
    # awaited: the job it shares the end of has not ended, and it has none of its own yet; twin: it has; cached: that
    # job had ended when the line was taken in.
    sa.Column("shared", sa.String(8)),
    id_column("source_id"),  # that job
    sa.Index("ix_batch_line_job_id", "job_id"),
    sa.Index(
        "ix_batch_line_digest",
        "digest",
        "batch_id",
        postgresql_where=sa.text("digest IS NOT NULL"),
        sqlite_where=sa.text("digest IS NOT NULL"),
    ),
    sa.Index(
        "ix_batch_line_awaited",
        "batch_id",
        "source_id",
        postgresql_where=sa.text("shared = 'awaited'"),
        sqlite_where=sa.text("shared = 'awaited'"),
    ),
)

# How many lines have ended. A row for each of a few slots, so that writers do not wait for one another; a writer adds
# to its slot in the transaction that ends the lines.
batch_tally: Final = sa.Table(
    "batch_tally",
    metadata,
    id_column("batch_id", primary_key=True),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("rest", sa.Integer, nullable=False),
    sa.Column("cost_nano", Big, nullable=False, server_default=sa.text("0")),
    sa.Column("unpriced", sa.Integer, nullable=False, server_default=sa.text("0")),  # lines of which it is not known
    postgresql_with={"fillfactor": 50},
)

# Which lines have ended, in the order in which their ends were committed within a slot. `upto`: how many lines of the
# slot have ended with these. The row of the tally is locked from its update to the commit, so no row comes later with
# a smaller number: who has read up to one of them has missed none.
batch_ended: Final = sa.Table(
    "batch_ended",
    metadata,
    id_column("batch_id", primary_key=True),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("upto", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("job_ids", sa.Text, nullable=False),  # one after another, apart by commas
)
