"""What processes cost, read from /proc: CPU time and memory of a process with all its descendants (Linux)."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """rss_mb counts pages shared between processes in each of them, pss_mb once among all."""

    rss_mb: float = 0.0
    pss_mb: float = 0.0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss_mb + other.rss_mb, self.pss_mb + other.pss_mb)


def tree(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            found += map(int, (_PROC / f"{parent}/task/{parent}/children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """User and system time of the process, its descendants, and those of them that have ended."""
    total = 0
    for one in tree(pid):
        with suppress(OSError):  # it ended meanwhile; its parent counts it now
            total += sum(map(int, (_PROC / f"{one}/stat").read_text().rpartition(") ")[2].split()[11:15]))
    return total * _TICK_S


def memory(pid: int) -> Memory:
    """Of the process and its descendants, now."""
    total = Memory()
    for one in tree(pid):
        with suppress(OSError):
            lines = (_PROC / f"{one}/smaps_rollup").read_text().splitlines()[1:]
            kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
            total += Memory(kib["Rss"] / 1024, kib["Pss"] / 1024)
    return total


def machine_busy_s() -> float:
    """CPU time the whole machine has spent since it started, of all cores, with what its host took away."""
    with (_PROC / "stat").open() as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * _TICK_S


def processor() -> str:
    """The model of the CPU, as the kernel names it."""
    for line in (_PROC / "cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown"
