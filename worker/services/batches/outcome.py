"""What a line came to, as it stands in a file of results, and to those who follow the batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from worker.domain.answer import Json
from worker.domain.failure import FailureKind
from worker.domain.job import JobView
from worker.domain.state import JobStatus
from worker.services.batches.endpoints import ENDPOINTS
from worker.services.openai.failures import WIRE
from worker.store.lines import Line
from worker.store.text import dumps

Sort = Literal["completed", "failed", "expired", "stopped"]  # the last: it was cancelled
_SLACK: Final = timedelta(seconds=1)

NOT_RUN: Final[dict[str, Json]] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed because the batch was cancelled.",
    "max_cost_reached": "This request was not executed because it could have passed the max_cost of the batch.",
    "request_expired": "This request could not be executed before its own deadline.",
    "request_cancelled": "This request was cancelled on its own.",
    "batch_failed": "The result of this request is no longer kept.",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What of the batch matters: `stopping` while it is cancelled, or after."""

    endpoint: str
    expires_at: datetime
    stopping: bool


def outcome(of: Setting, line: Line, job: JobView) -> tuple[Sort, str]:
    """The line of a job that has ended, with its newline."""
    name = job.id.removeprefix("job_")
    match job.status:
        case JobStatus.COMPLETED if job.result is not None:
            body = ENDPOINTS[of.endpoint].answer(job, line.encoding)
            return "completed", _answered(name, line, 200, body)
        case JobStatus.FAILED if job.error is not None:
            status, kind, code = WIRE[FailureKind(job.error["kind"])]
            error = {"message": job.error["message"] or job.error["kind"], "type": kind, "param": None, "code": code}
            return "failed", _answered(name, line, status, ENDPOINTS[of.endpoint].failure(job, error))
        case JobStatus.CANCELLED:
            code = "batch_cancelled" if of.stopping else "request_cancelled"
            return "stopped", not_run(name, line.custom_id, code, _shared(line))
        case JobStatus.EXPIRED:
            # With the window, to which its deadline was set; else by a deadline of its own.
            over = job.deadline_at is None or job.deadline_at >= of.expires_at - _SLACK
            sort: Sort = "expired" if over else "stopped"
            code = "batch_expired" if over else "request_expired"
            return sort, not_run(name, line.custom_id, code, _shared(line))
        case _:
            return "failed", not_run(name, line.custom_id, "batch_failed", _shared(line))


def not_run(name: str, custom_id: str, code: str, shared: str = "") -> str:
    """`shared` as it stands at the end of the line, where it made no call of its own."""
    error = dumps({"code": code, "message": NOT_RUN[code]})
    return f'{{"id":"batch_req_{name}","custom_id":{custom_id},"response":null,"error":{error}{shared}}}\n'


def name_of(batch_id: str, number: int) -> str:
    """Of a line that never became a job."""
    return f"{batch_id.removeprefix('batch_')}_{number}"


def _answered(name: str, line: Line, status: int, body: Json) -> str:
    response = f'{{"status_code":{status},"request_id":"req_{name}","body":{dumps(body)}}}'
    begun = f'{{"id":"batch_req_{name}","custom_id":{line.custom_id},"response":{response}'
    return f'{begun},"error":null{_shared(line)}}}\n'


def _shared(line: Line) -> str:
    """Which line, or which job, was asked in its stead; nothing where it was asked itself."""
    match line.shared:
        case "twin":
            return f',"completar":{{"twin_of":{line.twin_of or "null"}}}'
        case "cached":
            return f',"completar":{{"cached_from":{dumps(line.source_id)}}}'
        case _:
            return ""
