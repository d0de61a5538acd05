"""Files larger than a request: parts come on their own, in any order, and are put together without being copied."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from typing import Final

from worker import clock
from worker.deps import Deps
from worker.domain.file import FileView, UploadView
from worker.services.files import Intake, new_id
from worker.services.idempotency import fingerprint
from worker.store import files, idempotency, uploads
from worker.store.text import clean

LASTS_S: Final = 3600.0
PART_MAX: Final = 64 * 1024 * 1024
COMPLETE: Final = "uploads.complete"  # under which it is noted what an upload became
MAX: Final = 8 * 1024 * 1024 * 1024


class NotPending(ValueError):
    """The upload is complete, cancelled or expired; the message says which."""


class Incomplete(ValueError):
    """The parts are not what was declared; the message says how."""


def create(
    deps: Deps, project_id: str, *, filename: str, purpose: str, n_bytes: int, file_expires_s: int | None
) -> UploadView:
    upload_id = clock.new_id("upload")
    with deps.database.write() as conn:
        uploads.insert(
            conn,
            project_id,
            upload_id,
            filename=clean(filename, 255) or "file",
            purpose=purpose,
            n_bytes=n_bytes,
            file_expires_s=file_expires_s,
            lasts_s=LASTS_S,
        )
        made = uploads.get(conn, project_id, upload_id)
    assert made is not None
    return made


def begin_part(deps: Deps, project_id: str, upload_id: str) -> Intake:
    """Raises NotPending."""
    part_id = clock.new_id("part")
    with deps.database.write() as conn:
        if not uploads.begin_part(conn, project_id, upload_id, part_id):
            raise NotPending("the upload takes no more parts")
    return Intake(deps.database, part_id, PART_MAX)


def end_part(deps: Deps, project_id: str, upload_id: str, intake: Intake) -> int:
    """The part is whole; unix seconds of when. Raises NotPending."""
    intake.flush()
    with deps.database.write() as conn:
        made = uploads.end_part(conn, project_id, upload_id, intake.owner_id, n_bytes=intake.bytes, parts=intake.parts)
    if made is None:
        raise NotPending("the upload takes no more parts")
    return int(made.timestamp())


def drop_part(deps: Deps, upload_id: str, intake: Intake) -> None:
    with deps.database.write() as conn:
        uploads.drop_part(conn, upload_id, intake.owner_id)


def complete(
    deps: Deps, project_id: str, upload: UploadView, part_ids: Sequence[str], md5: str | None
) -> tuple[UploadView, FileView]:
    """The file of these parts, in this order; asked again, what it became. Raises NotPending, Incomplete."""
    asked = fingerprint([*part_ids, None if md5 is None else md5.lower()])
    try:
        if upload.status != uploads.PENDING:
            raise NotPending(f"the upload is {upload.status}")  # noqa: TRY301 - unless it became what is asked for
        return _joined(deps, project_id, upload, part_ids, md5, asked)
    except (NotPending, Incomplete):
        done = _before(deps, project_id, upload.id, asked)
        if done is None:
            raise
        return done


def _before(deps: Deps, project_id: str, upload_id: str, asked: str) -> tuple[UploadView, FileView] | None:
    """What the same request made, whose answer may have been lost."""
    with deps.database.read() as conn:
        known = idempotency.find(conn, project_id, COMPLETE, upload_id)
        if known is None or known.fingerprint != asked:
            return None
        done, file = uploads.get(conn, project_id, upload_id), files.get(conn, project_id, known.made[0])
    return None if done is None or file is None else (done, file)


def _joined(
    deps: Deps, project_id: str, upload: UploadView, part_ids: Sequence[str], md5: str | None, asked: str
) -> tuple[UploadView, FileView]:
    with deps.database.read() as conn:
        known = uploads.parts(conn, upload.id)
    if any(part_id not in known for part_id in part_ids):
        raise Incomplete("one of them is no part of this upload, or has not come whole")
    if len(set(part_ids)) != len(part_ids):
        raise Incomplete("a part is named twice")
    found = sum(known[part_id].bytes for part_id in part_ids)
    if found != upload.bytes:
        raise Incomplete(f"the parts have {found} bytes, and {upload.bytes} were declared")
    if md5 is not None and md5.lower() != _md5(deps, [(part_id, known[part_id].parts) for part_id in part_ids]):
        raise Incomplete("md5 is not that of the parts in this order")
    file_id = new_id()
    with deps.database.write() as conn:
        if not uploads.complete(conn, project_id, upload.id, file_id):
            raise NotPending("the upload takes no more parts")
        idempotency.remember(conn, project_id, COMPLETE, upload.id, asked, [file_id])
        files.begin(conn, project_id, file_id, filename=upload.filename, purpose=upload.purpose)
        number = 0
        for part_id in part_ids:
            files.adopt(conn, file_id, part_id, number)
            number += known[part_id].parts
        uploads.forget_parts(conn, upload.id, part_ids)
        files.ready(
            conn,
            file_id,
            filename=upload.filename,
            purpose=upload.purpose,
            n_bytes=upload.bytes,
            parts=number,
            expires_s=upload.file_expires_s,
        )
        done, made = uploads.get(conn, project_id, upload.id), files.get(conn, project_id, file_id)
    assert done is not None
    assert made is not None
    return done, made


def _md5(deps: Deps, parts: Sequence[tuple[str, int]]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part_id, count in parts:
        for number in range(count):
            with deps.database.read() as conn:
                body = files.part(conn, part_id, number)
            digest.update(zlib.decompress(body or zlib.compress(b"")))
    return digest.hexdigest()
