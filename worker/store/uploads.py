"""Uploads and their parts, until they become files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from worker.domain.file import UploadView
from worker.store.batch_tables import file_part, upload, upload_part
from worker.store.files import drop_parts
from worker.store.moment import db_now, later

PENDING: Final = "pending"
ARRIVING: Final = -1  # as the number of its parts: they are not all there
FORGOTTEN_S: Final = 24 * 3600.0  # after its end


@dataclass(frozen=True, slots=True)
class Part:
    bytes: int
    parts: int


def insert(
    conn: sa.Connection,
    project_id: str,
    upload_id: str,
    *,
    filename: str,
    purpose: str,
    n_bytes: int,
    file_expires_s: int | None,
    lasts_s: float,
) -> None:
    conn.execute(
        upload.insert().values(
            id=upload_id,
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            status=PENDING,
            bytes=n_bytes,
            file_expires_s=file_expires_s,
            created_at=db_now(),
            expires_at=later(lasts_s),
        )
    )


def get(conn: sa.Connection, project_id: str, upload_id: str) -> UploadView | None:
    late = sa.and_(upload.c.status == PENDING, upload.c.expires_at <= db_now())
    status = sa.case((late, "expired"), else_=upload.c.status).label("now")
    row = conn.execute(
        sa.select(upload, status).where(upload.c.id == upload_id, upload.c.project_id == project_id)
    ).first()
    if row is None:
        return None
    return UploadView(
        id=row.id,
        project_id=row.project_id,
        filename=row.filename,
        purpose=row.purpose,
        status=row.now,
        bytes=row.bytes,
        file_expires_s=row.file_expires_s,
        created_at=row.created_at,
        expires_at=row.expires_at,
        file_id=row.file_id,
    )


def begin_part(conn: sa.Connection, project_id: str, upload_id: str, part_id: str) -> bool:
    """A part begins to come. False: the upload takes no more."""
    if not _locked(conn, project_id, upload_id):
        return False
    conn.execute(
        upload_part.insert().values(upload_id=upload_id, id=part_id, bytes=0, parts=ARRIVING, created_at=db_now())
    )
    return True


def end_part(
    conn: sa.Connection, project_id: str, upload_id: str, part_id: str, *, n_bytes: int, parts: int
) -> datetime | None:
    """When it was made; None: the upload takes no more."""
    if not _locked(conn, project_id, upload_id):
        return None
    mine = sa.and_(upload_part.c.upload_id == upload_id, upload_part.c.id == part_id)
    moved = conn.execute(
        upload_part.update()
        .where(mine)
        .values(bytes=n_bytes, parts=parts, created_at=db_now())
        .returning(upload_part.c.created_at)
    ).first()
    return None if moved is None else moved.created_at


def drop_part(conn: sa.Connection, upload_id: str, part_id: str) -> None:
    """One that did not come well; few parts."""
    conn.execute(file_part.delete().where(file_part.c.file_id == part_id))
    conn.execute(upload_part.delete().where(upload_part.c.upload_id == upload_id, upload_part.c.id == part_id))


def parts(conn: sa.Connection, upload_id: str) -> dict[str, Part]:
    """Those that have come."""
    whole = sa.and_(upload_part.c.upload_id == upload_id, upload_part.c.parts != ARRIVING)
    return {row.id: Part(row.bytes, row.parts) for row in conn.execute(sa.select(upload_part).where(whole))}


def complete(conn: sa.Connection, project_id: str, upload_id: str, file_id: str) -> bool:
    done = conn.execute(
        upload.update().where(_pending(project_id, upload_id)).values(status="completed", file_id=file_id)
    )
    return done.rowcount == 1


def cancel(conn: sa.Connection, project_id: str, upload_id: str) -> bool:
    return conn.execute(upload.update().where(_pending(project_id, upload_id)).values(status="cancelled")).rowcount == 1


def forget_parts(conn: sa.Connection, upload_id: str, ids: Sequence[str]) -> None:
    """Those that are the file's now; what else came is pruned."""
    conn.execute(upload_part.delete().where(upload_part.c.upload_id == upload_id, upload_part.c.id.in_(ids)))


def prune(conn: sa.Connection) -> None:
    """One small step of forgetting what did not become a file, and uploads that are over."""
    over = sa.or_(upload.c.status != PENDING, upload.c.expires_at < db_now())
    left = conn.execute(
        sa.select(upload_part.c.upload_id, upload_part.c.id)
        .join(upload, upload.c.id == upload_part.c.upload_id)
        .where(over)
        .limit(1)
    ).first()
    if left is not None and drop_parts(conn, left.id) == 0:
        conn.execute(upload_part.delete().where(upload_part.c.upload_id == left.upload_id, upload_part.c.id == left.id))
    none_left = ~sa.exists().where(upload_part.c.upload_id == upload.c.id)
    conn.execute(upload.delete().where(upload.c.expires_at < later(-FORGOTTEN_S), none_left))


def _locked(conn: sa.Connection, project_id: str, upload_id: str) -> bool:
    """Whether it takes parts; it cannot be completed before this transaction ends."""
    pending = sa.select(upload.c.id).where(_pending(project_id, upload_id))
    if conn.dialect.name != "sqlite":
        pending = pending.with_for_update(read=True)
    return conn.execute(pending).first() is not None


def _pending(project_id: str, upload_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(
        upload.c.id == upload_id,
        upload.c.project_id == project_id,
        upload.c.status == PENDING,
        upload.c.expires_at > db_now(),
    )
