"""The tables. Rows that move often are narrow: prompts and answers live beside the job, not in it."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from worker.store.moment import Moment

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# Ids sort by byte, whatever the database's language: cursors depend on it.
Id = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _id(name: str, **kw: Any) -> sa.Column[str]:
    return sa.Column(name, Id, **kw)


project: Final = sa.Table(
    "project",
    metadata,
    _id("id", primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", Moment, nullable=False),
    # Limits of its own for what may wait; NULL: those of the settings.
    sa.Column("queue_depth", sa.Integer),
    sa.Column("queue_age_s", sa.Float),
)

api_key: Final = sa.Table(
    "api_key",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
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
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
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
    _id("claim_id"),
    _id("worker_id"),
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
    _id("batch_id"),
    _id("retry_of"),
    sa.Column("purged_at", Moment),
    sa.Column("max_cost_nano", Big),
    _id("key_id"),  # the API key that made it
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
    sa.Index("ix_job_project_id", "project_id", "id"),
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
    _id("job_id", primary_key=True),
    sa.Column("body", sa.Text, nullable=False),  # JSON, ASCII only: NUL and lone surrogates stay escaped
    sa.Column("metadata", sa.Text, nullable=False),
)

job_result: Final = sa.Table(
    "job_result",
    metadata,
    _id("job_id", primary_key=True),
    sa.Column("body", sa.Text),
    sa.Column("error", sa.Text),
)

attempt: Final = sa.Table(
    "attempt",
    metadata,
    _id("job_id", primary_key=True),
    _id("id", primary_key=True),
    _id("claim_id", nullable=False),
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
    _id("job_id", primary_key=True),
    _id("claim_id", primary_key=True),
    _id("worker_id", nullable=False),
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
    _id("job_id", primary_key=True),
    _id("project_id", nullable=False),
    sa.Column("type", sa.String(12), nullable=False),  # of the answer that was asked for
    sa.Column("value", sa.Text, nullable=False),  # JSON: what turned out to be true
    sa.Column("recorded_at", Moment, nullable=False),
    sa.Column("corrected_at", Moment),
)

# How each vote of a prediction did, once its outcome is known. Stays when the prediction itself is forgotten.
prediction_score: Final = sa.Table(
    "prediction_score",
    metadata,
    _id("project_id", primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),  # which one voted; empty: the verdict of the panel
    _id("job_id", primary_key=True),
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
    _id("id", primary_key=True),
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
    _id("holder", nullable=False),
    sa.Column("until", Moment, nullable=False),
)

idempotency: Final = sa.Table(
    "idempotency",
    metadata,
    _id("project_id", primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),  # SHA-256 of the request
    sa.Column("made", sa.Text, nullable=False),  # JSON: the ids of what it made
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_idempotency_created_at", "created_at"),
)

# -- webhooks -------------------------------------------------------------------------------------------------------

webhook_endpoint: Final = sa.Table(
    "webhook_endpoint",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    # Of an address given with a request: what makes it the same one, so that many jobs share a row. NULL: standing.
    sa.Column("fingerprint", sa.String(64)),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("event_types", sa.Text, nullable=False),  # space-separated
    sa.Column("payload", sa.String(8), nullable=False),  # thin | full
    sa.Column("max_rps", sa.Float, nullable=False),
    sa.Column("max_concurrency", sa.Integer, nullable=False),
    sa.Column("timeout_s", sa.Float, nullable=False),
    sa.Column("headers", sa.Text),  # encrypted JSON
    sa.Column("secret", sa.Text),  # encrypted; NULL: signed with the project's
    sa.Column("old_secret", sa.Text),
    sa.Column("old_secret_until_at", Moment),
    sa.Column("due_at", Moment),  # its rate: when the deliveries taken so far will have been earned
    sa.Column("failing_since_at", Moment),
    sa.Column("disabled_at", Moment),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("deleted_at", Moment),
    sa.Column("retired_at", Moment),  # of requests, and no new one finds it any more
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_webhook_endpoint_project_id", "project_id", "id"),
    sa.Index("uq_webhook_endpoint_fingerprint", "project_id", "fingerprint", unique=True),
)

webhook_secret: Final = sa.Table(  # the project's own, for addresses given with a request
    "webhook_secret",
    metadata,
    _id("project_id", primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),  # encrypted
    sa.Column("old_secret", sa.Text),
    sa.Column("old_secret_until_at", Moment),
)

subscription: Final = sa.Table(  # who asked to hear of one job or batch
    "subscription",
    metadata,
    _id("object_id", primary_key=True),
    _id("endpoint_id", primary_key=True),
    sa.Index("ix_subscription_endpoint_id", "endpoint_id"),
)

outbox: Final = (
    sa.Table(  # what happened and has not been told yet; written by triggers, in the transaction of the move
        "outbox",
        metadata,
        sa.Column("id", Big, primary_key=True, autoincrement=True),
        _id("project_id", nullable=False),
        sa.Column("object", sa.String(8), nullable=False),  # job | batch
        _id("object_id", nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", Moment, nullable=False),
    )
)

event: Final = sa.Table(
    "event",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    sa.Column("type", sa.String(40), nullable=False),
    _id("object_id", nullable=False),
    sa.Column("thin", sa.Text, nullable=False),  # the body, ASCII JSON, as it goes out on every try
    sa.Column("full", sa.Text),  # where an endpoint asks for it
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_event_created_at", "created_at"),
    sa.Index("ix_event_object_id", "object_id"),
)

delivery: Final = sa.Table(
    "delivery",
    metadata,
    _id("id", primary_key=True),
    _id("project_id", nullable=False),
    _id("endpoint_id", nullable=False),
    _id("event_id", nullable=False),
    _id("object_id", nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("tries", sa.SmallInteger, nullable=False),  # automatic ones: they alone use the schedule up
    sa.Column("attempts", sa.Integer, nullable=False),  # of every kind
    sa.Column("trigger", sa.String(8), nullable=False),  # of the next try: auto | manual | recover | test
    sa.Column("due_at", Moment, nullable=False),
    _id("claim_id"),
    _id("worker_id"),
    sa.Column("http_status", sa.SmallInteger),
    sa.Column("fault", sa.String(16)),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("ended_at", Moment),
    sa.Index(
        "ix_delivery_due",
        "endpoint_id",
        "due_at",
        "id",
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    ),
    sa.Index(
        "ix_delivery_claimed",
        "endpoint_id",
        "worker_id",
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    ),
    sa.Index("ix_delivery_project_id", "project_id", "id"),
    sa.Index("ix_delivery_endpoint_id", "endpoint_id", "id"),
    sa.Index("ix_delivery_object_id", "object_id", "id"),
    sa.Index("ix_delivery_event_id", "event_id"),
    sa.Index("ix_delivery_created_at", "created_at", postgresql_using="brin"),
    postgresql_with={"fillfactor": 70},
)

delivery_attempt: Final = sa.Table(
    "delivery_attempt",
    metadata,
    _id("delivery_id", primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("trigger", sa.String(8), nullable=False),
    sa.Column("scheduled_at", Moment, nullable=False),
    sa.Column("started_at", Moment, nullable=False),
    sa.Column("http_status", sa.SmallInteger),
    sa.Column("fault", sa.String(16)),
    sa.Column("reason", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("dns_s", sa.Float),
    sa.Column("connect_s", sa.Float),
    sa.Column("tls_s", sa.Float),
    sa.Column("first_byte_s", sa.Float),
    sa.Column("total_s", sa.Float),
    sa.Column("answer", sa.Text),
    sa.Column("next_at", Moment),
    sa.Column("signed_with", sa.Text, nullable=False),  # hints of the secrets, newest first
)
