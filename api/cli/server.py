"""Which server a command talks to: the one that was named, the one that runs here, or one of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from api.cli.client import Client
from api.cli.fault import CliFault, Exit
from api.cli.local import settings
from api.cli.program import PROGRAM
from api.cli.screen import Screen
from api.data_folder import DataFolder
from worker.domain.failure import Lane
from worker.settings import Settings

Origin = Literal["named", "here", "own"]


@dataclass(frozen=True, slots=True)
class Server:
    """origin: `named` by COMPLETAR_URL, `here`: an `up` that serves this data folder, `own`: started for this command

    label  who answers, where that is known; None for a server elsewhere
    """

    client: Client
    origin: Origin
    is_sandbox: bool = False

    @property
    def lasts(self) -> bool:
        """Whether it goes on when this command ends."""
        return self.origin != "own"


@contextlib.contextmanager
def server(screen: Screen, *, works: frozenset[Lane] = frozenset()) -> Iterator[Server]:
    """The server of a command. Where none is named and none runs, one of its own, for as long as the block lasts.

    works  the lanes that a server of our own works on; none: it only shows and stores
    """
    told = settings()
    found = _existing(told)
    if found is not None:
        url, key, origin = found
        client = Client(url, key, screen)
        try:
            yield Server(client, origin)
        finally:
            client.close()
        return
    mine = told.model_copy(update={"host": "127.0.0.1", "port": 0, "lanes": works})
    from api.cli.own import embedded  # noqa: PLC0415 - half a second that is not needed where a server runs

    with embedded(screen, mine, work=bool(works)) as own:
        client = Client(own.url, own.key, screen)
        try:
            yield Server(client, "own", own.is_sandbox)
        finally:
            client.close()


def _existing(told: Settings) -> tuple[str, str, Origin] | None:
    """URL and key of a server that is there already."""
    folder = DataFolder(told.data_dir)
    given = told.api_key.get_secret_value() if told.api_key is not None else None
    if os.environ.get("COMPLETAR_URL", "").strip():
        if given is None:
            raise CliFault(
                "COMPLETAR_URL names a server, but there is no key for it.",
                f"Set COMPLETAR_API_KEY; `{PROGRAM} keys create` makes a key where the server's database is.",
                Exit.CONFIG,
            )
        if told.url.endswith("/v1"):  # as the clients of OpenAI want it
            raise CliFault("COMPLETAR_URL ends in /v1.", "Leave that out: commands add it themselves.", Exit.CONFIG)
        return told.url, given, "named"
    serving = folder.serving()
    key = given if given is not None else folder.key()
    if serving is None or serving.url is None or key is None:
        return None
    return serving.url, key, "here"
