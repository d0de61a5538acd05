"""Programs that submit over HTTP as users do: each post has an idempotency key and is repeated until taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import httpx

from tests.chaos.ground import KEY, Ground


@dataclass(frozen=True, slots=True)
class Posted:
    """One answer, or none (status 0). `took_s` by this process's clock."""

    status: int
    took_s: float
    at: float


class Poster:
    """`answers` are all it got, in order. Thread-safe: each thread has a connection of its own."""

    def __init__(self, ground: Ground, port: int, *, patience_s: float = 10.0) -> None:
        self._ground = ground
        self._url = f"http://127.0.0.1:{port}"
        self._patience_s = patience_s
        self._local = threading.local()
        self._lock = threading.Lock()
        self._clients: list[httpx.Client] = []
        self.answers: list[Posted] = []
        self.gave_up = 0
        self.acknowledged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()

    def one(self) -> None:
        """Post one interactive job until it is taken."""
        (prompt,) = self._ground.prompts(1)
        self._until_taken("/v1/jobs", {"input": {"prompt": prompt}}, [prompt])

    def many(self, count: int) -> None:
        """Post a page of batch jobs until it is taken."""
        prompts = self._ground.prompts(count)
        self._until_taken("/v1/jobs/bulk", {"jobs": [{"input": {"prompt": p}} for p in prompts]}, prompts)

    def _until_taken(self, path: str, body: Any, prompts: Sequence[str]) -> None:
        for prompt in prompts:
            self._ground.client.tell("submit-sent", prompt=prompt)
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at:
            answer = self._post(path, body, prompts[0])
            if answer is not None and answer.status_code in (200, 202):
                told = answer.json()
                made = told.get("data", [told])
                for prompt, job in zip(prompts, made, strict=True):
                    self._ground.client.tell("submit-ok", prompt=prompt, job=job["id"])
                with self._lock:
                    self.acknowledged += len(prompts)
                return
            self._ground.client.tell(
                "submit-refused", prompt=prompts[0], status=answer.status_code if answer is not None else 0
            )
            time.sleep(0.1)
        with self._lock:
            self.gave_up += 1

    def _post(self, path: str, body: Any, key: str) -> httpx.Response | None:
        client = self._client()
        began = time.monotonic()
        answer = None
        with suppress(httpx.HTTPError):
            answer = client.post(path, json=body, headers={"Idempotency-Key": key})
        told = Posted(answer.status_code if answer is not None else 0, time.monotonic() - began, time.time())
        with self._lock:
            self.answers.append(told)
        return answer

    def _client(self) -> httpx.Client:
        if not hasattr(self._local, "client"):
            headers = {"Authorization": f"Bearer {KEY}"}
            self._local.client = httpx.Client(
                base_url=self._url, headers=headers, timeout=self._patience_s, trust_env=False
            )
            with self._lock:
                self._clients.append(self._local.client)
        client: httpx.Client = self._local.client
        return client


def quantile(values: Sequence[float], share: float) -> float:
    """0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
