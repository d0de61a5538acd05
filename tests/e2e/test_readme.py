"""The documentation, followed word by word: every block of commands is run, and shows what the page says it shows.

A page is one session in one folder, in the order of its blocks, against a server that the page itself starts. Only the
server's port and key are put in. A block that is not run says why in a mark (tests/support/pages.py).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.pages import PAGES, Block, page
from tests.support.parts import PartMissing
from tests.support.processes import ROOT, Process, Processes, environment
from tests.support.wait import free_port

_URL: Final = "http://127.0.0.1:8000"
_KEY: Final = "ck_..."
_LIMIT_S: Final = 120
_REFUSED: Final = 22  # curl's exit code for a status of 400 and above, where it is told to tell
# The launcher has tests of its own; here its commands are run as it runs them.
_PYTHON: Final = """#!/bin/sh
if [ "$1" = run.py ]; then shift; exec {python} -P -m api.cli "$@"; fi
exec {python} "$@"
"""
_CURL: Final = '#!/bin/sh\nexec {curl} --silent --show-error --fail-with-body "$@"\n'


class Session:
    """One reader: a folder like a checkout, a shell whose variables last, and the server of a block that serves."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self._processes = processes
        self._state = folder / "state.sh"
        self._folder = folder / "completar"
        self._folder.mkdir()
        (self._folder / "examples").symlink_to(ROOT / "examples")
        programs = folder / "bin"
        programs.mkdir()
        curl = shutil.which("curl")
        if curl is None:
            raise PartMissing("curl", "no `curl` on PATH, which the documentation uses")
        for name, text in (("python3", _PYTHON.format(python=sys.executable)), ("curl", _CURL.format(curl=curl))):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        plain = environment({"HOME": str(folder), "COMPLETAR_DATA_DIR": str(folder / "data")})
        self._env = plain | {"PATH": f"{programs}:{plain['PATH']}"}
        self._put = {_URL: _URL, _KEY: _KEY}
        self._state.write_text("")
        self._server: Process | None = None
        self._shown = self._data = ""

    def follow(self, block: Block) -> None:
        text = block.text
        for word, real in self._put.items():
            text = text.replace(word, real)
        match block.mark, block.language:
            case ("not run" | "receiver", _) | (_, "toml" | "ini") if block.mark != "file":
                pass
            case "file", _:
                (self._folder / block.said).write_text(block.text, encoding="utf-8")
            case "serves", "sh":
                self._serve(text)
            case "prints", "text":
                _same_words(block, self._output())
            case "answers", "json":
                _part_of(block, json.loads(block.text), json.loads(self._data))
            case _, "sh":
                self._run(block, "bash", "-euo", "pipefail", "-c", f"set -a\n{text}\nset +a\nexport -p > {self._state}")
            case _, "python":
                self._run(block, "python3", "-W", "error", "-c", text)
            case _, "powershell":
                if shutil.which("pwsh") is not None:  # without it, tests/contract/test_docs.py compares it with curl
                    begin = "$ErrorActionPreference = 'Stop'; function py { python3 @args }\n"
                    self._run(block, "pwsh", "-NoProfile", "-NonInteractive", "-Command", begin + text)
            case _, "json" if not block.mark:  # shown, not typed
                pass
            case _:
                raise AssertionError(f"{block.where}: nobody knows what to do with this block")

    def _run(self, block: Block, *command: str) -> None:
        with_state = ["bash", "-c", f'. {self._state}; exec "$@"', "bash", *command]
        done = subprocess.run(
            with_state,
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=_LIMIT_S,
            check=False,
        )
        self._data, self._shown = done.stdout, done.stdout + done.stderr
        expected = _REFUSED if block.mark == "refused" else 0
        assert done.returncode == expected, f"{block.where}: ended with {done.returncode}\n{self._shown}"

    def _serve(self, text: str) -> None:
        assert self._server is None, "one server is enough for a page"
        command = ["bash", "-c", f". {self._state}; exec {text.strip()}"]
        env = self._env | {"PORT": str(free_port())}
        self._server = self._processes.start("serves", command, env, self._folder)
        self._put[_URL] = self._server.wait_for_line(r"^Completar serves (\S+)")[1]
        self._put[_KEY] = self._server.wait_for_line(r"^ +Key +(\S+)")[1]
        self._server.wait_for_line(r"^with PowerShell:\n.+\n")
        self._shown = ""

    def _output(self) -> str:
        return self._shown or (self._server.output if self._server is not None else "")

    def end(self) -> None:
        if self._server is not None:
            assert self._server.stop() == 0


def _words(line: str) -> Counter[str]:
    """Numbers, times, ids and addresses are alike; where several things tie, their order is nobody's."""
    line = re.sub(r"\bck_\S+|http://127\S+|\b(job|run|batch)_\w+|\bfile-\w+", "_", line)
    line = re.sub(r"\d[\d.,]*", "0", line)
    return Counter(word for word in re.split(r"[\s,():]+", re.sub(r"\b0 m?s\b", "0 s", line)) if word)


def _same_words(block: Block, printed: str) -> None:
    """Each line of the block stands in what was printed, in order; `...` stands for more."""
    lines = iter(printed.splitlines())
    for line in filter(str.strip, block.text.splitlines()):
        wanted = _words(line.replace("ck_...", "_"))
        cut = wanted.pop("...", 0)
        if not any(wanted <= found if cut else wanted == found for found in map(_words, lines)):
            raise AssertionError(f"{block.where}: {line!r} is not in\n{printed}")


def _part_of(block: Block, shown: Any, given: Any, at: str = "") -> None:
    """Every field that is shown is given, of the same type, and texts say the same."""
    where = f"{block.where}: {at or 'the answer'}"
    if isinstance(shown, dict):
        assert isinstance(given, dict), where
        for name, value in shown.items():
            assert name in given, f"{where} has no {name}: {given}"
            _part_of(block, value, given[name], f"{at}.{name}")
    elif isinstance(shown, list):
        assert isinstance(given, list), where
        assert len(given) >= len(shown), where
        for n, value in enumerate(shown):
            _part_of(block, value, given[n], f"{at}[{n}]")
    elif isinstance(shown, str):
        assert isinstance(given, str), where
        masked = [re.sub(r"\b(job|req|key)_\w+|\d+", "_", text) for text in (shown, given)]
        assert masked[0] == masked[1], where
    else:
        assert isinstance(given, int | float) if isinstance(shown, int | float) else given is None, where


@pytest.fixture
def session(tmp_path: Path, processes: Processes) -> Iterator[Session]:
    try:
        started = Session(tmp_path, processes)
    except PartMissing as missing:
        pytest.skip(str(missing))
    yield started
    started.end()


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_a_reader_who_does_what_a_page_says_sees_what_it_shows(name: str, session: Session) -> None:
    for block in page(name).blocks:
        session.follow(block)
