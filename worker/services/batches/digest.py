"""What a line asks, as a short text: two lines with one digest ask the same of the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from worker.providers.catalog import Catalog, UnknownModel
from worker.services.batches.lines import asked_of
from worker.services.submit import JobRequest

# Where the order of an object's fields says nothing. Of a schema it does: models write fields in its order.
_UNORDERED: Final = frozenset({"messages", "prompt", "input"})


def digest(catalog: Catalog, project_id: str, endpoint: str, request: JobRequest) -> str:
    """160 bits, hex. Of everything that is sent and where it may go, in this project; not of the custom_id and the
    metadata. What its route leads to belongs to it: a stored answer is not taken once the route leads elsewhere.
    """
    try:
        targets = [[target.name for target in catalog.resolve(models).targets] for models in asked_of(request)]
    except UnknownModel:  # gone since the file was read: the line fails on its own
        targets = []
    asked: dict[str, Any] = {
        "project": project_id,
        "endpoint": endpoint,
        "kind": request.kind,
        "models": request.models,
        "targets": targets,
        "schema": request.output_schema,
        "deadline_s": request.deadline_s,
        "max_cost_nano": request.max_cost_nano,
        "input": [
            [name, json.dumps(value, sort_keys=name in _UNORDERED)] for name, value in sorted(request.input.items())
        ],
    }
    return hashlib.blake2b(json.dumps(asked).encode(), digest_size=20).hexdigest()
