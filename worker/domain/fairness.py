"""Who gets how much of the next block: fair between projects, then by priority within each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple, TypeVar

_T = TypeVar("_T")
_NONE: Final[Any] = object()


class Share(NamedTuple):
    project_id: str
    priority: int
    quota: int


def shares(groups: Iterable[tuple[str, int]], room: int, draw: float = 0.0) -> list[Share]:
    """Split `room` places over (project, priority) groups that have work.

    Every project gets an equal part. Within a project each priority may take the whole part: the claim goes through
    them from the highest down and stops when the part is used up, so `quota` is an upper bound for each.
    Where the places cannot be split evenly, or are fewer than the projects, `draw` in [0, 1) says with whom it begins.
    """
    by_project: dict[str, list[int]] = {}
    for project_id, priority in groups:
        by_project.setdefault(project_id, []).append(priority)
    if not by_project or room <= 0:
        return []
    part, extra = divmod(room, len(by_project))
    out: list[Share] = []
    first = int(draw * len(by_project))
    projects = sorted(by_project.items())
    for n, (project_id, priorities) in enumerate(projects[first:] + projects[:first]):
        quota = part + (1 if n < extra else 0)
        if quota:
            out.extend(Share(project_id, priority, quota) for priority in sorted(priorities, reverse=True))
    return out


def in_turns(claimed: Iterable[_T], project_of: Callable[[_T], str]) -> list[_T]:
    """One of each project after the other, each project's in the order in which they come."""
    by_project: dict[str, list[_T]] = {}
    for one in claimed:
        by_project.setdefault(project_of(one), []).append(one)
    if len(by_project) < 2:
        return list(chain.from_iterable(by_project.values()))
    return [one for row in zip_longest(*by_project.values(), fillvalue=_NONE) for one in row if one is not _NONE]
