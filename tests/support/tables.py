"""The tables of the documentation, made from the code they tell of.

`.venv/bin/python -m tests.support.tables` writes them anew.

A page holds one between `<!-- table: NAME -->` and `<!-- end of table -->`. Sentences are English, as the code says
them; `tables.es.toml` has each of them in Spanish, so one that changes must be translated before a Spanish page is
current again.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Final

import click
from pydantic import TypeAdapter

from api.app import OPERATIONS
from api.cli.main import root
from api.fields import Metadata
from api.preference import LONGEST_WAIT_S
from api.problems import FAILED, SORTS
from api.routes.job_events import LONGEST_S as LONGEST_STREAM_S
from api.routes.jobs import MAX_BULK
from tests.support.pages import Language, Page, every
from worker.domain.failure import BATCH, INTERACTIVE, RETRYABLE, Aside, FailureKind, Pause, Rule, Then
from worker.domain.job import STARTS_MAX
from worker.providers.formats import FORMATS
from worker.providers.presets import PRESETS
from worker.providers.sandbox import MODELS
from worker.services.openai.portable import MAX_INPUTS, MAX_MESSAGES
from worker.services.openai.reading import MAX_DEPTH
from worker.settings import PriceConfig, Settings, environment_table

Row = tuple[str, ...]
Say = Callable[[str], str]

_SPANISH: Final = Path(__file__).with_name("tables.es.toml")
_TABLE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


class Untranslated(LookupError):
    def __init__(self, sentence: str) -> None:
        super().__init__(f"{_SPANISH.name} lacks {sentence!r}")


@cache
def spanish() -> Mapping[str, str]:
    """English sentence -> the same in Spanish."""
    return tomllib.loads(_SPANISH.read_text(encoding="utf-8"))


def _in_spanish(sentence: str) -> str:
    try:
        return str(spanish()[sentence])
    except KeyError:
        raise Untranslated(sentence) from None


def _in_english(sentence: str) -> str:
    return sentence


def sayer(language: Language) -> Say:
    return _in_spanish if language == "es" else _in_english


# -- the tables ---------------------------------------------------------------------------------------------------


def _environment(say: Say) -> Iterator[Row]:
    yield "Variable", "Default", "Meaning"
    for row in environment_table():
        default = "" if row.default == "" else f"`{row.default}`" if " " not in row.default else say(row.default)
        yield f"`{row.name}`", default, say(row.meaning)


def _providers(say: Say) -> Iterator[Row]:
    yield "Provider", "Exists with", "Model it stands for", "Address"
    for name, preset in PRESETS.items():
        keys = f" {say('or')} ".join(f"`{key}`" for key in preset.api_keys or ())
        yield f"`{name}`", keys, f"`{preset.default_model}`", f"`{preset.base_url}`"


def _models(say: Say) -> Iterator[Row]:
    yield "Target", "Context window", "Takes", "Dollars per million tokens: in / cached / out"
    for name, preset in PRESETS.items():
        for model, known in preset.models.items():
            takes = known.takes if known.takes is not None else preset.takes or frozenset()
            window = say("not known") if known.window is None else f"{known.window:,}"
            yield f"`{name}/{model}`", window, ", ".join(sorted(takes)), _price(known.price, say)


def _price(price: PriceConfig | None, say: Say) -> str:
    if price is None:
        return say("not known")
    cached = "-" if price.cached_input is None else str(price.cached_input)
    return f"{price.input} / {cached} / {price.output}"


def _failures(say: Say) -> Iterator[Row]:
    yield "Kind", "What follows", "On the batch lane, where it differs", "`retryable`", "Status"
    for kind in FailureKind:
        usual, batch = (told(kind, rule, say) for rule in (INTERACTIVE[kind], BATCH[kind]))
        again = say("yes") if kind in RETRYABLE else say("no")
        anchor = f"[`{kind}`](#{kind})"
        yield anchor, usual, "" if batch == usual else batch, again, str(FAILED[kind].status)


def told(kind: FailureKind, rule: Rule, say: Say) -> str:
    """A rule in words."""
    if kind is FailureKind.INTERRUPTED:
        return say("asked again; after {n} deaths the job fails").format(n=STARTS_MAX)
    if kind is FailureKind.SCHEMA_MISMATCH and rule.retries == 1:
        return f"{say('one turn to mend it')}; {say(_THEN[rule.then, rule.aside])}"
    if rule.spread:
        return f"{say('next key of another account, at once')}; {say('none left')}: {_told(rule, say)}"
    return _told(rule, say)


def _told(rule: Rule, say: Say) -> str:
    if not rule.in_place:
        return say(_PATIENT[rule.pause])
    last = say(_THEN[rule.then, rule.aside])
    if rule.retries:
        again = _ONCE if rule.retries == 1 else _AGAIN
        return f"{say(again[rule.pause]).format(n=rule.retries)}; {last}"
    if rule.pause is Pause.COLD_START:
        return f"{last}; {say('none left: waits up to `cold_start_s`')}"
    if rule.aside is Aside.ACCOUNT or (rule.aside is Aside.KEY and not rule.lasting):
        return f"{last}; {say('none left: waits and looks again')}"
    return last


_THEN: Final[Mapping[tuple[Then, Aside], str]] = {
    (Then.NEXT, Aside.TARGET): "next target",
    (Then.NEXT, Aside.KEY): "next key of the provider, then next target",
    (Then.NEXT, Aside.ACCOUNT): "next target, of another account",
    (Then.NEXT, Aside.NARROWER): "next target, with a larger window",
    (Then.FAIL, Aside.TARGET): "the job fails",
    (Then.END, Aside.TARGET): "the job ends",
}
_ONCE: Final[Mapping[Pause, str]] = {
    Pause.BACKOFF: "asked once more after a short wait, or the one it names if that is within `max_wait_s`"
}
_AGAIN: Final[Mapping[Pause, str]] = {
    Pause.HINT: "asked again up to {n} times after the wait it names, if that is within `max_wait_s`",
    Pause.BACKOFF: "asked again up to {n} times, after a longer wait each time, or the one it names if that is within "
    "`max_wait_s`",
}
_PATIENT: Final[Mapping[Pause, str]] = {
    Pause.HINT: "waits for this target, however long",
    Pause.COLD_START: "waits for this target, up to `cold_start_s`",
}


def _problems(say: Say) -> Iterator[Row]:
    yield "`type`", "Status", "As OpenAI's clients see it", "Meaning"
    for sort in SORTS:
        status, kind, code = sort.openai
        seen = ", ".join(f"`{word}`" for word in (kind, code) if word)
        yield (
            f"`/docs#{sort.slug}`",
            str(sort.status),
            f"{status} {seen}",
            sort.es if say is _in_spanish else sort.title,
        )


def _endpoints(say: Say) -> Iterator[Row]:
    yield "Endpoint", "What it does", "Scope of the key"
    for one in OPERATIONS:
        scope = say("open") if one.scope is None else f"`{one.scope}`"
        yield f"`{one.method} {one.path}`", say(one.summary), scope


def _sandbox(say: Say) -> Iterator[Row]:
    yield "Model", "What it does"
    for name, does in MODELS.items():
        yield f"`sandbox/{name}`", say(does.replace("<", "\\<"))


_SPOKEN: Final[Mapping[str, str]] = {
    "openai": "OpenAI's chat and embeddings: Groq, Kimi, vLLM, SGLang, llama.cpp, TGI, most gateways",
    "openai-responses": "OpenAI's Responses",
    "anthropic": "Anthropic's Messages",
    "gemini": "Gemini's generateContent",
    "hf-openai": "an Inference Endpoint of Hugging Face whose engine speaks OpenAI's form; it may sleep",
    "hf-text-generation": "an Inference Endpoint's default handler (`inputs` and `parameters`), or TGI's `/generate`",
    "hf-text2text-generation": "the same, for models that turn one text into another",
    "hf-handler": "the same, where the task of the handler is not known",
    "hf-inference": "the tasks of Hugging Face's own provider, `hf-inference`",
    "tei": "Text Embeddings Inference: embeddings and ranking",
}


def _formats(say: Say) -> Iterator[Row]:
    yield "`format`", "Spoken by"
    for name in FORMATS:
        yield f"`{name}`", say(_SPOKEN[name])


def _limits(say: Say) -> Iterator[Row]:
    pairs = TypeAdapter(Metadata).json_schema()
    name, value = pairs["propertyNames"]["maxLength"], pairs["additionalProperties"]["maxLength"]
    body = Settings.model_fields["max_body_bytes"].default
    yield "What", "At most"
    for what, most in (
        ("Body of a request, in bytes (`COMPLETAR_MAX_BODY_BYTES`)", f"{body:,}"),
        ("Jobs in one bulk request", f"{MAX_BULK:,}"),
        ("Messages in one request", f"{MAX_MESSAGES:,}"),
        ("Inputs in one embedding", f"{MAX_INPUTS:,}"),
        ("Levels of nesting", f"{MAX_DEPTH}"),
        ("Pairs of metadata; characters of a name; of a value", f"{pairs['maxProperties']}; {name}; {value}"),
        ("Seconds that `Prefer: wait` and `?wait` wait", f"{LONGEST_WAIT_S}"),
        ("Seconds that a stream of events lasts", f"{LONGEST_STREAM_S:g}"),
    ):
        yield say(what), most


# -- the command line ---------------------------------------------------------------------------------------------

# Table -> the commands it tells of, each with those below it.
COMMAND_TABLES: Final[Mapping[str, Sequence[str]]] = {
    "cli_server": ("demo", "up", "doctor", "config", "db"),
    "cli_jobs": ("run", "jobs", "dead-letters"),
    "cli_batch": ("batch",),
    "cli_predictions": ("predictions",),
    "cli_webhooks": ("webhooks",),
    "cli_keys": ("keys", "projects"),
    "cli_state": ("queue", "workers", "usage"),
    "cli_providers": ("providers", "routes", "plan"),
    "cli_endpoints": ("endpoints",),
}
_EVERYWHERE: Final = ("quiet", "no_color", "verbose")
_CHOICES: Final = 6  # more are told by `--help`


def _options_everywhere(say: Say) -> Iterator[Row]:
    yield "Option", "Meaning"
    context, command = next(leaves("doctor"))
    for option in _options(command):
        if option.name in _EVERYWHERE:
            yield _option(option, context), _meaning(option, context, say)


def _commands(names: Sequence[str], say: Say) -> Iterator[Row]:
    yield "Command", "Option", "Meaning"
    for name in names:
        for context, command in leaves(name):
            arguments = (one.make_metavar(context) for one in command.params if isinstance(one, click.Argument))
            first = (command.help or "").partition("\n\n")[0].strip("\b\n")
            yield f"`{' '.join((context.info_name or '', *arguments))}`", "", _cell(say(" ".join(first.split())))
            for option in _options(command):
                if option.name not in _EVERYWHERE:
                    yield "", _option(option, context), _meaning(option, context, say)


def leaves(name: str) -> Iterator[tuple[click.Context, click.Command]]:
    """The command of this name, or those below it, in the order of `--help`, each as it is typed."""
    top = click.Context(root)
    command = root.get_command(top, name)
    assert command is not None, name
    if not isinstance(command, click.Group):
        yield click.Context(command, info_name=name), command
        return
    for below in command.list_commands(top):
        leaf = command.get_command(top, below)
        assert leaf is not None
        yield click.Context(leaf, info_name=f"{name} {below}"), leaf


def _options(command: click.Command) -> Iterator[click.Option]:
    yield from (one for one in command.params if isinstance(one, click.Option) and not one.hidden)


def _option(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    if option.metavar is None and isinstance(option.type, click.Choice):
        choices = option.type.choices
        return f"{names} {', '.join(f'`{one}`' for one in choices)}" if len(choices) <= _CHOICES else f"{names} `NAME`"
    return f"{names} `{option.make_metavar(context).removesuffix(' RANGE')}`"


def _meaning(option: click.Option, context: click.Context, say: Say) -> str:
    extra = option.get_help_extra(context)
    more = [f"`{name}`" for name in extra.get("envvars", ())]
    if "default" in extra:
        more.append(f"{say('default')} `{extra['default']}`")
    if "range" in extra:
        more.append(f"`{extra['range']}`")
    if "required" in extra:
        more.append(say("required"))
    said = _cell(say(option.help)) if option.help else ""
    return f"{said} ({'; '.join(more)})".lstrip() if more else said


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


TABLES: Final[Mapping[str, Callable[[Say], Iterable[Row]]]] = {
    "environment": _environment,
    "providers": _providers,
    "models": _models,
    "failures": _failures,
    "problems": _problems,
    "endpoints": _endpoints,
    "sandbox": _sandbox,
    "limits": _limits,
    "formats": _formats,
    "cli_options": _options_everywhere,
    **{name: partial(_commands, commands) for name, commands in COMMAND_TABLES.items()},
}


# -- in a page ----------------------------------------------------------------------------------------------------


def table(name: str, language: Language) -> str:
    """As Markdown."""
    say = sayer(language)
    head, *rows = TABLES[name](say)
    lines = [tuple(map(say, head)), tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def current(page: Page) -> str:
    """The page's text with every table as it should be."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(found[2], page.language)}{found[3]}", page.text)


def sentences() -> set[str]:
    """Every sentence that the Spanish tables need."""
    found: set[str] = set()

    def noted(sentence: str) -> str:
        found.add(sentence)
        return sentence

    for made in TABLES.values():
        head, *_ = made(noted)
        found.update(head)
    return found


if __name__ == "__main__":
    for each in every():
        each.path.write_text(current(each), encoding="utf-8", newline="\n")
