"""The documentation says what the code does, and says it in both languages.

That its commands work is tests/e2e/test_readme.py's business.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click
import pytest

from api import preference
from api.app import OPERATIONS
from api.cli.fault import Exit
from api.cli.main import COMMANDS
from api.routes.completar import Question
from tests.support.acts import Act, NotPlain, Request, of_powershell, of_sh
from tests.support.pages import PAGES, Block, Page, every, page, twin
from tests.support.processes import ROOT, procfile
from tests.support.tables import COMMAND_TABLES, TABLES, current, leaves, sentences, spanish
from worker.domain.failure import BATCH, INTERACTIVE, FailureKind
from worker.domain.job import STARTS_MAX
from worker.domain.release import RELEASE
from worker.domain.route import Route
from worker.providers.presets import PRESETS
from worker.services.native.requests import CompletionJob
from worker.settings import environment_table
from worker.store import database

# For those who change Completar, not for those who use it.
ENGLISH_ONLY: Final = {"docs/architecture.md", "docs/performance.md"}
TYPED: Final = {"sh", "python", "powershell"}
MARKS: Final = {
    "sh": {"", "not run", "serves", "twin", "refused"},
    "python": {"", "receiver"},
    "js": {"receiver", "file"},
    "powershell": {"twin"},
    "json": {"", "answers", "file"},
    "toml": {"file"},
    "csv": {"file"},
    "text": {"prints", "not run"},
    "ini": {""},
}
WHAT_TO_DO: Final = {"en": "**What to do:** ", "es": "**Qué hacer:** "}
# Placeholders, and a server on the reader's own machine. Every other address comes from a table.
HOSTS: Final = {"127.0.0.1", "your-app.up.railway.app", "id.region.vendor.endpoints.huggingface.cloud"}
MODEL: Final = re.compile(
    r"\b(gpt-[\doq]|claude-|gemini-\d|kimi-k|llama-?\d|qwen\d|mi[sx]tral|o\d-mini|text-embedding-)", re.IGNORECASE
)

pages = pytest.mark.parametrize("read", every(), ids=lambda read: read.name)
pairs = pytest.mark.parametrize("name", PAGES)


def without_tables(read: Page) -> str:
    """What people wrote."""
    return re.sub(r"<!-- table: .*?<!-- end of table -->", "", read.text, flags=re.DOTALL)


# -- two languages ------------------------------------------------------------------------------------------------


def test_every_page_for_users_is_there_twice() -> None:
    english = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    spanish = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "es").glob("*.md")}
    assert english - ENGLISH_ONLY == set(PAGES) - {"README.md"}
    assert spanish == {twin(name) for name in PAGES} - {"README.es.md"}


@pairs
def test_both_languages_have_the_same_headings_and_tables(name: str) -> None:
    english, spanish = page(name), page(twin(name))
    assert [level for level, _ in english.headings] == [level for level, _ in spanish.headings]
    assert english.prose.count("\n|") == spanish.prose.count("\n|")
    assert english.prose.count("\n- ") == spanish.prose.count("\n- ")


@pairs
def test_both_languages_have_the_same_blocks(name: str) -> None:
    english, spanish = page(name).blocks, page(twin(name)).blocks
    assert len(english) == len(spanish)
    for one, other in zip(english, spanish, strict=True):
        assert (one.language, one.mark, one.said) == (other.language, other.mark, other.said), other.where
        assert one.bare == other.bare, other.where


@pairs
def test_both_languages_link_to_the_same_things(name: str) -> None:
    def targets(read: Page) -> list[str]:
        places = [link.target.partition("#")[0] for link in read.links if link.target.partition("#")[0]]
        found = [(read.path.parent / place).resolve().relative_to(ROOT).as_posix() for place in places]
        return sorted(place.replace("docs/es/", "docs/").replace("README.es.md", "README.md") for place in found)

    assert Counter(targets(page(name))) == Counter(targets(page(twin(name))))


def test_the_figure_differs_in_its_words_only() -> None:
    def drawn(name: str) -> str:
        return re.sub(r">[^<]+<", "><", (ROOT / name).read_text(encoding="utf-8"))

    assert drawn("docs/how-it-works.svg") == drawn("docs/es/how-it-works.svg")


# -- what is made from code ---------------------------------------------------------------------------------------


@pages
def test_the_tables_of_a_page_are_current(read: Page) -> None:
    assert read.text == current(read), "write them anew: .venv/bin/python -m tests.support.tables"


@pytest.mark.parametrize("language", ["en", "es"])
def test_every_table_is_shown_once(language: str) -> None:
    text = "".join(read.text for read in every() if read.language == language)
    assert Counter(re.findall(r"<!-- table: (\w+) -->", text)) == Counter(dict.fromkeys(TABLES, 1))


def test_every_sentence_of_a_table_is_translated_and_no_other() -> None:
    assert spanish().keys() == sentences()


@pytest.mark.parametrize("name", ["docs/errors.md", "docs/es/errors.md"])
def test_every_kind_of_failure_is_explained_with_what_to_do(name: str) -> None:
    read = page(name)
    told = [text.strip("`") for level, text in read.headings if level == 3]
    assert told == [kind.value for kind in FailureKind]
    for kind in FailureKind:
        meaning, _, remedy = read.section(f"`{kind}`").partition(WHAT_TO_DO[read.language])
        assert meaning.strip(), kind
        assert remedy.strip(), kind


def test_what_errors_says_of_counting_holds() -> None:
    free = {kind for kind in FailureKind if INTERACTIVE[kind].free or BATCH[kind].free}
    told = {
        *(FailureKind.RATE_LIMIT, FailureKind.QUOTA, FailureKind.AUTH, FailureKind.PERMISSION),
        *(FailureKind.LOADING, FailureKind.INTERRUPTED),
    }
    assert free == told
    assert STARTS_MAX == 3, "errors.md says three times"
    (most,) = (field.default for field in fields(Route) if field.name == "max_attempts")
    assert f"`max_attempts` calls ({most} " in page("docs/errors.md").text


@pytest.mark.parametrize("name", ["docs/errors.md", "docs/es/errors.md"])
def test_the_exit_codes_are_those_of_the_command(name: str) -> None:
    assert [row[0] for row in page(name).rows(-1)] == [str(code.value) for code in Exit]


def test_every_command_is_in_one_table_and_its_variables_are_declared() -> None:
    assert Counter(name for names in COMMAND_TABLES.values() for name in names) == Counter(dict.fromkeys(COMMANDS, 1))
    read = {
        option.envvar
        for name in COMMANDS
        for _, command in leaves(name)
        for option in command.params
        if option.envvar is not None
    }
    assert read
    assert read <= {row.name for row in environment_table()}


@pytest.mark.parametrize("name", ["docs/cli.md", "docs/es/cli.md"])
def test_the_command_line_tells_every_option(name: str) -> None:
    text = page(name).text
    for command in COMMANDS:
        for context, leaf in leaves(command):
            assert f"| `{context.info_name}" in text
            for option in leaf.params:
                if isinstance(option, click.Option) and not option.hidden:
                    assert f"`{option.opts[0]}`" in text, (context.info_name, option.opts)


@pytest.mark.parametrize("name", ["docs/api.md", "docs/es/api.md"])
def test_the_fields_of_a_request_are_those_that_are_read(name: str) -> None:
    read = page(name)
    assert {row[0].strip("`") for row in read.rows(1)} == set(CompletionJob.model_fields)
    assert set(Question.model_fields) <= set(re.findall(r"`(\w+)`", read.section("POST /completar")))


@pytest.mark.parametrize("name", ["docs/api.md", "docs/es/api.md"])
def test_the_operations_that_take_an_idempotency_key_are_named(name: str) -> None:
    title = "The same request twice" if name == "docs/api.md" else "La misma petición dos veces"
    told, _, without = page(name).section(title).partition("\n- ")[2].partition("\n- ")
    takes = {
        one.path: one.method for one in OPERATIONS if one.method == "POST" and preference.IDEMPOTENCY_KEY in one.headers
    }
    assert set(re.findall(r"`(/[^`]+)`", told)) == set(takes)
    refused = set(re.findall(r"`(/[^`]+)`", without))
    assert refused
    assert refused.isdisjoint(takes)
    assert refused <= {one.path for one in OPERATIONS}


def test_every_decision_is_in_the_list_and_has_a_plain_title() -> None:
    listed = dict(
        re.findall(r"^- \[(.+?)\]\((\d{4}-[a-z-]+\.md)\)$", page("docs/decisions/README.md").text, re.MULTILINE)
    )
    there = {}
    for path in sorted((ROOT / "docs" / "decisions").glob("0*.md")):
        title, blank, date = path.read_text(encoding="utf-8").split("\n")[:3]
        assert re.fullmatch(r"# [^\d].*[^.]", title), path.name
        assert (blank, re.fullmatch(r"\d{4}-\d\d-\d\d", date) is None) == ("", False), path.name
        there[title.removeprefix("# ")] = path.name
    assert list(listed.items()) == list(there.items())


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_every_page_is_linked_from_the_readmes_first_lines(name: str) -> None:
    start = page(name).text.partition("\n## ")[0]
    read = page(name)
    wanted = {(twin(each) if read.language == "es" else each) for each in PAGES} - {"README.md", "README.es.md"}
    assert wanted <= {link.target for link in read.links if f"]({link.target})" in start}


@pytest.mark.parametrize("name", ["README.md", "README.es.md"])
def test_the_readme_shows_the_procfile(name: str) -> None:
    shown = [block.text for block in page(name).blocks if block.text.startswith("release: ")]
    assert shown == ["".join(f"{process}: {command}\n" for process, command in procfile().items())]


@pytest.mark.parametrize("name", ["docs/deploy-railway.md", "docs/es/deploy-railway.md"])
def test_the_deploy_guide_starts_what_the_procfile_starts(name: str) -> None:
    read = page(name)
    for process, setting in (("web", "Start"), ("worker", "Start"), ("release", "Pre-deploy")):
        assert f"| {setting} command | `{procfile()[process]}` |" in read.prose
    (block,) = (block for block in read.blocks if block.language == "ini")
    given = dict(line.split("=", 1) for line in block.text.splitlines())
    draining = float(given.pop("RAILWAY_DEPLOYMENT_DRAINING_SECONDS"))
    assert given.keys() <= {row.name for row in environment_table()}
    assert draining > 30 + 1, "gunicorn's graceful_timeout"
    assert draining > float(given["DRAIN_S"]) + 1
    assert re.search(r"stands still for 10 seconds|parada 10 segundos", read.text)
    assert "idle_in_transaction_session_timeout=10000" in Path(database.__file__).read_text(encoding="utf-8")


def test_the_newest_change_is_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", text, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert newest is not None
    assert newest[1] == project == RELEASE


# -- blocks -------------------------------------------------------------------------------------------------------


@pages
def test_every_block_is_run_or_says_why_not(read: Page) -> None:
    for block in read.blocks:
        assert block.mark in MARKS[block.language], block.where
        if block.mark in {"not run", "file", "twin", "receiver"}:
            assert block.said, f"{block.where}: the mark says too little"
        if block.language == "json":
            for text in block.text.splitlines() if block.mark == "file" else [block.text]:
                json.loads(text)


def acts(block: Block) -> list[Act]:
    return of_sh(block.text) if block.language == "sh" else of_powershell(block.text)


@pages
def test_powershell_does_what_curl_does(read: Page) -> None:
    twins: dict[str, dict[str, list[Act]]] = {}
    for block in read.blocks:
        if block.mark == "twin":
            assert block.language not in twins.setdefault(block.said, {}), block.where
            twins[block.said][block.language] = acts(block)
    for name, both in twins.items():
        assert both.keys() == {"sh", "powershell"}, name
        assert both["sh"] == both["powershell"], name


CURL: Final = """curl "$COMPLETAR_URL/v1/jobs" \\
  -H "Authorization: Bearer $COMPLETAR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"a": [1, "é"]}'
