"""Webhook endpoints, the outbox of what happened, events, deliveries and their attempts.

Only adds. What happened to a job or a batch is noted by a trigger, in the transaction in which it happened: a job ends
in many statements (settled, cancelled, expired, given up, taken back), also in those of an older release beside this
one, and none of them can forget the note. A job that ends within a batch is told of only where that was asked for.
Until its end a row costs nothing but the comparison in WHEN.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ID = sa.String(40).with_variant(sa.String(40, collation="C"), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


_ENDED: Final = "(OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL)"
_MOVED: Final = "(NEW.notify = 2 AND NEW.status <> OLD.status AND NEW.status <> 'cancelling')"
_HEARD: Final = (
    "NEW.notify > 0 OR (NEW.batch_id IS NULL AND EXISTS (SELECT 1 FROM webhook_endpoint e"
    " WHERE e.project_id = NEW.project_id AND e.fingerprint IS NULL AND e.deleted_at IS NULL))"
)
_COLUMNS: Final = "(project_id, object, object_id, type, version, at)"
_VALUES: Final = "NEW.project_id, 'job', NEW.id, 'job.' || NEW.status, NEW.version"
_SQLITE_NOW: Final = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"

_BATCH_MOVED: Final = "(NEW.status <> OLD.status AND NEW.status <> 'cancelling')"
_BATCH_HEARD: Final = (
    "EXISTS (SELECT 1 FROM webhook_endpoint e WHERE e.project_id = NEW.project_id AND e.fingerprint IS NULL"
    " AND e.deleted_at IS NULL) OR EXISTS (SELECT 1 FROM subscription s WHERE s.object_id = NEW.id)"
)
_BATCH_VALUES: Final = (  # a batch counts no versions: its states come in this order
    "NEW.project_id, 'batch', NEW.id, 'batch.' || NEW.status,"
    " CASE NEW.status WHEN 'in_progress' THEN 2 WHEN 'finalizing' THEN 3 ELSE 4 END"
)

_TRIGGERS: Final = {
    "postgresql": (
        f"""
    CREATE FUNCTION job_to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF {_HEARD} THEN
            INSERT INTO outbox {_COLUMNS} VALUES ({_VALUES}, clock_timestamp());
        END IF;
        RETURN NULL;
    END $$
    """,
        f"""
    CREATE TRIGGER job_moved AFTER UPDATE ON job FOR EACH ROW
    WHEN ({_ENDED} OR {_MOVED}) EXECUTE FUNCTION job_to_outbox()
    """,
        """
    CREATE TRIGGER job_queued AFTER INSERT ON job FOR EACH ROW
    WHEN (NEW.notify = 2) EXECUTE FUNCTION job_to_outbox()
    """,
        f"""
    CREATE FUNCTION batch_to_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF {_BATCH_HEARD} THEN
            INSERT INTO outbox {_COLUMNS} VALUES ({_BATCH_VALUES}, clock_timestamp());
        END IF;
        RETURN NULL;
    END $$
    """,
        f"""
    CREATE TRIGGER batch_moved AFTER UPDATE ON batch FOR EACH ROW
    WHEN {_BATCH_MOVED} EXECUTE FUNCTION batch_to_outbox()
    """,
    ),
    "sqlite": (
        f"""
    CREATE TRIGGER job_moved AFTER UPDATE ON job FOR EACH ROW
    WHEN ({_ENDED} OR {_MOVED}) AND ({_HEARD})
    BEGIN INSERT INTO outbox {_COLUMNS} VALUES ({_VALUES}, {_SQLITE_NOW}); END
    """,
        f"""
    CREATE TRIGGER job_queued AFTER INSERT ON job FOR EACH ROW
    WHEN NEW.notify = 2
    BEGIN INSERT INTO outbox {_COLUMNS} VALUES ({_VALUES}, {_SQLITE_NOW}); END
    """,
        f"""
    CREATE TRIGGER batch_moved AFTER UPDATE ON batch FOR EACH ROW
    WHEN {_BATCH_MOVED} AND ({_BATCH_HEARD})
    BEGIN INSERT INTO outbox {_COLUMNS} VALUES ({_BATCH_VALUES}, {_SQLITE_NOW}); END
    """,
    ),
}


def upgrade() -> None:
    op.add_column("job", sa.Column("notify", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "webhook_endpoint",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("event_types", sa.Text(), nullable=False),
        sa.Column("payload", sa.String(8), nullable=False),
        sa.Column("max_rps", sa.Float(), nullable=False),
        sa.Column("max_concurrency", sa.Integer(), nullable=False),
        sa.Column("timeout_s", sa.Float(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_secret_until_at", MOMENT, nullable=True),
        sa.Column("due_at", MOMENT, nullable=True),
        sa.Column("failing_since_at", MOMENT, nullable=True),
        sa.Column("disabled_at", MOMENT, nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("deleted_at", MOMENT, nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoint")),
    )
    op.create_index("ix_webhook_endpoint_project_id", "webhook_endpoint", ["project_id", "id"], unique=False)
    op.create_index("uq_webhook_endpoint_fingerprint", "webhook_endpoint", ["project_id", "fingerprint"], unique=True)
    op.create_table(
        "webhook_secret",
        sa.Column("project_id", ID, nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text(), nullable=True),
        sa.Column("old_secret_until_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_webhook_secret")),
    )
    op.create_table(
        "subscription",
        sa.Column("object_id", ID, nullable=False),
        sa.Column("endpoint_id", ID, nullable=False),
        sa.PrimaryKeyConstraint("object_id", "endpoint_id", name=op.f("pk_subscription")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("object", sa.String(8), nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_table(
        "event",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.Column("thin", sa.Text(), nullable=False),
        sa.Column("full", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index("ix_event_created_at", "event", ["created_at"], unique=False)
    op.create_index("ix_event_object_id", "event", ["object_id"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", ID, nullable=False),
        sa.Column("project_id", ID, nullable=False),
        sa.Column("endpoint_id", ID, nullable=False),
        sa.Column("event_id", ID, nullable=False),
        sa.Column("object_id", ID, nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("tries", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.String(8), nullable=False),
        sa.Column("due_at", MOMENT, nullable=False),
        sa.Column("claim_id", ID, nullable=True),
        sa.Column("worker_id", ID, nullable=True),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("fault", sa.String(16), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "ix_delivery_claimed",
        "delivery",
        ["endpoint_id", "worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'sending'"),
        sqlite_where=sa.text("state = 'sending'"),
    )
    op.create_index("ix_delivery_created_at", "delivery", ["created_at"], unique=False, postgresql_using="brin")
    op.create_index(
        "ix_delivery_due",
        "delivery",
        ["endpoint_id", "due_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index("ix_delivery_endpoint_id", "delivery", ["endpoint_id", "id"], unique=False)
    op.create_index("ix_delivery_event_id", "delivery", ["event_id"], unique=False)
    op.create_index("ix_delivery_object_id", "delivery", ["object_id", "id"], unique=False)
    op.create_index("ix_delivery_project_id", "delivery", ["project_id", "id"], unique=False)
    op.create_table(
        "delivery_attempt",
        sa.Column("delivery_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("trigger", sa.String(8), nullable=False),
        sa.Column("scheduled_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("http_status", sa.SmallInteger(), nullable=True),
        sa.Column("fault", sa.String(16), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("dns_s", sa.Float(), nullable=True),
        sa.Column("connect_s", sa.Float(), nullable=True),
        sa.Column("tls_s", sa.Float(), nullable=True),
        sa.Column("first_byte_s", sa.Float(), nullable=True),
        sa.Column("total_s", sa.Float(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("next_at", MOMENT, nullable=True),
        sa.Column("signed_with", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_delivery_attempt")),
    )
    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)
