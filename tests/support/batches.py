"""Batches as a user of the official client makes them: files of lines, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import openai

from tests.support.wait import wait_until

FINAL: Final = {"completed", "failed", "expired", "cancelled"}
CHAT: Final = "/v1/chat/completions"


def line(number: int, *, prompt: str | None = None, **rest: Any) -> dict[str, Any]:
    """One request; `rest` goes into its body."""
    said = f"question {number}" if prompt is None else prompt
    body = {"model": "default", "messages": [{"role": "user", "content": said}], **rest}
    return {"custom_id": f"request-{number}", "method": "POST", "url": CHAT, "body": body}


def jsonl(lines: Iterable[Mapping[str, Any] | str]) -> bytes:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines).encode()


def uploaded(client: openai.OpenAI, content: bytes) -> str:
    return client.files.create(file=("batch.jsonl", content), purpose="batch").id


def made(client: openai.OpenAI, content: bytes, **rest: Any) -> Any:
    """A batch of this content, just created."""
    asked = {"endpoint": CHAT, "completion_window": "24h", **rest}
    return client.batches.create(input_file_id=uploaded(client, content), **asked)


def until(client: openai.OpenAI, batch_id: str, *wanted: str, within_s: float = 30.0) -> Any:
    """The batch, once it is in one of these states; without any: final."""
    states = set(wanted) or FINAL

    def there() -> Any:
        found = client.batches.retrieve(batch_id)
        assert found.status in states or found.status not in FINAL, found
        return found if found.status in states else None

    return wait_until(there, f"{batch_id} to be {' or '.join(sorted(states))}", within_s, every_s=0.05)


def content(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; none where there is no file."""
    if file_id is None:
        return []
    text = client.files.content(file_id).text
    assert text.endswith("\n")
    return [json.loads(one) for one in text.splitlines()]


def both(client: openai.OpenAI, batch: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of the output file and of the error file."""
    return content(client, batch.output_file_id), content(client, batch.error_file_id)