"""
POWERSHELL: Final = """$all = @{ Authorization = "Bearer $env:COMPLETAR_API_KEY" }
$b = @'
{"a": [1, "é"]}
'@
Invoke-RestMethod "$env:COMPLETAR_URL/v1/jobs" -Method Post -Headers $all -Body $b -ContentType "application/json"
"""


def test_the_comparison_sees_url_method_headers_and_body() -> None:
    (request,) = of_sh(CURL)
    assert isinstance(request, Request)
    assert request == replace(request, url="{COMPLETAR_URL}/v1/jobs", method="POST", body={"a": [1, "é"]})
    assert request.headers == {"authorization": "Bearer {COMPLETAR_API_KEY}", "content-type": "application/json"}
    assert of_powershell(POWERSHELL) == [request]
    for old, new in (("/v1/jobs", "/v1/job"), ("Post", "Put"), ("Authorization", "Prefer"), ("1,", "2,")):
        assert of_powershell(POWERSHELL.replace(old, new)) != [request], new


@pytest.mark.parametrize("text", ["Get-Item x", "$h = @{ A = $b }", "foreach ($a in $b) { }"])
def test_powershell_that_cannot_be_compared_is_not_taken_for_good(text: str) -> None:
    with pytest.raises(NotPlain):
        of_powershell(text)


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read", [*every(), *(page(name) for name in (*sorted(ENGLISH_ONLY), "CHANGELOG.md"))], ids=lambda read: read.name
)
def test_every_link_leads_somewhere(read: Page) -> None:
    for link in read.links:
        place, _, anchor = link.target.partition("#")
        path = (read.path.parent / place).resolve() if place else read.path
        assert path.exists(), link.target
        if anchor:
            assert anchor in page(path.relative_to(ROOT).as_posix()).anchors, link.target
        assert link.text.strip(), f"{link.target} has no text, or no words for those who cannot see it"


@pages
def test_models_are_named_in_tables_only(read: Page) -> None:
    assert MODEL.findall(without_tables(read)) == []
    known = {model for preset in PRESETS.values() for model in preset.models}
    assert all(MODEL.search(model) for model in known), "the pattern finds every model we know"


@pages
def test_no_address_and_no_path_is_anybodys_own(read: Page) -> None:
    hosts = {(urlsplit(url).hostname or "").rstrip(".") for url in re.findall(r"https?://[^\s`\"')]+", read.text)}
    known = {urlsplit(preset.base_url or "").hostname for preset in PRESETS.values()}
    assert hosts <= HOSTS | known
    assert re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|var|opt)/\S*", read.text) == []
