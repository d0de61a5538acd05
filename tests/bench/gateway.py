"""A peer: LiteLLM's proxy with two workers, installed beside us for this one line and used as its manual says.

It gets a virtual environment of its own (`.venv-litellm`, made the first time), so that nothing of it is in our locks.
1.106.0 on purpose: some later releases were withdrawn after a compromise.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.bench import jobs as work
from tests.bench.ground import Ground, Run
from tests.support.processes import ROOT, Process
from tests.support.wait import free_port

VERSION: Final = "1.106.0"
VENV: Final = ROOT / ".venv-litellm"
NAME: Final = "LiteLLM proxy, 2 workers"
SEMAPHORES: Final = (50, 100)
INSTALL_S: Final = 600.0
_KEY: Final = "sk-bench"


class NotThere(Exception):
    """It could not be installed here."""


def installed(folder: Path = VENV) -> Path:
    """Its program. Raises NotThere with the last line of what pip said."""
    stamp = folder / f"litellm-{VERSION}"
    if not stamp.exists():
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, f"litellm[proxy]=={VERSION}"]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except (OSError, subprocess.TimeoutExpired) as fault:
                raise NotThere(f"LiteLLM {VERSION} could not be installed: {fault}") from fault
            if done.returncode:
                said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
                raise NotThere(f"LiteLLM {VERSION} could not be installed: {said}")
        stamp.touch()
    return folder / "bin" / "litellm"


def gateway(ground: Ground, jobs: int) -> Run:
    """The httpx script sends everything through the proxy, at the best of its semaphores; nothing is stored."""
    program = installed()
    config = ground.folder / "litellm.yaml"
    target = {"model": f"openai/{work.MODEL}", "api_base": ground.mock.base_url, "api_key": _KEY}
    settings = {
        "model_list": [{"model_name": work.MODEL, "litellm_params": target}],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        # On loopback, for a minute: to look keys up would only cost it more.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
    }
    config.write_text(json.dumps(settings), encoding="utf-8")  # which is YAML too
    port = free_port()
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    proxy = ground.processes.start("litellm", [*command, "--num_workers", "2"], env, ground.folder)
    try:
        proxy.wait_for(lambda: _ready(port), "its first answer", 120.0)
        tried = [_asked(ground, proxy, port, max(100, jobs // 4), at_once) for at_once in SEMAPHORES]
        best = max(range(len(tried)), key=lambda n: tried[n].per_s)
        return _asked(ground, proxy, port, jobs, SEMAPHORES[best])
    finally:
        ground.end([proxy])


def _asked(ground: Ground, proxy: Process, port: int, jobs: int, at_once: int) -> Run:
    source, target = ground.folder / "prompts.jsonl", ground.folder / "answers.jsonl"
    with source.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(work.openai_request(number)) + "\n" for number in range(jobs))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    started: list[Process] = []

    def start() -> list[Process]:
        arguments = [str(source), str(target), url, str(at_once)]
        started.append(ground.processes.python("script", "-m", "tests.bench.script", *arguments))
        return [started[0]]

    run = ground.measure(NAME, jobs, start, lambda: int(started[0].running), [proxy])
    assert started[0].exit_code == 0, started[0].tail()
    return replace(run, name=f"{NAME}, semaphore {at_once}")


def _ready(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2) as reply:
        return bool(reply.status == 200)
    return False
