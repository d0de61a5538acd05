"""What was measured, beside what was promised: one set of tables for the terminal and for docs/performance.md."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from os import cpu_count
from typing import Any, Final

from tests.bench import usage
from tests.bench.batch_runs import Fair, Filed, Finished
from tests.bench.ground import SLOTS, Run
from tests.bench.hooks import Figure
from tests.bench.limits import Enforced
from tests.bench.million import Million
from tests.bench.waits import Wait

DISTURBED: Final = 0.05  # share of the machine that others may take before a figure is marked
COMMAND: Final = "python3 run.py bench"
MILLION: Final = "1,000,000 lines"
NOT_RUN: Final = "not run"
PEERS: Final = ("script", "gateway")  # of batches, in whose table they stand


Fact = Fair | Finished | Enforced | Million | Figure


@dataclass(frozen=True, slots=True)
class Results:
    """All that one bench measured, by the name of the case; `failures`: case -> why there is no figure of it.

    facts  what is one of a kind: only its targets and its line are told
    """

    runs: dict[str, Run] = field(default_factory=dict)
    waits: dict[str, Wait] = field(default_factory=dict)
    batches: dict[str, Filed] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """One promise and what became of it. `measured` None: it could not be measured, and `why` says why.

    disturbed  other processes had a share of the machine meanwhile: neither a success nor a failure counts for much
    """

    what: str
    measured: float | None
    bound: float
    at_least: bool
    unit: str
    aim: float | None = None
    why: str = ""
    disturbed: bool = False

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def targets(found: Results) -> list[Target]:
    return [
        _times(found, "many rows, 1 process, against naive Celery", "one", "naive", 40, aim=80),
        _times(found, "many rows, 1 process, against the httpx script", "one", "script", 3),
        _of_run(found, "worker CPU per job, many rows, 1 process", "one", lambda run: run.cpu_ms, 0.7, "ms"),
        _of_run(
            found, f"worker memory (PSS), {SLOTS:,} slots in use", "skewed", lambda run: run.peak_pss_mb, 200, "MB"
        ),
        _times(found, "2 processes against 1", "two", "one", 1.6),
        _of_run(found, "slots used under log-normal latency", "skewed", _slots_used, 90, "%", at_least=True),
        _times(found, "interactive, 1 process, against naive Celery", "interactive", "naive", 20),
        *_waiting(found, "a waiting client, idle", "idle", 20, 50),
        *_waiting(found, "a waiting client, beside a batch in another process", "beside", 50, 150),
        *_waiting(found, "a waiting client, beside a batch in the same process", "within", 100, 300),
        _of_run(found, "embedded (SQLite), 1 process", "embedded", lambda run: run.per_s, 300, "jobs/s", at_least=True),
        _of_run(found, "panels of five, 1 process", "panels", lambda run: run.per_s, 200, "panels/s", at_least=True),
        *_waiting(found, "a panel of five, over its slowest needed member", "panel", 30, 80),
        _of_fact(found, "webhooks: deliveries, 1 process", "deliveries", "value", 300, "a second", at_least=True),
        _of_fact(found, "webhooks: jobs lost when every receiver hangs", "hanging", "value", 5, "%"),
        _of_fact(found, "webhooks: the end of cancelled jobs when every receiver hangs", "cancels", "value", 2, "s"),
    ]


def batch_targets(found: Results, *, gateway: bool = False, many: bool = False) -> list[Target]:
    """Of whole batches. `gateway`: LiteLLM was to be measured, `many`: a million lines were; else they are left out."""
    made = [
        _of_batch(found, "a batch, 1 process, create to files", "batch_one", 1_200),
        _batch_times(found, "the same, against the httpx script", "script", 2.5),
        _batch_times(found, "a batch, 2 processes against 1", "batch_one", 1.6, case="batch_two"),
        _batch_times(found, "the same with cores to spare (120 slots each)", "spare_one", 1.6, case="spare_two"),
        _of_fact(found, "ten lines beside another project's large batch, against alone", "fair", "times", 2, "x"),
        _of_fact(found, "600 requests a minute: used", "enforced", "used_rpm", 95, "%", at_least=True, times=100),
        _of_fact(found, "60,000 tokens a minute: used", "enforced", "used_tpm", 95, "%", at_least=True, times=100),
        _of_fact(found, "both: calls refused (429)", "enforced", "refused_part", 1, "%", times=100),
        *_linear(found, ("finish_10k", "finish_100k", *(["finish_1m"] if many else []))),
    ]
    if gateway:
        made.insert(2, _batch_times(found, "the same, against the LiteLLM proxy, 2 workers", "gateway", 10))
        like = "a batch, 2 processes, against the LiteLLM proxy, 2 workers"
        made.insert(3, _batch_times(found, like, "gateway", 10, "batch_two"))
    if many:
        made += [
            _of_fact(found, f"{MILLION}: {what}", "million", name, bound, unit)
            for what, name, bound, unit in (
                ("accepted and validated in", "read_s", 120, "s"),
                ("memory of web, more by", "web_mb", 150, "MB"),
                ("memory of its worker, more by", "worker_mb", 150, "MB"),
                ("memory of Redis, more by", "redis_mb", 5, "MB"),
                ("a claim of 200, p95", "claim_p95_ms", 50, "ms"),
                ("a waiting client, p95, against a quiet system", "times_quiet", 1.5, "x"),
                ("first line after validation in", "first_s", 2, "s"),
                ("no more calls after a cancel in", "cancel_s", 2, "s"),
            )
        ]
    return made


def _of_batch(found: Results, what: str, case: str, bound: float) -> Target:
    if case not in found.batches:
        return Target(what, None, bound, True, "lines/s", why=found.failures.get(case, NOT_RUN))
    run = found.batches[case]
    return Target(what, run.per_s, bound, True, "lines/s", disturbed=run.others > DISTURBED)


def _batch_times(found: Results, what: str, other: str, bound: float, case: str = "batch_one") -> Target:
    """How many times the rate of another case, of a batch or of something else."""
    rates: dict[str, Filed | Run] = {**found.runs, **found.batches}
    missing = {found.failures.get(name, NOT_RUN) for name in (case, other) if name not in rates}
    if missing:
        return Target(what, None, bound, True, "x", why="; ".join(sorted(missing)))
    one, two = rates[case], rates[other]
    return Target(what, one.per_s / two.per_s, bound, True, "x", disturbed=max(one.others, two.others) > DISTURBED)


def _of_fact(
    found: Results,
    what: str,
    case: str,
    name: str,
    bound: float,
    unit: str,
    *,
    at_least: bool = False,
    times: float = 1.0,
) -> Target:
    if case not in found.facts:
        return Target(what, None, bound, at_least, unit, why=found.failures.get(case, NOT_RUN))
    fact = found.facts[case]
    disturbed = isinstance(fact, Figure) and fact.others > DISTURBED
    return Target(what, times * float(getattr(fact, name)), bound, at_least, unit, disturbed=disturbed)


def _linear(found: Results, cases: Sequence[str]) -> Iterator[Target]:
    """A line of a large batch may cost hardly more to finish than one of a small batch."""
    points = [found.facts.get(case) for case in cases]
    for case, point in zip(cases[1:], points[1:], strict=True):
        if isinstance(point, Finished) and isinstance(points[0], Finished):
            what = f"finishing {point.lines:,} lines, each, against {points[0].lines:,}"
            yield Target(what, point.us / points[0].us, 1.25, False, "x")
        else:
            missing = next((found.failures[name] for name in (cases[0], case) if name in found.failures), NOT_RUN)
            yield Target(f"finishing, {case}", None, 1.25, False, "x", why=missing)


def _times(found: Results, what: str, case: str, other: str, bound: float, aim: float | None = None) -> Target:
    """How many times the rate of another case."""
    why = "; ".join(found.failures[name] for name in (case, other) if name in found.failures)
    if why:
        return Target(what, None, bound, True, "x", aim, why)
    one, two = found.runs[case], found.runs[other]
    return Target(what, one.per_s / two.per_s, bound, True, "x", aim, disturbed=max(one.others, two.others) > DISTURBED)


def _of_run(
    found: Results,
    what: str,
    case: str,
    figure: Callable[[Run], float],
    bound: float,
    unit: str,
    at_least: bool = False,
) -> Target:
    if case in found.failures:
        return Target(what, None, bound, at_least, unit, why=found.failures[case])
    run = found.runs[case]
    return Target(what, figure(run), bound, at_least, unit, disturbed=run.others > DISTURBED)


def _slots_used(run: Run) -> float:
    return 100 * run.mean_in_flight / SLOTS


def _waiting(found: Results, what: str, case: str, p50_ms: float, p99_ms: float) -> Iterator[Target]:
    why = found.failures.get(case, "")
    if not why and found.waits[case].ran_dry:
        why = "the batch ended before its clients did"
    for name, bound in (("p50", p50_ms), ("p99", p99_ms)):
        if why:
            yield Target(f"{what}, {name}", None, bound, False, "ms", why=why)
        else:
            wait = found.waits[case]
            measured = getattr(wait, f"{name}_ms")
            yield Target(f"{what}, {name}", measured, bound, False, "ms", disturbed=wait.others > DISTURBED)


def document(found: Results, promised: Sequence[Target], *, seconds: float, command: str = COMMAND) -> dict[str, Any]:
    """Everything as JSON; `tables` reads it back. Of what was not run nothing is told."""
    return {
        "command": command,
        "seconds": round(seconds, 1),
        "machine": {
            "processor": usage.processor(),
            "cores": cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "runs": {case: asdict(run) for case, run in found.runs.items()},
        "waits": {case: asdict(wait) for case, wait in found.waits.items()},
        "batches": {case: asdict(run) for case, run in found.batches.items()},
        "facts": {case: {**asdict(fact), "line": fact.line()} for case, fact in found.facts.items()},
        "failures": found.failures,
        "targets": [{**asdict(target), "met": target.met} for target in promised if target.why != NOT_RUN],
    }


def tables(document: dict[str, Any]) -> str:
    """Markdown, aligned for a terminal too."""
    parts = [
        _machine(document),
        *([_runs(document["runs"])] if set(document["runs"]) - set(PEERS) else []),
        *([_waits(document["waits"])] if document["waits"] else []),
        *([_batches(document)] if document.get("batches") else []),
        "\n".join(f"- {fact['line']}" for fact in document.get("facts", {}).values()),
        _table(
            ("target", "bound", "measured", ""),
            [(target["what"], _bound(target), _measured(target), _verdict(target)) for target in document["targets"]],
        ),
        _closing(document),
    ]
    return "\n\n".join(part for part in parts if part)


def _runs(runs: dict[str, Any]) -> str:
    return _table(
        ("", "jobs/s", "x naive", "CPU ms/job", "Postgres", "Redis", "in flight", "most", "MB", "machine", "others"),
        [
            (
                run["name"],
                f"{run['per_s']:,.0f}",
                f"{run['per_s'] / runs['naive']['per_s']:.1f}" if "naive" in runs else "",
                f"{run['cpu_ms']:.2f}",
                f"{run['postgres_ms']:.3f}",
                f"{run['redis_ms']:.3f}",
                f"{run['mean_in_flight']:,.0f}",
                f"{run['most_in_flight']:,}",
                f"{run['peak_pss_mb']:,.0f}",
                f"{run['busy']:.0%}",
                _others(run),
            )
            for run in runs.values()
        ],
    )


def _waits(waits: dict[str, Any]) -> str:
    return _table(
        (
            "one waiting client, over the provider's time",
            "p50 ms",
            "p99 ms",
            "worst",
            "posts",
            "batch jobs/s",
            "others",
        ),
        [
            (
                wait["name"],
                f"{wait['p50_ms']:.1f}",
                f"{wait['p99_ms']:.1f}",
                f"{wait['worst_ms']:.1f}",
                str(wait["posts"]),
                "" if wait["batch_per_s"] is None else f"{wait['batch_per_s']:,.0f}",
                _others(wait),
            )
            for wait in waits.values()
        ],
    )


def _batches(document: dict[str, Any]) -> str:
    """Beside those that they are compared with, of the same run."""
    runs = document["runs"]
    script = runs.get("script")

    def against(per_s: float) -> str:
        return f"{per_s / script['per_s']:.1f}" if script else ""

    peers = [runs[case] for case in PEERS if case in runs]
    nothing = ("",) * 5
    return _table(
        (
            *("whole batches", "lines/s", "x script", "upload s", "read s", "run s", "written s", "download s"),
            *("CPU ms/line", "Postgres", "MB", "machine", "others"),
        ),
        [
            *(
                (
                    peer["name"],
                    f"{peer['per_s']:,.0f}",
                    against(peer["per_s"]),
                    *nothing,
                    f"{peer['cpu_ms']:.2f}",
                    f"{peer['postgres_ms']:.3f}",
                    f"{peer['peak_pss_mb']:,.0f}",
                    f"{peer['busy']:.0%}",
                    _others(peer),
                )
                for peer in peers
            ),
            *(
                (
                    run["name"],
                    f"{run['per_s']:,.0f}",
                    against(run["per_s"]),
                    *(f"{run[part]:.1f}" for part in ("upload_s", "read_s", "run_s", "write_s", "download_s")),
                    f"{run['cpu_ms']:.2f}",
                    f"{run['postgres_ms']:.3f}",
                    f"{run['peak_pss_mb']:,.0f}",
                    f"{run['busy']:.0%}",
                    _others(run),
                )
                for run in document["batches"].values()
            ),
        ],
    )


def _machine(document: dict[str, Any]) -> str:
    machine = document["machine"]
    where = f"{machine['cores']} x {machine['processor']}, {machine['system']}, Python {machine['python']}"
    return f"{where}; load, servers and workers on the same cores; {document['seconds']:.0f} s in all."


def _closing(document: dict[str, Any]) -> str:
    promised = document["targets"]
    met = sum(target["met"] for target in promised)
    lines = [f"{met} of {len(promised)} targets met. Again: `{document['command']}`"]
    lines += [f"No figure of {case}: {why}" for case, why in document["failures"].items()]
    measured = (*document["runs"].values(), *document["waits"].values(), *document.get("batches", {}).values())
    disturbed = [one["name"] for one in measured if one["others"] > DISTURBED]
    if disturbed:
        lines.append(
            f"(!) Other processes took more than {DISTURBED:.0%} of the machine during: {', '.join(disturbed)}. "
            "Rates, waits and their ratios mean little there; CPU per job means more. Run it again on a quiet machine."
        )
    return "\n".join(lines)


def _others(one: dict[str, Any]) -> str:
    return f"{one['others']:.0%}" + (" (!)" if one["others"] > DISTURBED else "")


def _bound(target: dict[str, Any]) -> str:
    sign = ">=" if target["at_least"] else "<="
    aim = f" (aim {target['aim']:g})" if target["aim"] is not None else ""
    return f"{sign} {target['bound']:g} {target['unit']}{aim}"


def _measured(target: dict[str, Any]) -> str:
    if target["measured"] is None:
        return "-"
    value = target["measured"]
    return f"{value:,.0f} {target['unit']}" if value >= 1000 else f"{value:.3g} {target['unit']}"


def _verdict(target: dict[str, Any]) -> str:
    if target["measured"] is None:
        return f"NOT MEASURED: {target['why']}"
    return ("met" if target["met"] else "MISSED") + (" (!)" if target["disturbed"] else "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Numbers to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    out = [
        "| "
        + " | ".join(_cell(text, width, index) for index, (text, width) in enumerate(zip(line, widths, strict=True)))
        + " |"
        for line in lines
    ]
    out.insert(
        1,
        "| "
        + " | ".join("-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths))
        + " |",
    )
    return "\n".join(out)


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
