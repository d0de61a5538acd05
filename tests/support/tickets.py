"""Tickets of a gate's lines, and waiting with one."""

from __future__ import annotations

import asyncio

from worker.limits.line import Ticket


async def admitted(ticket: Ticket, within_s: float = 5.0) -> bool:
    """False: it was told to look around again, or the time is over."""
    if ticket.coming is not None:
        await asyncio.wait([ticket.coming], timeout=within_s)
    return ticket.admitted
