"""What a person types to run us, for messages that say how to go on."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_WINDOWS: Final = os.name == "nt"
_PLAIN: Final = re.compile(r"[\w.:=/\\+-]+", re.ASCII)


def _program() -> str:
    """run.py says how it was typed; without it we are a script of that name, or a module."""
    said = os.environ.get("TYPED_COMMAND")
    if said:
        return said
    if Path(sys.argv[0]).parts[-3:] == ("api", "cli", "__main__.py"):
        return f"{'py' if _WINDOWS else 'python3'} -m api.cli"
    return "completar"


PROGRAM: Final = _program()


def words(given: Iterable[str]) -> str:
    """Words of a command as a shell reads them back: PowerShell on Windows, sh elsewhere."""
    if not _WINDOWS:
        return shlex.join(given)
    # PowerShell takes typographic quotes for quotes, too.
    return " ".join(
        word if _PLAIN.fullmatch(word) else "'" + re.sub("(['\u2018-\u201b])", r"\1\1", word) + "'" for word in given
    )
