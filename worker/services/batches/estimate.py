"""What a file would come to: lines, tokens, cost and time for each model it names. Nothing is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from worker import clock
from worker.deps import Deps
from worker.domain.batch import LineError
from worker.domain.budget import most_tokens
from worker.domain.file import FileView
from worker.domain.money import Usage
from worker.domain.route import Target
from worker.services.batches import lines
from worker.services.batches.digest import digest
from worker.services.batches.lines import BadLine, Line, Names
from worker.services.batches.source import raw_lines
from worker.services.pricing import priced
from worker.store import usage

READ_S: Final = 10.0  # then the rest of the file is judged by what was read
MODELS_MAX: Final = 100
ERRORS_MAX: Final = 20


@dataclass(slots=True)
class Share:
    """Of the lines that name one model, or ask it for a vote. `most_nano`: at the first target, with answers as long as
    they may be; None: its price is not known. `seconds` by what its target did in the last hour and by its limits;
    None: nothing is known.
    """

    model: str
    target: Target
    lines: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    most_nano: int | None = 0
    seconds: float | None = None


@dataclass(slots=True)
class Estimate:
    """`lines` of the whole file; `read`: how many of them were read, `faulty`: how many of those are. `twins`: how many
    of the whole file would make no call, for an earlier line asks the same.
    """

    lines: int = 0
    read: int = 0
    faulty: int = 0
    twins: int = 0
    errors: list[LineError] = field(default_factory=list)
    shares: dict[str, Share] = field(default_factory=dict)


def estimate(deps: Deps, file: FileView, endpoint: str, *, dedupe: bool = False, read_s: float = READ_S) -> Estimate:
    """`dedupe`: lines that ask the same make one call."""
    made = Estimate()
    seen: set[str] = set()
    names = Names()
    until_s = clock.monotonic_s() + read_s
    for raw in raw_lines(deps, file):
        made.lines += 1
        if clock.monotonic_s() >= until_s and made.read:
            continue
        made.read += 1
        try:
            line = lines.read(raw, endpoint, deps.catalog.resolve, deps.settings.panels)
            if (twice := names.used(line)) is not None:
                raise BadLine([twice])  # noqa: TRY301 - as any other fault of a line
        except BadLine as exc:
            made.faulty += 1
            made.errors += exc.errors[: ERRORS_MAX - len(made.errors)]
            continue
        if dedupe:
            mark = digest(deps.catalog, file.project_id, endpoint, line.request)
            if mark in seen:
                made.twins += 1
                continue
            seen.add(mark)
        _add(deps, made, line, len(raw[1] or b""))
    if made.read:
        made.twins = round(made.twins * made.lines / made.read)
    for share in made.shares.values():
        _extend(share, made)
        share.seconds = _seconds(deps, share)
    return made


def _add(deps: Deps, made: Estimate, line: Line, size: int) -> None:
    request = line.request
    tokens = most_tokens(request.kind, request.input, size)
    for models in lines.asked_of(request):
        name = models[0] if models[0] in made.shares or len(made.shares) < MODELS_MAX else "others"
        target = deps.catalog.resolve(models).targets[0]
        share = made.shares.setdefault(name, Share(name, target))
        share.lines += 1
        share.usage += tokens
        nano = priced(deps.catalog, target, tokens)
        share.most_nano = None if nano is None or share.most_nano is None else share.most_nano + nano


def _extend(share: Share, made: Estimate) -> None:
    """From what was read to the whole file."""
    if made.read >= made.lines:
        return
    factor = made.lines / made.read
    share.lines = round(share.lines * factor)
    share.usage = Usage(
        round((share.usage.input_tokens or 0) * factor), round((share.usage.output_tokens or 0) * factor)
    )
    share.most_nano = None if share.most_nano is None else round(share.most_nano * factor)


def _seconds(deps: Deps, share: Share) -> float | None:
    spec = deps.catalog.providers[share.target.provider]
    keys = max(1, len(spec.keys))
    tokens = (share.usage.input_tokens or 0) + (share.usage.output_tokens or 0)
    known = []
    if spec.limits.rpm is not None:
        known.append(60.0 * share.lines / (spec.limits.rpm * keys))
    if spec.limits.tpm is not None:
        known.append(60.0 * tokens / (spec.limits.tpm * keys))
    with deps.database.read() as conn:
        call_s = usage.recent_s(conn, share.target.name)
    if call_s is not None:
        limit = spec.limits.concurrency
        places = deps.settings.slots if limit is None else min(deps.settings.slots, limit * keys)
        known.append(call_s * -(-share.lines // places))
    return max(known, default=None)
