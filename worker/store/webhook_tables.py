"""Webhooks: who is told, what is to be told, and what became of it."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from worker.store.columns import Big, id_column, metadata
from worker.store.moment import Moment

# Written out, so that the planner sees the condition of the index.
UNDELIVERED: Final = "state IN ('exhausted', 'refused', 'skipped')"

webhook_endpoint: Final = sa.Table(
    "webhook_endpoint",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
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
    id_column("project_id", primary_key=True),
    sa.Column("secret", sa.Text, nullable=False),  # encrypted
    sa.Column("old_secret", sa.Text),
    sa.Column("old_secret_until_at", Moment),
)

subscription: Final = sa.Table(  # who asked to hear of one job or batch
    "subscription",
    metadata,
    id_column("object_id", primary_key=True),
    id_column("endpoint_id", primary_key=True),
    sa.Index("ix_subscription_endpoint_id", "endpoint_id"),
)

outbox: Final = (
    sa.Table(  # what happened and has not been told yet; written by triggers, in the transaction of the move
        "outbox",
        metadata,
        sa.Column("id", Big, primary_key=True, autoincrement=True),
        id_column("project_id", nullable=False),
        sa.Column("object", sa.String(8), nullable=False),  # job | batch
        id_column("object_id", nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", Moment, nullable=False),
    )
)

event: Final = sa.Table(
    "event",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    sa.Column("type", sa.String(40), nullable=False),
    id_column("object_id", nullable=False),
    sa.Column("thin", sa.Text, nullable=False),  # the body, ASCII JSON, as it goes out on every try
    sa.Column("full", sa.Text),  # where an endpoint asks for it
    sa.Column("created_at", Moment, nullable=False),
    sa.Index("ix_event_created_at", "created_at"),
    sa.Index("ix_event_object_id", "object_id"),
)

delivery: Final = sa.Table(
    "delivery",
    metadata,
    id_column("id", primary_key=True),
    id_column("project_id", nullable=False),
    id_column("endpoint_id", nullable=False),
    id_column("event_id", nullable=False),
    id_column("object_id", nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("tries", sa.SmallInteger, nullable=False),  # automatic ones: they alone use the schedule up
    sa.Column("attempts", sa.Integer, nullable=False),  # of every kind
    sa.Column("trigger", sa.String(8), nullable=False),  # of the next try: auto | manual | recover | test
    sa.Column("due_at", Moment, nullable=False),
    id_column("claim_id"),
    id_column("worker_id"),
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
    # Listings by an end that is rare; most deliveries are never in it.
    sa.Index(
        "ix_delivery_undelivered",
        "project_id",
        "state",
        "id",
        postgresql_where=sa.text(UNDELIVERED),
        sqlite_where=sa.text(UNDELIVERED),
    ),
    sa.Index("ix_delivery_endpoint_id", "endpoint_id", "id"),
    sa.Index("ix_delivery_object_id", "object_id", "id"),
    sa.Index("ix_delivery_event_id", "event_id"),
    sa.Index("ix_delivery_created_at", "created_at", postgresql_using="brin"),
    sa.Index(
        "ix_delivery_ended",
        "created_at",
        postgresql_where=sa.text("ended_at IS NOT NULL"),
        sqlite_where=sa.text("ended_at IS NOT NULL"),
    ),
    postgresql_with={"fillfactor": 70},
)

delivery_attempt: Final = sa.Table(
    "delivery_attempt",
    metadata,
    id_column("delivery_id", primary_key=True),
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
