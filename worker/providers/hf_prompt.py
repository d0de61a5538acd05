"""A conversation, or a prompt, as a generator behind `inputs` takes it: text, and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from worker.domain.answer import Call, Json
from worker.providers.format import Unfit
from worker.providers.portable import Turn, text_in, text_of, turns_of

_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_BETWEEN: Final = "\n\n"  # what parts the instruction from the question where no template does


@contextlib.contextmanager
def unfit_for(format_name: str) -> Iterator[None]:
    """Makes a sentence of the Unfit raised inside, which only says what is not taken."""
    try:
        yield
    except Unfit as unfit:
        raise Unfit(f"format {format_name} {unfit}") from None


def chat_of(call: Call) -> list[dict[str, str]]:
    """The messages as plain `{role, content}`. Raises Unfit for what is no text: images, tools."""
    turns = turns_of(call.input)
    if not turns:
        raise Unfit("needs a prompt or messages")
    return [_plain(turn) for turn in turns]


def prompt_of(call: Call) -> str:
    """One text: the prompt, or instructions and one question. A template for more would be the model's own.

    Raises Unfit for a longer conversation.
    """
    chat = chat_of(call)
    if chat[-1]["role"] != "user" or any(turn["role"] != "system" for turn in chat[:-1]):
        raise Unfit("takes one prompt, and this is a conversation")
    return _BETWEEN.join(turn["content"] for turn in chat)


def task_inputs(call: Call) -> Json:
    """What a task works on: `inputs` in the task's own shape, else the prompt. Raises Unfit."""
    return call.input["inputs"] if "inputs" in call.input else prompt_of(call)


def _plain(turn: Turn) -> dict[str, str]:
    if turn.role not in _ROLES or turn.calls:
        raise Unfit("takes text, and no turns of tools")
    for part in turn.parts:
        if text_in(part) is None:
            raise Unfit(f"takes text, not {part.get('type')}")
    return {"role": _ROLES[turn.role], "content": text_of(turn)}
