"""Files, in compressed parts. A file is to be seen once it is whole, and gone at once when it is deleted or expired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from worker.domain.file import FileView
from worker.store.batch_tables import OPEN_BATCH, batch, file, file_part
from worker.store.moment import db_now, later

ARRIVING: Final = "arriving"
READY: Final = "ready"
DELETED: Final = "deleted"
ABANDONED_S: Final = 48 * 3600.0  # a file that has been arriving for so long never will
_AT_ONCE: Final = 32  # parts removed in one statement


def begin(conn: sa.Connection, project_id: str, file_id: str, *, filename: str, purpose: str) -> None:
    """A file that nobody sees yet: its parts come, then `ready`."""
    conn.execute(
        file.insert().values(
            id=file_id,
            project_id=project_id,
            filename=filename,
            purpose=purpose,
            status=ARRIVING,
            bytes=0,
            parts=0,
            created_at=db_now(),
        )
    )


def add_parts(conn: sa.Connection, file_id: str, first: int, bodies: Sequence[bytes]) -> None:
    """Parts in a row, the first of them number `first`."""
    if bodies:
        rows = [{"file_id": file_id, "number": first + n, "body": body} for n, body in enumerate(bodies)]
        conn.execute(file_part.insert(), rows)


def ready(
    conn: sa.Connection,
    file_id: str,
    *,
    filename: str,
    purpose: str,
    n_bytes: int,
    parts: int,
    expires_s: float | None,
) -> bool:
    """It is whole, and made now. False: it was given up meanwhile."""
    moved = conn.execute(
        file.update()
        .where(file.c.id == file_id, file.c.status == ARRIVING)
        .values(
            status=READY,
            filename=filename,
            purpose=purpose,
            bytes=n_bytes,
            parts=parts,
            created_at=db_now(),
            expires_at=later(sa.literal(expires_s, sa.Float())),
        )
    )
    return moved.rowcount == 1


def get(conn: sa.Connection, project_id: str, file_id: str) -> FileView | None:
    row = conn.execute(sa.select(file).where(file.c.id == file_id, *_seen(project_id))).first()
    return _view(row) if row is not None else None


def input_of(conn: sa.Connection, file_id: str) -> FileView:
    """The input of an open batch: whoever deleted it, it stays until the batch is over."""
    return _view(conn.execute(sa.select(file).where(file.c.id == file_id)).one())


def listed(
    conn: sa.Connection, project_id: str, *, purpose: str | None, after: str | None, limit: int, newest_first: bool
) -> tuple[list[FileView], bool]:
    """One page and whether there is another; `after` is the id of the last file of the page before."""
    where = [*_seen(project_id)]
    if purpose is not None:
        where.append(file.c.purpose == purpose)
    if after is not None:
        where.append(file.c.id < after if newest_first else file.c.id > after)
    order = file.c.id.desc() if newest_first else file.c.id
    rows = conn.execute(sa.select(file).where(*where).order_by(order).limit(limit + 1)).all()
    return [_view(row) for row in rows[:limit]], len(rows) > limit


def part(conn: sa.Connection, file_id: str, number: int) -> bytes | None:
    """A part as it is kept, compressed; None: there is none of this number, or no longer."""
    found = sa.select(file_part.c.body).where(file_part.c.file_id == file_id, file_part.c.number == number)
    body = conn.execute(found).scalar_one_or_none()
    return bytes(body) if body is not None else None


def delete(conn: sa.Connection, project_id: str, file_id: str) -> bool:
    """Out of sight now; its parts go later, in small steps. False: there is no such file."""
    gone = conn.execute(file.update().where(file.c.id == file_id, *_seen(project_id)).values(status=DELETED))
    return gone.rowcount == 1


def drop(conn: sa.Connection, file_id: str) -> None:
    """A file that never was seen, with what there is of it; few parts."""
    conn.execute(file_part.delete().where(file_part.c.file_id == file_id))
    conn.execute(file.delete().where(file.c.id == file_id, file.c.status == ARRIVING))


def prune(conn: sa.Connection) -> int:
    """One small step of forgetting what is expired, deleted or was never finished. Returns how many parts went.

    The input of a batch stays as long as the batch needs it, and so do the files that it is writing.
    """
    conn.execute(
        file.update()
        .where(file.c.expires_at.is_not(None), file.c.expires_at < db_now(), file.c.status == READY)
        .values(status=DELETED)
    )
    files_of = (batch.c.input_file_id, batch.c.output_file_id, batch.c.error_file_id)
    needed = sa.union_all(*(sa.select(one).where(sa.text(OPEN_BATCH), one.is_not(None)) for one in files_of))
    leaving = sa.or_(
        file.c.status == sa.literal_column("'deleted'"),
        sa.and_(file.c.status == sa.literal_column("'arriving'"), file.c.created_at < later(-ABANDONED_S)),
    )
    chosen = sa.select(file.c.id).where(leaving, file.c.id.not_in(needed)).limit(_AT_ONCE)
    total = 0
    for file_id in list(conn.execute(chosen).scalars()):
        gone = drop_parts(conn, file_id)
        total += gone
        if gone == _AT_ONCE:
            break
        conn.execute(file.delete().where(file.c.id == file_id, file.c.status != READY))
    return total


def drop_parts(conn: sa.Connection, owner_id: str) -> int:
    """Some parts of a file, or of a part of an upload. Returns how many; fewer than it takes at once: none is left."""
    numbers = list(
        conn.execute(sa.select(file_part.c.number).where(file_part.c.file_id == owner_id).limit(_AT_ONCE)).scalars()
    )
    if numbers:
        conn.execute(file_part.delete().where(file_part.c.file_id == owner_id, file_part.c.number.in_(numbers)))
    return len(numbers)


def adopt(conn: sa.Connection, file_id: str, part_id: str, first: int) -> None:
    """What came as a part of an upload becomes the file's, from number `first` on. Nothing is copied."""
    conn.execute(
        file_part.update()
        .where(file_part.c.file_id == part_id)
        .values(file_id=file_id, number=file_part.c.number + first)
    )


def _seen(project_id: str) -> list[sa.ColumnElement[bool]]:
    return [
        file.c.project_id == project_id,
        file.c.status == READY,
        sa.or_(file.c.expires_at.is_(None), file.c.expires_at > db_now()),
    ]


def _view(row: Any) -> FileView:
    return FileView(
        id=row.id,
        project_id=row.project_id,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        parts=row.parts,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
