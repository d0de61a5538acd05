"""The launcher: what a person meets first, and must work on the worst day of a machine."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from api.cli.main import COMMANDS
from tests.support.processes import ROOT
from tests.support.wait import free_port

_CLI = """
import json, os, sys
told = {"argv": sys.argv[1:], "cwd": os.getcwd(), "pid": os.getpid(), "prefix": sys.prefix}
print(json.dumps(told | {"typed": os.environ["TYPED_COMMAND"]}))
sys.exit(7)
"""
_PINNED = f"idna==3.10 \\\n    --hash=sha256:{'0' * 64}\n"


@pytest.fixture(scope="session")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Tree:
    """A copy of the launcher beside locks that ask for nothing, and a command that tells how it was started."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"

    def make(self) -> Tree:
        (self.root / "api" / "cli").mkdir(parents=True)
        shutil.copy(ROOT / "run.py", self.root)
        for name in ("requirements.txt", "requirements-test.txt", *(f"requirements-openai-{n}.txt" for n in (1, 2))):
            (self.root / name).write_text("# nothing\n")
        for name, text in (("__init__.py", ""), ("cli/__init__.py", ""), ("cli/__main__.py", _CLI)):
            (self.root / "api" / name).write_text(text)
        return self

    def popen(self, *arguments: str, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHONPATH"))}
        return subprocess.Popen(
            [sys.executable, self.root / "run.py", *arguments],
            cwd=cwd or self.root,
            env={**plain, "PIP_CONFIG_FILE": os.devnull, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, cwd: Path | None = None, **env: str) -> tuple[int, str, str]:
        process = self.popen(*arguments, cwd=cwd, **env)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree with a finished .venv."""
    tree = Tree(tmp_path_factory.mktemp("made")).make()
    code, out, err = tree.run("first")
    assert (code, json.loads(out)["argv"]) == (7, ["first"]), err
    assert "making .venv" in err
    assert "installing 0 packages of requirements.txt" in err
    return tree


@pytest.fixture
def made(_made: Tree, tmp_path: Path) -> Tree:
    return Tree(Path(shutil.copytree(_made.root, tmp_path / "tree", symlinks=True)))


@pytest.mark.parametrize(("version", "named"), [((2, 7), "2.7"), ((3, 6, 15), "3.6"), ((3, 10), "3.10")])
def test_an_old_python_is_told_what_to_do(run: ModuleType, version: tuple[int, ...], named: str) -> None:
    first, remedy = run.too_old(version).splitlines()
    assert first == f"Completar needs Python 3.11 or newer; this is {named}."
    assert "python3.13 run.py" in remedy
    assert "py -3.13 run.py" in remedy


@pytest.mark.parametrize("version", [(3, 11), (3, 14, 1), (4, 0)])
def test_a_new_python_is_told_nothing(run: ModuleType, version: tuple[int, ...]) -> None:
    assert run.too_old(version) == ""


def test_an_old_python_can_read_the_launcher() -> None:
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_a_digest_ignores_line_ends_and_nothing_else(run: ModuleType, tmp_path: Path) -> None:
    def digest(content: bytes) -> str:
        (tmp_path / "lock").write_bytes(content)
        value: str = run.digest(tmp_path / "lock")
        return value

    assert digest(b"a==1\nb==2\n") == digest(b"a==1\r\nb==2\r\n")
    assert digest(b"a==1\n") != digest(b"a==2\n")


def test_without_a_command_it_prints_help_and_installs_nothing(tmp_path: Path) -> None:
    tree = Tree(tmp_path).make()
    for arguments in ([], ["--help"]):
        code, out, _ = tree.run(*arguments)
        assert code == 0
        assert "python3 run.py demo" in out
    assert not tree.venv.exists()


def test_the_help_goes_on_with_that_of_the_commands_once_there_is_one(made: Tree) -> None:
    for arguments in ([], ["help"]):
        _, out, _ = made.run(*arguments)
        launcher, _, commands = out.partition("in their own words:")
        assert "python3 run.py test" in launcher
        assert json.loads(commands)["argv"] == ["--help"]


def test_a_command_runs_where_the_user_is_with_its_exit_code_and_nothing_else_printed(
    made: Tree, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "api").mkdir(parents=True)
    (elsewhere / "api" / "__init__.py").write_text("raise SystemExit('a stranger of the same name')")
    code, out, err = made.run("jobs", "list", "--json", cwd=elsewhere)
    told = json.loads(out)
    assert (code, err) == (7, "")
    assert told["argv"] == ["jobs", "list", "--json"]
    assert (told["cwd"], told["prefix"]) == (str(elsewhere), str(made.venv))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no exec")
@pytest.mark.skipif(os.name == "nt", reason="there it is `py`")
def test_the_command_hears_how_it_was_typed(made: Tree, tmp_path: Path) -> None:
    folder = made.root.rename(tmp_path / "a b")
    (tmp_path / "python3").symlink_to(sys.executable)
    command = ["../python3", "run.py", "up"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["typed"] == "../python3 run.py"
    _, out, _ = Tree(folder).run("up", cwd=tmp_path)
    assert json.loads(out)["typed"] == f"{sys.executable} '{folder}/run.py'"


def test_the_help_names_every_command(run: ModuleType) -> None:
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", run.HELP), name


def test_the_launcher_becomes_the_command_so_that_signals_reach_it(made: Tree) -> None:
    process = made.popen("up")
    out, _ = process.communicate(timeout=30)
    assert json.loads(out)["pid"] == process.pid


def test_a_changed_lock_is_installed_once(made: Tree) -> None:
    (made.root / "requirements.txt").write_text("# changed\n")
    _, _, err = made.run("up")
    assert "installing" in err
    assert "making .venv" not in err
    assert made.run("up")[2] == ""


def test_the_test_lock_is_installed_only_for_developers(made: Tree) -> None:
    assert not (made.venv / "lock-test.sha256").exists()
    code, _, err = made.run("bench")
    assert "requirements-test.txt" in err
    assert "No module named 'tests'" in err
    assert code == 1
    assert made.run("up")[2] == ""


def test_tests_have_older_clients_beside_the_new_one_and_go_on_without(made: Tree) -> None:
    _, _, err = made.run("test", "x")
    assert "requirements-openai-2.txt" in err
    assert "requirements-openai-1.txt" in err
    assert "No module named pytest" in err
    (made.root / "requirements-openai-2.txt").write_text(_PINNED)
    (made.venv / "clients" / "openai-2" / "openai").mkdir(parents=True)
    index = f"http://127.0.0.1:{free_port()}/simple"
    code, _, err = made.run("test", "x", PIP_INDEX_URL=index, PIP_RETRIES="0")
    assert "Is the network away?" in err
    assert "No module named pytest" in err, "the tests were begun all the same"
    assert code == 1
    assert not (made.venv / "clients" / "openai-2").exists(), "what is out of step is not tested with"
    assert not (made.venv / "installing").exists()


def test_an_install_that_was_cut_short_is_begun_anew(made: Tree) -> None:
    (made.venv / "installing").touch()
    (made.venv / "half").touch()
    code, _, err = made.run("up")
    assert code == 7
    assert "making .venv" in err
    assert not (made.venv / "half").exists()


@pytest.mark.skipif(os.name == "nt", reason="on Windows the lock ends with the launcher")
def test_an_install_that_goes_on_without_its_launcher_is_waited_for(made: Tree) -> None:
    (made.root / "requirements.txt").write_text(_PINNED)
    with closing(socket.create_server(("127.0.0.1", 0))) as index:
        index.settimeout(30)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        first = made.popen("up", PIP_INDEX_URL=url, PIP_RETRIES="0")
        held, _ = index.accept()  # pip is under way, and will wait
        first.kill()
        first.wait(10)
        (made.root / "requirements.txt").write_text("# nothing\n")
        second = made.popen("up")
        assert second.stderr is not None
        assert second.stderr.readline() == "Completar: another launcher is installing; waiting for it\n"
        held.close()
    out, err = second.communicate(timeout=120)
    first.communicate()
    assert (second.returncode, json.loads(out)["argv"]) == (7, ["up"])
    assert "making .venv" in err, "what the first left is not trusted"


def test_a_venv_whose_python_is_gone_is_made_anew(made: Tree) -> None:
    python = made.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.unlink()
    code, _, err = made.run("up")
    assert code == 7
    assert "making .venv" in err


def test_without_a_network_it_says_so_and_leaves_no_ruin(made: Tree) -> None:
    (made.root / "requirements.txt").write_text(_PINNED)
    index = f"http://127.0.0.1:{free_port()}/simple"
    code, out, err = made.run("up", PIP_INDEX_URL=index, PIP_RETRIES="0")
    assert (code, out) == (1, "")
    assert "Traceback" not in err
    assert "No matching distribution" in err
    assert "Completar: `pip install` failed.\nIs the network away?" in err
    assert err.endswith("Then run the same command again.\n")
    (made.root / "requirements.txt").write_text("# nothing\n")
    assert made.run("up")[2] == "", "what was there is still there, and the old lock needs no install"


def test_a_venv_that_cannot_be_made_is_no_traceback(tmp_path: Path) -> None:
    tree = Tree(tmp_path).make()
    tree.venv.write_text("a file where the folder belongs")
    code, out, err = tree.run("up")
    assert (code, out) == (1, "")
    assert err.startswith("Completar: ")
    assert "Traceback" not in err


def test_two_launchers_at_once_make_one_venv(tmp_path: Path) -> None:
    tree = Tree(tmp_path).make()
    both = [tree.popen("up"), tree.popen("up")]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [7, 7], ends
    assert sum(err.count("making .venv") for _, err in ends) == 1
    assert not (tree.venv / "installing").exists()


def test_the_check_runs_every_step_and_sums_up(run: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    tell = "import os; open(os.environ['MISSING_PARTS_FILE'], 'a').write('redis: 3 tests (no server)\\n')"
    steps = {
        "linter": [sys.executable, "-c", "raise SystemExit(3)"],
        "pytest": [sys.executable, "-c", tell],
    }
    assert run.check(steps) == 1
    out = capfd.readouterr().out
    assert out.endswith(
        "== summary\nlinter         FAILED\npytest         ok\n"
        "NOT TESTED, for want of a part:\nredis: 3 tests (no server)\n"
    )
    assert run.check({"pytest": [sys.executable, "-c", ""]}) == 0
    assert "NOT TESTED" not in capfd.readouterr().out
