"""Server and worker in one process: how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from waitress.trigger import trigger

from api.embedded import Embedded
from tests.support.wait import free_port
from worker.settings import load


def test_it_ends_though_its_server_was_awake_and_closed_before_it_was_woken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that goes out just then wakes it, too: what is to be done is done, and nobody is left to be woken."""
    pull = trigger._physical_pull

    def after_another(self: trigger) -> None:
        pull(self)
        web = running._web
        assert web is not None
        web._thread.join(10)
        pull(self)

    running = Embedded(load({"COMPLETAR_DATA_DIR": str(tmp_path), "PORT": str(free_port())})).start()
    monkeypatch.setattr(trigger, "_physical_pull", after_another)
    running.stop()
    assert running._web is not None
    assert not running._web._thread.is_alive()
