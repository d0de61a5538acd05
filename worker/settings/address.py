"""URLs as people and platforms write them, checked and brought into the form that is used.

The functions raise ValueError with a sentence that repeats nothing of the URL: there may be a password in it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_POSTGRES: Final = frozenset({"postgres", "postgresql", "postgresql+psycopg"})
_REDIS: Final = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_TLS: Final = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_NUMBERED: Final = re.compile(r"[^/#]+(/\d*)?")
_WRITTEN: Final = ":%!$&'()*+,;="  # as they are in a password; what is written with % is written so already
_USERINFO: Final = re.compile(r"(?s)(?<=://)([^:@/]*):.*(?=@)")
_PLAIN: Final = re.compile(r"[!-~]+")  # ASCII without blanks
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_SECRET_QUERY: Final = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*")


def database_url(text: str) -> str:
    """`postgres://` and `postgresql://` become psycopg 3's form; `sqlite:///file` stays."""
    scheme, found, rest = text.partition("://")
    if found and scheme in _POSTGRES:
        if rest.count("@") > 1:  # SQLAlchemy ends the password at the first, and the rest would be told as the host
            raise ValueError("holds more than one @: those of the user name, password or query are written %40")
        _check_host(rest)
        if not _known_to_libpq(rest):
            raise ValueError(
                "has something after its ? that libpq does not know, as pgbouncer, schema or connection_limit, which"
                " are for other clients: leave it out, and name the database itself, not a pooler in transaction mode"
            )
        return f"postgresql+psycopg://{rest}"
    if found and scheme == "sqlite":
        if not rest.startswith("/"):
            raise ValueError("needs three slashes before its file: sqlite:///jobs.db, sqlite:////var/jobs.db")
        if len(rest) < 2 or rest.startswith("/:memory:"):
            raise ValueError("needs a file (sqlite:///path): a database in memory is not shared between threads")
        return text
    raise ValueError("must begin with postgresql://, postgres:// or sqlite:///")


def redis_url(text: str) -> str:
    """`redis://` or `rediss://`; Valkey's schemes are the same protocol. Its readers take a password only as a URL has
    it, and each parameter as one of their own arguments: `?family=0`, which others need on Railway, stopped a worker.
    """
    scheme, found, rest = text.partition("://")
    if not found or scheme not in _REDIS:
        raise ValueError("must begin with redis:// or rediss://")
    if not _check_host(rest):
        raise ValueError("names no host")
    scheme = _REDIS[scheme]
    userinfo, at, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    if not _NUMBERED.fullmatch(place):
        raise ValueError("may have the number of a database after its host, and nothing else: redis://host:6379/0")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if not given.keys() <= (_TLS if scheme == "rediss" else frozenset()):
        raise ValueError(f"takes nothing after a ?, and rediss:// only {', '.join(sorted(_TLS))}: leave the rest out")
    if "ssl_cert_reqs" in given:
        given["ssl_cert_reqs"] = given["ssl_cert_reqs"].lower().removeprefix("cert_")
        if given["ssl_cert_reqs"] not in {"none", "optional", "required"}:
            raise ValueError("must have none, optional or required for ssl_cert_reqs")
    return f"{scheme}://{quote(userinfo, safe=_WRITTEN)}{at}{place}" + (f"?{urlencode(given)}" if given else "")


def base_url(text: str) -> str:
    """The part of a provider's address that is common to all its calls, without a slash at the end."""
    parts = _http(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds a user name or password; keys are named in api_keys")
    if parts.query or parts.fragment:
        raise ValueError("must end before the ? and the #")
    url = text.rstrip("/")
    for ending in ("/chat/completions", "/embeddings"):
        if url.endswith(ending):
            raise ValueError(f"must end before {ending}")
    return url


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Such as `10.1.2.0/24` or `fd12::/16`; names the one that is no network."""
    found: list[Network] = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip()))
        except ValueError as fault:
            raise ValueError(f"{text!r} is no network such as 10.1.2.0/24 ({fault})") from None
    return tuple(found)


def web_url(text: str) -> str:
    _http(text)
    return text.rstrip("/")


def masked(url: str) -> str:
    """The URL without its password: everything between the first colon and the last @ is taken for one."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub(r"\1:***", url))


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_host(rest: str) -> str | None:
    """The host of what follows `://`. A password may hold any character, so only what is after the last @ is split."""
    return _split("//" + rest.rpartition("@")[2]).hostname


def _known_to_libpq(rest: str) -> bool:
    """Whether the driver takes the parameters; it would refuse each connection for one that it does not know."""
    query = rest.rpartition("@")[2].partition("?")[2]
    if not query:
        return True
    from psycopg.pq import Conninfo  # noqa: PLC0415 - a tenth of a second that few need

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    return all(name in known for name, _ in parse_qsl(query, keep_blank_values=True))


def _http(text: str) -> SplitResult:
    parts = _split(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// or http://")
    if not _PLAIN.fullmatch(text) or not _is_host(parts.hostname):
        raise ValueError("holds a character that has no place in a URL")
    return parts


def _is_host(name: str) -> bool:
    if ":" not in name:
        return _HOST.fullmatch(name) is not None
    try:
        ipaddress.IPv6Address(name)
    except ValueError:
        return False
    return True


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # read here because it is only now that the standard library looks at it
    except ValueError:
        raise ValueError("is not a valid URL: look at the host and the port") from None
    return parts
