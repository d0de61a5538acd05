"""`completar run PROMPT`: one request, waited for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from api.cli.command import Command, as_json
from api.cli.fault import CliFault, Exit
from api.cli.jobs import ended_as, not_done, took_s, waited_for
from api.cli.program import PROGRAM
from api.cli.screen import Screen, seconds
from api.cli.server import Server, server
from worker import clock
from worker.domain.failure import Lane


@click.command(cls=Command)
@click.argument("prompt")
@click.option("--model", "-m", "models", multiple=True, help="Route or target; several are tried in this order.")
@click.option("--system", "-s", help="What the model is told about its part.")
@click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with a JSON Schema for the answer.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0), default=600.0, show_default=True, help="Seconds to wait."
)
@as_json("The whole job, as the API gives it.")
@click.pass_obj
def run(
    screen: Screen,
    prompt: str,
    models: tuple[str, ...],
    system: str | None,
    schema: Path | None,
    timeout_s: float,
    as_json: bool,
) -> Exit:
    """Ask, wait, and print the answer. `-` reads the prompt from stdin.

    For example:
      completar run "Why is the sky blue?"
      completar run "Name three rivers" --schema rivers.json --model groq
      cat letter.txt | completar run - --system "Summarise in one sentence."
    """
    body = _body(_stdin() if prompt == "-" else prompt, models, system, schema)
    until_s = clock.monotonic_s() + timeout_s
    with server(screen, works=frozenset({Lane.INTERACTIVE})) as at:
        made = at.client.post("/v1/jobs", body)  # not waited for here: whoever interrupts must know its id
        job_id = made.json()["id"]
        try:
            done = waited_for(at.client, made, until_s)
        except KeyboardInterrupt:
            _leave(screen, at, job_id)
            raise
        if done is None:
            not_done(screen, at.client, job_id, timeout_s)
            _leave(screen, at, job_id)
            return Exit.TIMED_OUT
        job = done.json()
        if as_json:
            screen.data(done.text)
        elif job["status"] == "completed":
            screen.data(_answer(job))
        screen.say(_served(job))
        return ended_as(screen, job)


def _stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise CliFault("The prompt on stdin is not UTF-8.", "Save it as UTF-8.", Exit.USAGE) from None


def _body(prompt: str, models: tuple[str, ...], system: str | None, schema: Path | None) -> dict[str, Any]:
    if not prompt.strip():
        raise CliFault("The prompt is empty.", "Write what is to be asked.", Exit.USAGE)
    turns = [{"role": "user", "content": prompt}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    body: dict[str, Any] = {"models": list(models) or ["default"], "input": {"messages": turns}}
    if schema is not None:
        try:
            body["output_schema"] = json.loads(schema.read_text(encoding="utf-8-sig"))
        except ValueError as fault:
            raise CliFault(f"{schema} holds no JSON: {fault}.", "Write a JSON Schema into it.", Exit.USAGE) from None
    return body


def _answer(job: dict[str, Any]) -> str:
    result = job["result"]
    if result["json"] is not None:
        return json.dumps(result["json"], ensure_ascii=False, indent=2)
    if result["text"] is None:
        return json.dumps(result["tool_calls"], ensure_ascii=False, indent=2)
    return str(result["text"])


def _served(job: dict[str, Any]) -> str:
    """Who answered, and what it took."""
    calls = "1 call" if job["attempts"] == 1 else f"{job['attempts']} calls"
    by = job["served_by"]
    who = "Nobody answered" if by is None else f"Served by {by['label']}, model {by['model']}"
    return f"{who}: {calls} in {seconds(took_s(job))}."


def _leave(screen: Screen, at: Server, job_id: str) -> None:
    """A server that lasts goes on with it. One of our own would pick it up at some later day, and spend money on it."""
    if at.lasts:
        screen.warn(f"The job goes on: {PROGRAM} jobs wait {job_id}")
        return
    screen.warn(
        "Cancelling: a call in flight has up to 10 s to end, so that its cost is on record; Ctrl-C stops at once."
    )
    at.client.post(f"/v1/jobs/{job_id}/cancel")
