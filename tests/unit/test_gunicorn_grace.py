"""The web process leaves within DRAIN_S too: the platform's clock is one for both."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

CONF = Path(__file__).parents[2] / "gunicorn.conf.py"


@pytest.mark.parametrize(("drain_s", "grace_s"), [("", 24), ("3", 2), ("0", 1), ("110.5", 109), ("soon", 24)])
def test_it_is_less_than_the_drain(monkeypatch: pytest.MonkeyPatch, drain_s: str, grace_s: int) -> None:
    monkeypatch.setenv("DRAIN_S", drain_s)
    monkeypatch.setenv("HOST", "127.0.0.1")  # no socket is tried
    assert runpy.run_path(str(CONF))["graceful_timeout"] == grace_s
