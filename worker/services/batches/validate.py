"""Read a batch's file from end to end before any of its lines becomes a job: all are good, or none runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker import clock, events
from worker.deps import Deps
from worker.domain.answer import Json
from worker.domain.batch import BatchStatus, LineError
from worker.domain.file import FileView
from worker.services.batches import lines
from worker.services.batches.addresses import Addresses
from worker.services.batches.desk import Desk, Lost, Turns
from worker.services.batches.lines import BadLine, Names
from worker.services.batches.raw import Raw
from worker.services.batches.source import lines_of
from worker.services.pricing import Unpriced
from worker.store import batches, files
from worker.store.database import Unavailable
from worker.store.tending import Tended

ERRORS_MAX: Final = 100  # told of one file; the last entry says how many there were
TURN_S: Final = 0.1
LOOK_S: Final = 1.0  # between two looks whether somebody stopped it


class _Findings:
    def __init__(self) -> None:
        self.first: list[LineError] = []
        self.count = 0

    def add(self, errors: list[LineError]) -> None:
        self.first += errors[: ERRORS_MAX - len(self.first)]
        self.count += len(errors)

    def told(self) -> list[Mapping[str, Json]]:
        told: list[Mapping[str, Json]] = [error.json() for error in self.first]
        if self.count > len(self.first):
            message = f"The file has {self.count} errors; these are the first {len(self.first)}."
            told.append(LineError("more_errors", message).json())
        return told


def validate(desk: Desk, batch: Tended) -> Turns:
    """validating -> in_progress or failed. Starts anew when it is interrupted; reading is cheap and changes nothing.

    A file that we cannot read for a fault of ours is tried again until the window is over.
    """
    try:
        yield from _validate(desk, batch)
    except (Lost, Unavailable):
        raise
    except Exception as exc:
        if desk.look(batch.id).remaining_s > 0:
            raise
        events.emit("batch.broken", level="error", batch_id=batch.id, **events.fault(exc))
        message = "This server could not read the file within the window, for a fault of its own. Nothing was run."
        with desk.deps.database.write() as conn:
            batches.fail(conn, batch.id, desk.owner, [LineError("server_error", message).json()])


def _validate(desk: Desk, batch: Tended) -> Turns:
    findings = _Findings()
    total, models = 0, set[str]()
    file = _input(desk.deps, batch)
    if file is None:
        message = f"Cannot find file '{batch.input_file_id}': it does not exist, or this key may not read it."
        findings.add([LineError("invalid_request", message, "input_file_id")])
    else:
        names = Names()
        addresses = Addresses(desk.deps, batch.endpoint)
        most = desk.deps.settings.max_batch_lines
        turn_s = look_s = clock.monotonic_s()
        for raw in lines_of(desk.deps, batch, file):
            total += 1
            if total > most:
                findings.add([LineError("too_many_tasks", f"The file has more than {most} requests.")])
                break
            findings.add(_judge(desk.deps, raw, batch, names, models, addresses))
            now_s = clock.monotonic_s()
            if now_s - turn_s >= TURN_S:
                yield 0.0
                turn_s = clock.monotonic_s()
                if turn_s - look_s >= LOOK_S:
                    look_s = turn_s
                    if desk.look(batch.id).status is not BatchStatus.VALIDATING:
                        raise Lost
        if total == 0:
            findings.add([LineError("empty_file", "The file holds no request.")])
    with desk.deps.database.write() as conn:
        if findings.count:
            moved = batches.fail(conn, batch.id, desk.owner, findings.told())
        else:
            model = next(iter(models)) if len(models) == 1 else None
            moved = batches.begin(conn, batch.id, desk.owner, total=total, model=model)
    if not moved:
        raise Lost
    if findings.count:
        events.emit("batch.refused", batch_id=batch.id, errors=findings.count, first=findings.first[0].code)


def _input(deps: Deps, batch: Tended) -> FileView | None:
    with deps.database.read() as conn:
        return files.get(conn, batch.project_id, batch.input_file_id)


def _judge(
    deps: Deps, raw: Raw, batch: Tended, names: Names, models: set[str], addresses: Addresses
) -> list[LineError]:
    try:
        line = lines.read(raw, batch.endpoint, deps.catalog.resolve, deps.settings.panels)
    except BadLine as exc:
        return exc.errors
    if (twice := names.used(line)) is not None:
        return [twice]
    if batch.max_cost_nano is not None:
        try:
            lines.hold_nano(deps.catalog, line, len(raw[1] or b""))
        except Unpriced as exc:
            message = f"This batch has a max_cost, and the price of {exc.target} is not known."
            return [LineError("invalid_request", message, "body.model", line.number)]
    if (refused := addresses.refused(line)) is not None:
        return [refused]
    if len(models) < 2:
        models.add(line.request.models[0])
    return []
