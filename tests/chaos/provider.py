"""A provider that keeps books: every request and every answer is a line in its ledger, and no two answers are alike.

    python -m tests.chaos.provider LEDGER SEED     prints its port and serves until SIGTERM

Any path ending in /chat/completions is a call; what stands before `/v1` names the provider it is for, so that one
process plays several. `POST /plan` says how one of them behaves from the next request on; `GET /flush` brings the
ledger to the disk and tells how many calls are open.

What becomes of a request depends on the seed, its prompt and how often that prompt was asked, not on the order in which
requests come: a campaign that is run again meets the same answers, tokens, latencies and refusals.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TextIO, cast

import uvloop

_END: Final = b"\r\n\r\n"
FLUSH_S: Final = 0.2


@dataclass(slots=True)
class Plan:
    """How one provider behaves.

    mode            answer | refuse (with `status`) | hang (for ever) | drop (reset the connection)
    low_s, high_s   how long an answer takes
    refusals        share of the requests that is refused with `status` although the mode is `answer`
    rps, tpm        limits it enforces, None: none; what is above them is a 429
    burst_s         so many seconds' worth of both may come at once
    input, output   tokens of an answer: a draw between half of it and one and a half
    """

    mode: str = "answer"
    low_s: float = 0.0
    high_s: float = 0.0
    status: int = 503
    refusals: float = 0.0
    rps: float | None = None
    tpm: float | None = None
    burst_s: float = 1.0
    input: int = 40
    output: int = 20


@dataclass(slots=True)
class Limit:
    """A token bucket: so many units a second, and `burst_s` of them at once after a rest."""

    per_s: float
    burst_s: float
    earned_at: float = 0.0  # when all that was granted will have been earned

    def wait_s(self, now: float) -> float:
        """0: there is room."""
        return max(0.0, self.earned_at - now - self.burst_s)

    def take(self, now: float, units: float) -> None:
        self.earned_at = max(self.earned_at, now) + units / self.per_s


class Provider:
    def __init__(self, ledger: TextIO, seed: str) -> None:
        self._ledger = ledger
        self._seed = seed
        self._asked: Counter[str] = Counter()
        self._plans: dict[str, Plan] = {}
        self._limits: dict[str, tuple[Limit | None, Limit | None]] = {}
        self._n = 0
        self.open = 0

    def plan(self, name: str, told: dict[str, Any]) -> None:
        plan = self._plans.setdefault(name, Plan())
        known = {one.name for one in fields(Plan)}
        for key, value in told.items():
            assert key in known, f"a plan has no {key}"
            setattr(plan, key, value)
        self._limits[name] = (
            Limit(plan.rps, plan.burst_s) if plan.rps is not None else None,
            Limit(plan.tpm / 60, plan.burst_s) if plan.tpm is not None else None,
        )

    def tell(self, what: str, **of: Any) -> None:
        self._ledger.write(json.dumps({"what": what, "at": time.time(), **of}) + "\n")

    def call(self, caller: Caller, name: str, body: bytes) -> None:
        asked = json.loads(body)
        prompt = asked["messages"][-1]["content"]
        self._n += 1
        self._asked[prompt] += 1
        n, plan = self._n, self._plans.get(name) or Plan()
        chance = random.Random(f"{self._seed} {prompt} {self._asked[prompt]}")
        self.tell("send", n=n, prompt=prompt, provider=name)
        tokens = [int(mean * chance.uniform(0.5, 1.5)) for mean in (plan.input, plan.output)]
        hold_s = chance.uniform(plan.low_s, plan.high_s)
        self.open += 1
        caller.busy = n
        refusal = self._over(name, sum(tokens))
        if refusal is not None:
            self._reply(caller, n, 429, {"error": {"message": "too fast", "code": "rate_limit_exceeded"}}, refusal)
        elif plan.mode == "drop":
            caller.transport.abort()
        elif plan.mode == "hang":
            return
        elif plan.mode == "refuse" or chance.random() < plan.refusals:
            fault = {"error": {"message": "out of order", "type": "server_error"}}
            asyncio.get_running_loop().call_later(hold_s, self._reply, caller, n, plan.status, fault)
        else:
            text = f"answer {n} to {prompt}"
            answer = _completion(text, asked.get("model", ""), tokens[0], tokens[1])
            asyncio.get_running_loop().call_later(hold_s, self._reply, caller, n, 200, answer)

    def gone(self, n: int) -> None:
        self.open -= 1
        self.tell("gone", n=n)

    def flush(self) -> dict[str, int]:
        self._ledger.flush()
        return {"open": self.open, "calls": self._n}

    def _over(self, name: str, tokens: int) -> float | None:
        """The wait to ask for when a limit is used up; else the call is counted."""
        now = time.monotonic()
        requests, spent = self._limits.get(name, (None, None))
        wait_s = max((limit.wait_s(now) for limit in (requests, spent) if limit is not None), default=0.0)
        if wait_s > 0.0:
            return wait_s
        if requests is not None:
            requests.take(now, 1)
        if spent is not None:
            spent.take(now, tokens)
        return None

    def _reply(self, caller: Caller, n: int, status: int, body: Any, wait_s: float | None = None) -> None:
        if caller.busy != n:
            return  # its caller has left, and that is in the ledger
        caller.busy = 0
        self.open -= 1
        if status == 200:
            used = body["usage"]
            text = body["choices"][0]["message"]["content"]
            self.tell("answer", n=n, text=text, input=used["prompt_tokens"], output=used["completion_tokens"])
        else:
            self.tell("refusal", n=n, status=status)
        more = f"retry-after-ms: {int(wait_s * 1000) + 1}\r\n" if wait_s is not None else ""
        caller.send(status, body, f"x-request-id: req-{n}\r\n{more}")


def _completion(text: str, model: str, given: int, made: int) -> dict[str, Any]:
    return {
        "id": "chatcmpl-chaos",
        "object": "chat.completion",
        "created": 1767225600,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made},
    }


class Caller(asyncio.Protocol):
    """One connection; one request at a time on it. `busy` is the number of the open call, 0 where there is none."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._rest = b""
        self.busy = 0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._provider.gone(self.busy)
            self.busy = 0

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        end = data.find(_END)
        if end < 0:
            self._rest = data
            return
        head = data[:end].decode("latin-1")
        length = next(
            (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")),
            0,
        )
        if len(data) < end + 4 + length:
            self._rest = data
            return
        self._rest = b""
        method, path, _ = head.split(" ", 2)
        body = data[end + 4 : end + 4 + length]
        if path.endswith("/chat/completions"):
            self._provider.call(self, path.split("/")[1], body)
        elif path == "/plan":
            told = json.loads(body)
            self._provider.plan(told.pop("provider"), told)
            self.send(200, {})
        elif path == "/flush":
            self.send(200, self._provider.flush())
        else:
            self.send(404, {"error": f"no {method} {path} here"})

    def send(self, status: int, body: Any, more: str = "") -> None:
        content = json.dumps(body)
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n{more}\r\n"
        self.transport.write((head + content).encode("ascii"))


async def _serve(ledger: Path, seed: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    with ledger.open("a", encoding="utf-8") as file:
        provider = Provider(file, seed)
        server = await loop.create_server(lambda: Caller(provider), "127.0.0.1", 0, backlog=4096)
        print(f"serving on port {server.sockets[0].getsockname()[1]}", flush=True)
        while not stop.is_set():
            provider.flush()
            await asyncio.sleep(FLUSH_S)


if __name__ == "__main__":
    uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2]))
