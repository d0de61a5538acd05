"""The whole schema: a table is part of `metadata` once its module is imported, and here all are."""

from __future__ import annotations

from worker.store import batch_tables, tables, webhook_tables
from worker.store.columns import metadata

__all__ = ["batch_tables", "metadata", "tables", "webhook_tables"]
