"""Real processes under test: started as a person or a platform does, waited for, broken, and always cleaned up."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.wait import free_port, listening, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]


def dying_with_us(number: signal.Signals = signal.SIGKILL) -> list[str]:
    """What to put before a command so that the kernel ends it when the test run is killed; nothing where it cannot.

    No `preexec_fn`: Python code between fork and exec may wait for ever for a lock that another thread held.
    """
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--"]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The (scrubbed) environment of the tests, our programs first on PATH and our packages importable."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        **(extra or {}),
    }


def procfile() -> dict[str, str]:
    """Process name -> command line, as a platform reads them."""
    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    return dict(line.split(": ", 1) for line in lines if line and not line.startswith("#"))


class Process:
    """One process in a group of its own, its output in a file. Signals reach the whole group."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.log = log
        self.cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        """Start, or start again; the log goes on where it was."""
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*dying_with_us(), *self.command],
                cwd=self.cwd,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} was not started"
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return None if self._popen is None else self._popen.poll()

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """To every process of the group; nothing when all have ended."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def terminate(self) -> None:
        """SIGTERM to the first process alone, as a platform does: what it does to its children is part of the test."""
        assert self._popen is not None
        self._popen.terminate()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to the group, and wait until it is gone."""
        if self._popen is None:
            return
        self.signal(signal.SIGKILL)
        self._popen.wait(10)

    def wait(self, timeout_s: float = 40.0) -> int:
        """Its exit code. Raises AssertionError with the end of its output if it does not end in time."""
        assert self._popen is not None
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout_s:g} s\n{self.tail()}") from None

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM and its exit code."""
        self.terminate()
        return self.wait(timeout_s)

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Wait while it runs; a process that ends first fails the wait at once."""

        def met() -> object:
            held = condition()
            assert held or self.running, f"{self.name} ended with {self.exit_code} before {what}\n{self.tail()}"
            return held

        try:
            wait_until(met, f"{what} of {self.name}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def wait_for_line(self, pattern: str, timeout_s: float = 30.0, *, since: int = 0) -> re.Match[str]:
        """The first match in the output after `since` characters (take `len(process.output)` before the deed)."""
        compiled = re.compile(pattern, re.MULTILINE)
        self.wait_for(lambda: compiled.search(self.output, since), f"the line /{pattern}/", timeout_s)
        match = compiled.search(self.output, since)
        assert match is not None
        return match

    def wait_for_port(self, port: int, timeout_s: float = 30.0) -> None:
        self.wait_for(lambda: listening(port), f"listening on port {port}", timeout_s)

    def tail(self, lines: int = 40) -> str:
        return f"--- end of {self.log.name}:\n" + "\n".join(self.output.splitlines()[-lines:])


class Processes:
    """Starts processes and sees to it that none outlives the test."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.env = dict(env or {})
        self.all: list[Process] = []

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT
    ) -> Process:
        """Start `command`; `env` is added to the environment given at the start and to the tests' own."""
        log = self.folder / f"{name}-{len(self.all)}.log"
        process = Process(name, command, environment({**self.env, **(env or {})}), log, cwd)
        self.all.append(process)
        return process.start()

    def python(self, name: str, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> Process:
        return self.start(name, [sys.executable, *arguments], env, cwd)

    def from_procfile(self, name: str, env: Mapping[str, str] | None = None, more: str = "") -> Process:
        """A line of the Procfile, through the shell as a platform runs it; `more` is appended."""
        return self.start(name, ["/bin/sh", "-c", f"{procfile()[name]} {more}"], env)

    def worker(self, env: Mapping[str, str] | None = None, more: str = "") -> Process:
        """A Celery worker, as the Procfile starts it, once it takes tasks."""
        name = f"w{len(self.all)}-{os.getpid()}@test"
        process = self.from_procfile("worker", env, f"--hostname {shlex.quote(name)} {more}")
        process.wait_for_line(r"\bready\.")
        return process

    def web(self, env: Mapping[str, str] | None = None) -> tuple[Process, str]:
        """Gunicorn, as the Procfile starts it, once it listens; and its base URL."""
        port = free_port()
        process = self.from_procfile("web", {"WEB_CONCURRENCY": "1", **(env or {}), "PORT": str(port)})
        process.wait_for_port(port)
        return process, f"http://127.0.0.1:{port}"

    def up(self, env: Mapping[str, str] | None = None, *arguments: str) -> tuple[Process, str]:
        """Everything in one process (`completar up`), once it listens; and its base URL."""
        port = free_port()
        process = self.python("up", "-m", "api.cli", "up", *arguments, env={**(env or {}), "PORT": str(port)})
        process.wait_for_port(port)
        return process, f"http://127.0.0.1:{port}"

    def close(self) -> None:
        """Kill what still runs, frozen or not, and print the end of every log for the report of a failed test."""
        for process in self.all:
            process.kill()
        for process in self.all:
            print(process.tail())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
