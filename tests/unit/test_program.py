"""Commands in messages: such as can be typed, in the shell that is there."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli import program
from api.cli.demo import PROMPTS
from api.cli.demo_predictions import QUESTIONS
from api.cli.main import COMMANDS
from tests.support.pages import every
from tests.support.processes import ROOT

WORDS = ["batch", "--template", "What's {x}? \u2019tis", "-o", "C:\\out.jsonl", "", "a,b"]


@given(st.lists(st.text(min_size=1)))
def test_a_shell_reads_words_as_they_were(given: list[str]) -> None:
    assert shlex.split(program.words(given)) == given


def test_powershell_reads_words_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_WINDOWS", True)
    assert program.words(WORDS) == ("batch --template 'What''s {x}? \u2019\u2019tis' -o C:\\out.jsonl '' 'a,b'")


@pytest.mark.parametrize(
    ("said", "script", "name"),
    [
        ("py run.py", "/x/api/cli/__main__.py", "py run.py"),
        ("", "/x/api/cli/__main__.py", "python3 -m api.cli"),
        ("", "/usr/bin/completar", "completar"),
    ],
)
def test_we_are_called_what_was_typed(monkeypatch: pytest.MonkeyPatch, said: str, script: str, name: str) -> None:
    monkeypatch.setenv("TYPED_COMMAND", said)
    monkeypatch.setattr("sys.argv", [script])
    assert program._program() == name


def test_no_message_names_a_program_that_may_not_be_there() -> None:
    """Examples of a help stand on lines of their own; there the name is put in as they are shown."""
    wrong = re.compile(rf"(?m)^(?! {{2,}}).*\bcompletar ({'|'.join(COMMANDS)})\b")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for house in ("api", "worker")
        for path in sorted((ROOT / house).rglob("*.py"))
        for node in _values(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node.value, str) and wrong.search(node.value)
    ]
    assert found == []


def test_no_page_names_a_program_that_may_not_be_there() -> None:
    wrong = re.compile(rf"\bcompletar ({'|'.join(COMMANDS)})\b")
    assert [read.name for read in every() if wrong.search(read.text)] == []


def _values(tree: ast.Module) -> list[ast.Constant]:
    """No docstrings."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in alone]


def test_a_wheel_has_what_the_demo_reads() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for path in (PROMPTS, QUESTIONS):
        package = path.parent.relative_to(ROOT).as_posix()
        assert package in packed["packages"]["find"]["include"]
        assert any(path.match(pattern) for pattern in packed["package-data"][package]), path
