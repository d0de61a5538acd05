"""How far a run is, noted beside its output until it is over: so the same command goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, Self

from api.cli.fault import CliFault, Exit
from worker.domain.answer import Json
from worker.store.text import dumps

SUFFIX: Final = ".run"
_VERSION: Final = 1


def digest(stream: BufferedReader, options: Mapping[str, Json]) -> str:
    """Of an input and what is asked of all its lines."""
    found = hashlib.sha256(dumps(options).encode())
    stream.seek(0)
    while chunk := stream.read(1024 * 1024):
        found.update(chunk)
    stream.seek(0)
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Note:
    """input     what the run is over, by `digest`
    key, asked  a batch is asked for in these words under that idempotency key, or was; None: no batch is open
    batch_id    that batch, once its making was heard of
    earlier     the batches before it that told of lines, oldest first
    through     up to this line those did; where one of these has no record, the output lost it, or it was never
                written because it waited for its turn: they are read again
    replaces    the output still holds what was there before the run
    """

    path: Path
    input: str
    key: str | None = None
    asked: dict[str, Json] | None = None
    batch_id: str | None = None
    earlier: tuple[str, ...] = ()
    through: int = 0
    replaces: bool = False

    @property
    def open(self) -> bool:
        return self.key is not None or self.batch_id is not None

    @classmethod
    def at(cls, output: Path, input_: str | None) -> tuple[Self, bool]:
        """The note beside an output, and whether there is one. Raises CliFault where it is of another run; None: it is
        not known of which it should be.
        """
        path = output.with_name(output.name + SUFFIX)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path, input_ or ""), False
        except (ValueError, OSError):
            found = None
        if not isinstance(found, dict) or found.pop("version", None) != _VERSION:
            raise CliFault(f"{path} is no note of a run.", f"Delete it to begin {output} anew.", Exit.USAGE)
        if input_ is not None and found["input"] != input_:
            raise CliFault(
                f"{output} is of a run over other lines, or with other options, that is not over.",
                f"Give the same as then, another -o, or delete {path} to begin {output} anew.",
                Exit.USAGE,
            )
        found.pop("cursor", None)  # notes had one, and it was trusted where the output had been cut short
        return cls(path=path, **{**found, "earlier": tuple(found.get("earlier", ()))}), True

    def save(self, **changes: Any) -> Self:
        """The note with these changes, kept. Whoever is killed meanwhile finds the old one or the new one."""
        changed = replace(self, **changes)
        told = {name: value for name, value in asdict(changed).items() if name != "path"}
        fresh = self.path.with_name(self.path.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write(dumps({"version": _VERSION, **told}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.path)
        return changed

    def forget(self) -> Self:
        """What was asked for was refused: whoever comes again may ask for something else."""
        if self.earlier:
            return self.save(key=None, asked=None, batch_id=None)
        self.remove()
        return replace(self, key=None, asked=None, batch_id=None)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
