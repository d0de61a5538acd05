"""The lines of a file before anybody reads them: cut from its bytes, numbered, in UTF-8."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator

Raw = tuple[int, bytes | None]  # the line's number from 1, and its bytes; None: it is too long


def cut(content: Iterable[bytes], most: int) -> Iterator[Raw]:
    """The lines that are not blank, in UTF-8; none of more than `most` bytes is held. LF and CRLF, a byte order mark,
    and UTF-16 as PowerShell writes it are read.
    """
    number, rest, over = 1, b"", False
    for chunk in _utf8(content):
        whole, _, tail = chunk.rpartition(b"\n")
        if len(whole) == len(chunk) - len(tail):  # no line ends here
            rest, over = (b"", True) if over or len(rest) + len(tail) > most else (rest + tail, False)
            continue
        for line in whole.split(b"\n"):
            if over or len(rest) + len(line) > most:
                yield number, None
            elif found := (rest + line).strip():
                yield number, found
            number, rest, over = number + 1, b"", False
        rest, over = (b"", True) if len(tail) > most else (tail, False)
    if over:
        yield number, None
    elif found := rest.strip():
        yield number, found


def _utf8(content: Iterable[bytes]) -> Iterator[bytes]:
    decoder: codecs.IncrementalDecoder | None = None
    first = True
    for given in content:
        chunk = given
        if first and chunk:
            first = False
            encoding = json.detect_encoding(chunk[:4])
            if encoding.startswith("utf-16"):
                # What is broken stays broken, and is found on its own line.
                decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
            else:
                chunk = chunk.removeprefix(codecs.BOM_UTF8)
        if decoder is not None:
            chunk = decoder.decode(chunk).removeprefix("\ufeff").encode("utf-8", "surrogatepass")
        yield chunk
