"""What is logged, by the level that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import pytest
import structlog

from worker import events
from worker.settings.variables import LogLevel

RISING = get_args(LogLevel)


@pytest.fixture(autouse=True)
def _logger_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's own keeps what it was first configured with."""
    monkeypatch.setattr(events, "_log", structlog.get_logger("test"))
    yield
    events.configure()
    structlog.reset_defaults()


@pytest.mark.parametrize("level", RISING)
def test_a_level_lets_itself_and_all_above_it_through(level: LogLevel, capsys: pytest.CaptureFixture[str]) -> None:
    events.configure(level)
    for each in get_args(events.Level):
        events.emit(f"it.{each}", level=each)
    said = capsys.readouterr().err
    shown = [each for each in get_args(events.Level) if f"it.{each}" in said]
    assert shown == [each for each in get_args(events.Level) if RISING.index(each) >= RISING.index(level)]
