"""Which addresses a user's URL may reach. Pure: names are resolved by whoever asks.

`parse` reads the URL once, strictly; `vet` judges what its name resolved to. Both must pass, and the address that was
vetted is the one to dial. Python's own `is_global` is no help: it calls multicast, NAT64 and 6to4 global, and up to
3.12 some metadata addresses (seen in CPython 3.11). So the table is ours, after the IANA special-purpose registries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

import idna

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL: Final = 2048
MAX_ADDRESSES: Final = 200  # a name with more than these is an attack or a fault
_NAT64: Final = IPv6Network("64:ff9b::/96")  # RFC 6052, the well-known prefix
_GLOBAL_V6: Final = IPv6Network("2000::/3")  # all that IANA has given out for unicast
_CLOSED_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, reachable from every machine there
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_CLOSED_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4: the address of any IPv4 host in disguise
        "3fff::/20",
    )
)
_PRIVATE_NAMES: Final = (
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "host.docker.internal",
    "ip6-localhost",
    "ip6-loopback",
)
_PRINTABLE: Final = re.compile(r"[^\x00-\x20\x7f-\xa0\\]+")
_PARTS: Final = re.compile(r"(?i)(https?)://([^/?#]*)([^#]*)")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")


class Refused(ValueError):
    """This URL or address may not be called; the message says why without telling what is there."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator allows beyond the public internet.

    private    networks that may be called although they are not public; within them any port and plain http
    ports      for public addresses
    plain      http:// to public addresses too
    any_port   whatever port public addresses are called at
    nat64      the machine reaches IPv4 through NAT64, so 64:ff9b::/96 is judged by the IPv4 address in it
    own_names  names of this very service: calling itself is a loop
    """

    private: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443, 8443})
    plain: bool = False
    any_port: bool = False
    nat64: bool = False
    own_names: frozenset[str] = frozenset()


PUBLIC_ONLY: Final = Rules()


@dataclass(frozen=True, slots=True)
class Url:
    """A URL taken apart once; connect with these parts and nothing else.

    host     in ASCII, lower case; an IPv6 address without brackets
    path     with the query, at least "/"
    literal  the host, where it is an address
    private  may only be dialled within `Rules.private` (plain http, an unusual port, a private name)
    """

    scheme: str
    host: str
    port: int
    path: str
    literal: Address | None
    private: bool

    @property
    def authority(self) -> str:
        """For the Host header: the port is named where it is not the scheme's own (RFC 9110, 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _own_port(self.scheme) else f"{host}:{self.port}"

    @property
    def look_up(self) -> str:
        """What a resolver is asked. With a dot at the end no search domain is tried; private names may stand in the
        hosts file, which has none.
        """
        return self.host if self.private else self.host + "."

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(text: str, rules: Rules = PUBLIC_ONLY) -> Url:
    """Take a user's URL apart. Raises Refused with one sentence that repeats no part of the URL."""
    if len(text) > MAX_URL:
        raise Refused(f"is longer than {MAX_URL} characters")
    if not _PRINTABLE.fullmatch(text):
        raise Refused("holds a blank, a control character or a backslash")
    if "#" in text:
        raise Refused("must not have a fragment (#...)")
    found = _PARTS.fullmatch(text)
    if found is None:
        raise Refused("must begin with https://")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if not path.isascii():
        raise Refused("has characters in its path that must be percent-encoded")
    path = path if path.startswith("/") else "/" + path
    if "@" in authority:
        raise Refused("must not hold a user name or password")
    host, port = _host_and_port(authority, scheme)
    name = host if host.startswith("[") else _ascii(host)
    literal = _literal(name)
    usual = rules.any_port or port in (rules.ports if scheme == "https" else rules.ports | {80})
    unusual = not usual or (scheme == "http" and not rules.plain)
    if unusual and not rules.private:
        if scheme == "http" and not rules.plain:
            raise Refused("must begin with https://")
        raise Refused(f"may only use port {', '.join(str(p) for p in sorted(rules.ports))}")
    private = unusual
    if literal is not None:
        _judge(literal, rules, private=private)
    else:
        private = _named(name, rules) or private
    return Url(scheme, name if literal is None else literal.compressed, port, path, literal, private)


def vet(url: Url, addresses: Iterable[str], rules: Rules = PUBLIC_ONLY) -> list[Address]:
    """What may be dialled for this URL, in the resolver's order; one bad address refuses them all. Raises Refused."""
    found = [_parsed(text) for text in addresses]
    if not found:
        raise Refused("its name has no address")
    if len(found) > MAX_ADDRESSES:
        raise Refused("its name has too many addresses")
    for address in found:
        _judge(address, rules, private=url.private)
    return list(dict.fromkeys(found))


def _parsed(text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise Refused("its name resolves to something that is no address") from None


def is_public(address: Address, *, nat64: bool = False) -> bool:
    """Whether an address belongs to the public internet and to nothing in disguise."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _CLOSED_V4)
    if address.scope_id is not None:
        return False
    if nat64 and address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _CLOSED_V6)


def _judge(address: Address, rules: Rules, *, private: bool) -> None:
    if any(address.version == network.version and address in network for network in rules.private):
        return
    if not is_public(address, nat64=rules.nat64):
        raise Refused("leads to an address that is not on the public internet")
    if private:
        raise Refused("must use https and an ordinary port: only private networks may do otherwise")


def _host_and_port(authority: str, scheme: str) -> tuple[str, int]:
    if authority.startswith("["):
        inner, closed, rest = authority[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise Refused("has no valid host")
        host, port_text, given = f"[{inner}]", rest[1:], bool(rest)
    else:
        host, colon, port_text = authority.partition(":")
        given = bool(colon)
    if not host:
        raise Refused("names no host")
    if not given:
        return host, _own_port(scheme)
    if not _PORT.fullmatch(port_text) or not 0 < int(port_text) < 65536:
        raise Refused("has no valid port")
    return host, int(port_text)


def _literal(host: str) -> Address | None:
    """The address a host spells in the one canonical way; None: it is a name. Raises Refused for any other spelling."""
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1])
        except ValueError:
            raise Refused("has no valid IPv6 address in its brackets") from None
        if address.scope_id is not None:
            raise Refused("names a network interface")
        return address
    # WHATWG: a name whose last label is a number is an IPv4 address, in any of a dozen spellings. Resolvers agree.
    if _NUMBER.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]):
        try:
            return IPv4Address(host)
        except ValueError:
            raise Refused("spells an address in an unusual way; write it as 1.2.3.4") from None
    return None


def _named(name: str, rules: Rules) -> bool:
    """Whether only private networks may be behind this name. Raises Refused where no such name may be called."""
    if name in rules.own_names:
        raise Refused("is this service itself")
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused("has no valid host name")
    private = len(labels) == 1 or any(name == known or name.endswith("." + known) for known in _PRIVATE_NAMES)
    if private and not rules.private:
        raise Refused("leads to an address that is not on the public internet")
    return private


def _ascii(host: str) -> str:
    """The name as it goes to a resolver. Raises Refused."""
    if "%" in host:
        raise Refused("has an encoded host name")
    if host.isascii():
        return host.lower()
    try:
        return idna.encode(host, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise Refused("has no valid host name") from None


def _own_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80
