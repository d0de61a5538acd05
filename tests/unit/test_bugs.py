"""The list of bugs to plant fits the source as it is now; `python -m tests.bugs --run` plants them."""

from __future__ import annotations

import ast

import pytest

from tests.bugs.catalogue import ROOT, Bug, bugs


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_bug_can_be_planted_and_its_test_is_there(bug: Bug) -> None:
    source = (ROOT / bug.file).read_text(encoding="utf-8")
    planted = bug.planted(source)
    assert planted != source
    ast.parse(planted)
    file, _, name = bug.test.partition("::")
    tests = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name.partition("[")[0] in {
        node.name for node in tests.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_names_tell_bugs_apart() -> None:
    names = [bug.name for bug in bugs()]
    assert len(names) == len(set(names)) >= 15
