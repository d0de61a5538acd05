"""`completar`: finds the command, runs it, and turns every fault into a sentence and an exit code.

Nothing heavy is imported before a command is chosen: `completar --help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NoReturn

import click

from api.cli.command import as_written
from api.cli.fault import CliFault, Exit
from api.cli.program import PROGRAM
from api.cli.screen import Screen, harmless
from worker.domain.release import RELEASE

HELP = """A durable queue for calls to language models.

  completar demo                            see it work: no key, no account needed
  completar up                              a server on this machine
  completar run "Why is the sky blue?"      one answer
  completar batch run in.jsonl -o out.jsonl

Exit codes: 0 done, 1 failed, 2 usage, 3 some lines failed, 4 configuration or key, 5 waited too long,
6 server unreachable, 130 interrupted.
"""

# name -> (where it is, what the list of commands says of it)
COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("api.cli.demo:demo", "200 requests through the real engine, with a summary."),
    "up": ("api.cli.up:up", "API and worker in one process, on this machine."),
    "run": ("api.cli.run:run", "One request: waits, and prints the answer."),
    "batch": ("api.cli.batch:batch", "Many requests from a file."),
    "predictions": ("api.cli.predictions:predictions", "Questions for a panel of models, and how good each was."),
    "jobs": ("api.cli.jobs:jobs", "Look at jobs, wait for them, cancel or retry them."),
    "webhooks": ("api.cli.webhooks:webhooks", "Tell programs of yours what becomes of jobs."),
    "dead-letters": ("api.cli.dead_letters:dead_letters", "Jobs that killed their workers or broke: look, run again."),
    "usage": ("api.cli.usage:usage", "Calls, tokens and cost."),
    "keys": ("api.cli.keys:keys", "Keys of the API."),
    "projects": ("api.cli.projects:projects", "Projects, and the limits of their queues."),
    "queue": ("api.cli.queue:queue", "What waits, and how much may."),
    "workers": ("api.cli.workers:workers", "Which worker processes live."),
    "providers": ("api.cli.providers:providers", "The providers that are configured."),
    "routes": ("api.cli.routes:routes", "The routes and their targets."),
    "plan": ("api.cli.plan:plan", "What would follow each kind of failure on a route."),
    "endpoints": ("api.cli.endpoints:endpoints", "Inference Endpoints of Hugging Face."),
    "config": ("api.cli.config:config", "Check the configuration."),
    "doctor": ("api.cli.doctor:doctor", "Check everything a server needs."),
    "db": ("api.cli.db:db", "The database's schema."),
}


class Root(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click's, but a mistyped command gets a suggestion."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - only for this message

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise click.UsageError(f"There is no command `{args[0]}`.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in COMMANDS.items()])


@click.group(
    cls=Root,
    help=as_written(HELP),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(RELEASE, message="completar %(version)s", help="The release, and nothing else.")
def root() -> None:
    pass


def main() -> NoReturn:
    for stream in (sys.stdout, sys.stderr):  # a pipe on Windows would have the code page of 1990
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    screen = Screen()
    try:
        code = root.main(prog_name=PROGRAM, obj=screen, standalone_mode=False)
    except CliFault as fault:
        code = _told(fault.message, fault.remedy, fault.code)
    except click.UsageError as fault:
        fault.show()
        code = Exit.USAGE
    except click.ClickException as fault:
        code = _told(fault.format_message(), None, Exit.USAGE)
    except (click.Abort, KeyboardInterrupt):
        code = Exit.INTERRUPTED
    except UnicodeEncodeError:
        odd = [word for word in sys.argv if not _is_text(word)]
        if screen.verbose or not odd:
            raise
        remedy = "Write it in a terminal whose encoding is UTF-8; a file is read with --encoding."
        code = _told(f"{repr(os.fsencode(odd[0]))[1:]} is not UTF-8.", remedy, Exit.USAGE)
    except OSError as fault:
        what = f"{fault.filename}: {fault.strerror}." if fault.filename else str(fault)
        remedy = "Look at the path and at who may write there; COMPLETAR_DATA_DIR names the data folder."
        code = _told(what, remedy if fault.filename else None, Exit.FAILED)
    except Exception as fault:
        if screen.verbose:
            raise
        code = _told(
            f"This should not have happened: {type(fault).__name__}: {str(fault)[:300]}",
            "It is a fault of Completar's own; --verbose shows where.",
            Exit.FAILED,
        )
    sys.exit(_flushed(code if isinstance(code, int) else Exit.OK))


def _is_text(word: str) -> bool:
    """Bytes of a command line that are no UTF-8 become lone surrogates."""
    return word.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in word)


def _told(message: str, remedy: str | None, code: Exit) -> Exit:
    click.echo(harmless(f"completar: {message}"), err=True)
    if remedy is not None:
        click.echo(harmless(remedy), err=True)
    return code


def _flushed(code: int) -> int:
    """A reader that has left is no fault worth a message."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    return code
