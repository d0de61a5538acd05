"""A real inference engine for the tests, with a model made on the spot: no key, no download, nothing but a processor.

    kind = LLAMA_CPP if LLAMA_CPP in found() else TRANSFORMERS
    with closing(Engine(kind, folder)) as engine:
        call(engine.start().base_url, engine.model)
        engine.kill()

Engines are large, so none is among the requirements of the tests: they use what the machine has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support import tiny_model
from tests.support.parts import PartMissing
from tests.support.processes import Process
from tests.support.wait import free_port
from worker.domain.failure import FailureKind

# Not COMPLETAR_...: each of our processes refuses to start with a variable of that prefix that it does not know.
PYTHON: Final = "TEST_ENGINE_PYTHON"
KEY: Final = "a-key-of-the-engine"

_MISSING: Final = (
    "no `llama-server` (of llama.cpp) on PATH, and no Python with transformers[serving] 5. To get one:"
    ' `python3 -m venv ENGINE && ENGINE/bin/pip install torch "transformers[serving]>=5"`,'
    f" then run the tests with `{PYTHON}=ENGINE/bin/python`"
)
# One thread of its own is plenty for such a model, and it must not starve what is tested. What it keeps, it keeps here.
_MODEST: Final = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A kind of engine, and its own ways.

    program  the beginning of its command line, or None where the machine lacks it
    options  the rest of it, given a port; it is run in the folder of the model
    write    makes the model in that folder
    refuses  what a request comes to that should not be answered; None: it is answered all the same
    """

    name: str
    program: Callable[[], list[str] | None]
    options: Callable[[int], list[str]]
    write: Callable[[Path], None]
    refuses: Mapping[str, FailureKind | None]


def _llama_server() -> list[str] | None:
    path = shutil.which("llama-server")
    return None if path is None else [path]


def _transformers() -> list[str] | None:
    """Of the Python that is named, or of our own. Nothing of it is imported to find out: torch takes seconds."""
    python = os.environ.get(PYTHON, sys.executable)
    look = (
        "from importlib.metadata import version; [version(name) for name in ('torch', 'fastapi', 'uvicorn')];"
        " assert int(version('transformers').split('.')[0]) >= 5"
    )
    try:
        looked = subprocess.run([python, "-c", look], capture_output=True, check=False)
    except OSError:
        return None
    return [python, "-m", "transformers.cli.transformers", "serve"] if looked.returncode == 0 else None


LLAMA_CPP: Final = EngineKind(
    name="llama.cpp",
    program=_llama_server,
    options=lambda port: [
        *("--model", f"{tiny_model.NAME}.gguf", "--alias", tiny_model.NAME, "--offline", "--api-key", KEY),
        *("--host", "127.0.0.1", "--port", str(port), "--threads", "1", "--parallel", "2"),
        *("--ctx-size", str(2 * tiny_model.WINDOW)),  # shared by the two it serves at once
    ],
    write=lambda folder: tiny_model.write_gguf(folder / f"{tiny_model.NAME}.gguf"),
    refuses={
        "unknown model": None,
        "prompt too long": FailureKind.CONTEXT_LENGTH,
        "wrong key": FailureKind.AUTH,
    },
)
TRANSFORMERS: Final = EngineKind(
    name="transformers",
    program=_transformers,
    options=lambda port: [tiny_model.NAME, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
    write=lambda folder: tiny_model.write_transformers(folder / tiny_model.NAME),
    refuses={
        "unknown model": FailureKind.BAD_REQUEST,  # a 400 without a code
        "prompt too long": FailureKind.SERVER_ERROR,  # a 500 that says no more than that
        "wrong key": None,
    },
)
KINDS: Final = LLAMA_CPP, TRANSFORMERS


def found() -> list[EngineKind]:
    """Those that this machine has, at least one. Raises PartMissing."""
    kinds = [kind for kind in KINDS if kind.program() is not None]
    if not kinds:
        raise PartMissing("engine", _MISSING)
    return kinds


class Engine:
    """One server. It can be killed and started again on the same port."""

    model = tiny_model.NAME

    def __init__(self, kind: EngineKind, folder: Path) -> None:
        """`folder` is empty, and takes the model and the log. Raises PartMissing."""
        program = kind.program()
        if program is None:
            raise PartMissing("engine", _MISSING)
        self.kind = kind
        self.port = free_port()
        kind.write(folder)
        plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which is for our packages
        env = {**plain, **_MODEST, "HF_HOME": str(folder / "cache")}
        command = [*program, *kind.options(self.port)]
        self._process = Process(kind.name, command, env, folder / "log", cwd=folder)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> Engine:
        """Start, and wait until it has loaded the model; nothing where it runs already."""
        if not self._process.running:
            self._process.start()
            self._process.wait_for(self._is_well, "loading the model", timeout_s=60)
        return self

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()

    def close(self) -> None:
        self.kill()

    def chat(self, **fields: Any) -> Any:
        """What it answers to a chat request when nobody stands between."""
        address, headers = f"{self.base_url}/chat/completions", {"Authorization": f"Bearer {KEY}"}
        answer = httpx.post(address, json={"model": self.model, **fields}, headers=headers, trust_env=False, timeout=30)
        return answer.raise_for_status().json()

    def _is_well(self) -> bool:
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.port}/health", trust_env=False, timeout=5)
        except httpx.TransportError:
            return False
        return answer.status_code == 200
