"""A peer: the script one writes for a file of prompts. One asyncio loop, one httpx client, a semaphore, no durability.

`python -m tests.bench.script IN OUT URL SEMAPHORE` reads requests from a JSONL file, writes answers to another, and
prints as JSON how much CPU time it took from the first request to the last answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import httpx


async def ask(client: httpx.AsyncClient, url: str, request: dict[str, Any], out: TextIO) -> None:
    response = await client.post(url, json=request)
    response.raise_for_status()
    out.write(json.dumps({"request": request, "answer": response.json()}) + "\n")


async def run(requests: list[dict[str, Any]], url: str, at_once: int, out: TextIO) -> None:
    places = asyncio.Semaphore(at_once)

    async with httpx.AsyncClient(timeout=60) as client:

        async def one(request: dict[str, Any]) -> None:
            async with places:
                await ask(client, url, request, out)

        await asyncio.gather(*map(one, requests))


def main(source: str, target: str, url: str, at_once: str) -> None:
    with Path(source).open(encoding="utf-8") as file:
        requests = [json.loads(line) for line in file]
    begun_s = time.process_time()
    with Path(target).open("w", encoding="utf-8") as out:
        asyncio.run(run(requests, url, int(at_once), out))
    print(json.dumps({"cpu_s": time.process_time() - begun_s}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
