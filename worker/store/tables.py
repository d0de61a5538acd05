"""The tables. Rows that move often are narrow: prompts and answers live beside the job, not in it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from worker.store.columns import Big, id_column, metadata
from worker.store.moment import Moment

# Written out, so that the planner sees the condition of the index.
UNANSWERED: Final = "status IN ('failed', 'expired', 'cancelled')"

project: Final = sa.Table(
    "project",
    metadata,
    id_column("id", primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", Moment, nullable=False),
    # Limits of its own for what may wait; NULL: those of the settings.
    sa.Column("queue_depth", sa.Integer),
    sa.Column("queue_age_s", sa.Float),
)

api_key: Final = sa.Table(
    "api_key",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hint", sa.String(16), nullable=False),  # first characters, to tell keys apart
    sa.Column("digest", sa.String(64), nullable=False, unique=True),  # SHA-256 of the key, hex
    sa.Column("scopes", sa.Text, nullable=False),  # space-separated
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("revoked_at", Moment),
    sa.Column("last_used_at", Moment),
    # The books of its budget; where there is none nothing is written to them.
    sa.Column("budget_nano", Big),
    sa.Column("spent_nano", Big, nullable=False, server_default=sa.text("0")),
    sa.Column("held_nano", Big, nullable=False, server_default=sa.text("0")),  # for calls that are open
    sa.Index("ix_api_key_project_id", "project_id"),
)

job: Final = sa.Table(
    "job",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("lane", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("models", sa.Text, nullable=False),  # JSON list: a route, a target, or targets in order
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("queued_at", Moment, nullable=False),
    sa.Column("run_at", Moment, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("deadline_at", Moment),
    id_column("claim_id"),
    id_column("worker_id"),
    sa.Column("attempts", sa.Integer, nullable=False),  # calls made
    sa.Column("rows", sa.Integer, nullable=False),  # attempt rows, skips included
    sa.Column("losses", sa.SmallInteger, nullable=False),  # claims whose worker died with a call open
    sa.Column("max_attempts", sa.SmallInteger),
    sa.Column("on_interruption", sa.String(8), nullable=False),
    sa.Column("input_tokens", Big),
    sa.Column("output_tokens", Big),
    sa.Column("cached_tokens", Big),
    sa.Column("reasoning_tokens", Big),
    sa.Column("cost_nano", Big),
    sa.Column("cost_complete", sa.Boolean, nullable=False),
    sa.Column("served_provider", sa.Text),
    sa.Column("served_label", sa.Text),
    sa.Column("served_model", sa.Text),
    sa.Column("error_kind", sa.String(24)),
    id_column("batch_id"),
    id_column("retry_of"),
    sa.Column("purged_at", Moment),
    sa.Column("max_cost_nano", Big),
    id_column("key_id"),  # the API key that made it
    sa.Column("format", sa.SmallInteger, nullable=False, server_default=sa.text("1")),  # of its input's body
    sa.Column("parked_for", sa.String(160)),  # the pauses it waits for, while it is queued
    sa.Column("deaths", sa.SmallInteger, nullable=False, server_default=sa.text("0")),  # claims that died with a worker
    # What is told of it besides its end to standing webhook endpoints: 1 its end, 2 every move
    sa.Column("notify", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    # Due rows by lane: the claim. Only open rows are in it, so it stays small whatever the table's size.
    sa.Index(
        "ix_job_due",
        "lane",
        "project_id",
        "priority",
        "run_at",
        "id",
        postgresql_where=sa.text("status = 'queued'"),
        sqlite_where=sa.text("status = 'queued'"),
    ),
    # Claims by worker: the sweep after a death, and the look-out for cancels.
    sa.Index(
        "ix_job_claimed",
        "worker_id",
        postgresql_where=sa.text("status IN ('in_progress', 'cancelling')"),
        sqlite_where=sa.text("status IN ('in_progress', 'cancelling')"),
    ),
    sa.Index(
        "ix_job_deadline",
        "deadline_at",
        postgresql_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
        sqlite_where=sa.text("status = 'queued' AND deadline_at IS NOT NULL"),
    ),
    sa.Index(
        "ix_job_ended_at",
        "ended_at",
        postgresql_where=sa.text("ended_at IS NOT NULL AND purged_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NOT NULL AND purged_at IS NULL"),
    ),
    # Listings, which end where nothing older is kept. What is forgotten stays as a row, and would be read each time.
    sa.Index(
        "ix_job_kept",
        "project_id",
        "id",
        postgresql_where=sa.text("purged_at IS NULL"),
        sqlite_where=sa.text("purged_at IS NULL"),
    ),
    # Listings by an end that is rare; most jobs are never in it.
    sa.Index(
        "ix_job_unanswered",
        "project_id",
        "status",
        "id",
        postgresql_where=sa.text(f"{UNANSWERED} AND purged_at IS NULL"),
        sqlite_where=sa.text(f"{UNANSWERED} AND purged_at IS NULL"),
    ),
    # Suspects, which are claimed one at a time: nearly always empty.
    sa.Index(
        "ix_job_suspect",
        "run_at",
        "id",
        postgresql_where=sa.text("status = 'queued' AND deaths >= 2"),
        sqlite_where=sa.text("status = 'queued' AND deaths >= 2"),
    ),
    sa.Index(
        "ix_job_dead_letter",
        "project_id",
        "id",
        postgresql_where=sa.text("error_kind IN ('poison', 'internal')"),
        sqlite_where=sa.text("error_kind IN ('poison', 'internal')"),
    ),
    sa.Index(
        "ix_job_retry_of",
        "retry_of",
        postgresql_where=sa.text("retry_of IS NOT NULL"),
        sqlite_where=sa.text("retry_of IS NOT NULL"),
    ),
    sa.Index(
        "ix_job_batch_id",
        "batch_id",
        "id",
        postgresql_where=sa.text("batch_id IS NOT NULL"),
        sqlite_where=sa.text("batch_id IS NOT NULL"),
    ),
    # Those that wait for a pause to end; no other row is in it.
    sa.Index(
        "ix_job_parked",
        "parked_for",
        "lane",
        "id",
        postgresql_where=sa.text("status = 'queued' AND parked_for IS NOT NULL"),
        sqlite_where=sa.text("status = 'queued' AND parked_for IS NOT NULL"),
    ),
    # Lines of a batch that have not ended: to stop them, and to see that none is left.
    sa.Index(
        "ix_job_batch_open",
        "batch_id",
        "id",
        postgresql_where=sa.text("batch_id IS NOT NULL AND status IN ('queued', 'in_progress', 'cancelling')"),
        sqlite_where=sa.text("batch_id IS NOT NULL AND status IN ('queued', 'in_progress', 'cancelling')"),
    ),
    # Three statements touch each row in its short life: room on the page spares index splits.
    postgresql_with={"fillfactor": 70},
)

job_input: Final = sa.Table(
    "job_input",
    metadata,
    id_column("job_id", primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # JSON, ASCII only: NUL and lone surrogates stay escaped
    sa.Column("metadata", sa.Text, nullable=False),
)

job_result: Final = sa.Table(
    "job_result",
    metadata,
    id_column("job_id", primary_key=True),
    sa.Column("body", sa.Text),
    sa.Column("error", sa.Text),
)

attempt: Final = sa.Table(
    "attempt",
    metadata,
    id_column("job_id", primary_key=True),
    id_column("id", primary_key=True),
    id_column("claim_id", nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("key_name", sa.Text),
    sa.Column("kind", sa.String(24)),
    sa.Column("http_status", sa.SmallInteger),
    sa.Column("returned_model", sa.Text),
    sa.Column("sent_at", Moment),
    sa.Column("ended_at", Moment),
    sa.Column("first_byte_s", sa.Float),
    sa.Column("total_s", sa.Float),
    sa.Column("retry_after_s", sa.Float),
    sa.Column("reason", sa.Text),
    sa.Column("input_tokens", Big),
    sa.Column("output_tokens", Big),
    sa.Column("cached_tokens", Big),
    sa.Column("reasoning_tokens", Big),
    sa.Column("cost_nano", Big),
    sa.Column("provider_request_id", sa.Text),
    sa.Column("held_nano", Big),  # what the call might cost, where a budget is kept
    sa.Column("member", sa.Text),  # of a panel, whose call it was
    sa.Column("answer", sa.Text),  # what that member said, as JSON
    # For sums over a time. Rows come in its order, so a few bytes for each hundred pages will do.
    sa.Index("ix_attempt_sent_at", "sent_at", postgresql_using="brin"),
    postgresql_with={"fillfactor": 80},
)

death: Final = sa.Table(
    "death",
    metadata,
    id_column("job_id", primary_key=True),
    id_column("claim_id", primary_key=True),
    id_column("worker_id", nullable=False),
    sa.Column("host", sa.Text),  # with `pid` as the worker told them: its own row is forgotten after a day
    sa.Column("pid", sa.Integer),
    sa.Column("heartbeat_at", Moment),  # its last sign of life
    sa.Column("found_at", Moment, nullable=False),
    sa.Column("in_flight", sa.Integer, nullable=False),  # jobs it held, this one included
    sa.Column("open_target", sa.Text),  # who was being asked; NULL: no call of this job was open
)

prediction_outcome: Final = sa.Table(
    "prediction_outcome",
    metadata,
    id_column("job_id", primary_key=True),
    id_column("project_id", nullable=False),
    sa.Column("type", sa.String(12), nullable=False),  # of the answer that was asked for
    sa.Column("value", sa.Text, nullable=False),  # JSON: what turned out to be true
    sa.Column("recorded_at", Moment, nullable=False),
    sa.Column("corrected_at", Moment),
)

# How each vote of a prediction did, once its outcome is known. Stays when the prediction itself is forgotten.
prediction_score: Final = sa.Table(
    "prediction_score",
    metadata,
    id_column("project_id", primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),  # which one voted; empty: the verdict of the panel
    id_column("job_id", primary_key=True),
    sa.Column("member", sa.Text, primary_key=True),
    sa.Column("type", sa.String(12), nullable=False),
    sa.Column("correct", sa.Boolean),  # NULL: a probability of one half is neither
    sa.Column("probability", sa.Float),  # that it gave to what is asked by `happened`; NULL: it named none
    sa.Column("happened", sa.Boolean, nullable=False),
    sa.Column("voted_at", Moment, nullable=False),
    sa.Index("ix_prediction_score_job_id", "job_id"),
)

worker: Final = sa.Table(
    "worker",
    metadata,
    id_column("id", primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("lanes", sa.Text, nullable=False),
    sa.Column("release", sa.Text, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("heartbeat_at", Moment, nullable=False),  # in no index: the beat stays a HOT update
    sa.Column("dead_at", Moment),
    sa.Column("report", sa.Text, nullable=False),  # JSON: places taken, doors that are not open
    postgresql_with={"fillfactor": 50},
)

pause: Final = sa.Table(
    "pause",
    metadata,
    sa.Column("id", sa.String(10), primary_key=True),  # of its scope
    sa.Column("covers", sa.String(12), nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),  # of the account, the key or the target
    sa.Column("key_name", sa.Text, nullable=False),
    sa.Column("tag", sa.String(8), nullable=False),  # of the key's secret, to see that it was replaced
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since_at", Moment, nullable=False),
    sa.Column("until_at", Moment),  # of the next probe; none where only a person ends it
    sa.Column("probes", sa.Integer, nullable=False),
    sa.Column("who", sa.Text),
    sa.Column("closed_at", Moment),
)

lease: Final = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    id_column("holder", nullable=False),
    sa.Column("until", Moment, nullable=False),
)

idempotency: Final = sa.Table(
    "idempotency",
    metadata,
    id_column("project_id", primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),  # SHA-256 of the request
    sa.Column("made", sa.Text, nullable=False),  # JSON: the ids of what it made
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_idempotency_created_at", "created_at"),
)
