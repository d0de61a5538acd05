"""A page for each provider, in two languages, that says what the code knows.

What docs/providers.md and its like say is tests/contract/test_docs.py's business.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

import pytest

from tests.contract.test_docs import MODEL, acts
from tests.support.pages import Page, page, twin
from tests.support.processes import ROOT
from worker.domain.failure import FailureKind
from worker.providers.catalog import check
from worker.providers.presets import PRESETS

OWN: Final = "own-server"
NAMES: Final = (*PRESETS, OWN)
ENGLISH: Final = tuple(f"docs/providers/{name}.md" for name in NAMES)

each = pytest.mark.parametrize("name", [*ENGLISH, *map(twin, ENGLISH)])
pairs = pytest.mark.parametrize("name", ENGLISH)


@pytest.mark.parametrize("folder", ["docs/providers", "docs/es/providers"])
def test_there_is_a_page_for_every_provider_and_no_other(folder: str) -> None:
    assert {path.stem for path in (ROOT / folder).iterdir()} == set(NAMES)


@pairs
def test_both_languages_have_the_same_shape(name: str) -> None:
    english, spanish = page(name), page(twin(name))
    assert [level for level, _ in english.headings] == [level for level, _ in spanish.headings]
    for mark in ("\n|", "\n- "):
        assert english.prose.count(mark) == spanish.prose.count(mark), mark
    assert _told(english) == _told(spanish)


def _told(read: Page) -> list[str]:
    return re.findall(r"\]\(\.\./errors\.md#([a-z_]+)\)", read.prose)


@pairs
def test_both_languages_have_the_same_blocks(name: str) -> None:
    english, spanish = page(name).blocks, page(twin(name)).blocks
    assert english
    assert [(block.language, block.mark, block.said, block.text) for block in english] == [
        (block.language, block.mark, block.said, block.text) for block in spanish
    ]


@each
def test_every_link_leads_somewhere(name: str) -> None:
    read = page(name)
    for link in read.links:
        place, _, anchor = link.target.partition("#")
        path = (read.path.parent / place).resolve() if place else read.path
        assert path.is_file(), link.target
        assert not anchor or anchor in page(path.relative_to(ROOT).as_posix()).anchors, link.target


@each
def test_every_page_is_linked_from_the_list_of_its_language(name: str) -> None:
    overview = page("docs/es/providers.md" if "/es/" in name else "docs/providers.md")
    assert name.rpartition("docs/")[2].removeprefix("es/") in {link.target for link in overview.links}


@each
def test_the_failures_it_tells_of_are_those_there_are(name: str) -> None:
    told = _told(page(name))
    assert {FailureKind.AUTH, FailureKind.MODEL_NOT_FOUND, FailureKind.CONTEXT_LENGTH} <= {*told}
    assert {*told} <= {kind.value for kind in FailureKind}


@pytest.mark.parametrize("provider", PRESETS)
def test_the_variables_of_a_providers_keys_are_named(provider: str) -> None:
    for name in (f"docs/providers/{provider}.md", f"docs/es/providers/{provider}.md"):
        text = page(name).text
        for variable in PRESETS[provider].api_keys or ():
            assert f"{variable}=" in text or f"`{variable}`" in text, variable


@each
def test_models_are_named_in_the_table_of_providers_only(name: str) -> None:
    assert MODEL.findall(page(name).text) == []


@each
def test_its_blocks_are_sound(name: str) -> None:
    twins: dict[str, dict[str, object]] = {}
    for block in page(name).blocks:
        match block.language:
            case "json":
                json.loads(block.text)
            case _ if block.mark == "twin":
                twins.setdefault(block.said, {})[block.language] = acts(block)
    assert twins
    for said, both in twins.items():
        assert both.keys() == {"sh", "powershell"}, said
        assert both["sh"] == both["powershell"], said


def test_the_file_for_servers_of_ones_own_is_taken(tmp_path: Path) -> None:
    (block,) = (block for block in page(f"docs/providers/{OWN}.md").blocks if block.language == "toml")
    file = tmp_path / block.said
    file.write_text(block.text, encoding="utf-8")
    _, catalog = check({"VLLM_API_KEY": "my-key"}, file)
    assert catalog.warnings == ()
    assert {"vllm", "sglang", "llamacpp", "tgi", "tei"} <= catalog.providers.keys()
