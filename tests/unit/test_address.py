"""Every literal, spelling and name trick that has led a server to call where it must not."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.settings.address import networks
from worker.webhooks.address import Refused, Rules, is_public, parse, vet

LIST = tomllib.loads((Path(__file__).parent / "addresses.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("address", LIST["closed_v4"])
def test_a_closed_v4_literal_is_refused(address: str) -> None:
    with pytest.raises(Refused):
        parse(f"https://{address}/hook")
    with pytest.raises(Refused):
        vet(parse("https://example.com/"), [address])


@pytest.mark.parametrize("address", LIST["closed_v6"])
def test_a_closed_v6_literal_is_refused(address: str) -> None:
    with pytest.raises(Refused):
        parse(f"https://[{address}]/hook")
    with pytest.raises(Refused):
        vet(parse("https://example.com/"), [address])


@pytest.mark.parametrize("url", LIST["spellings"] + LIST["blanks"])
def test_a_doubtful_spelling_is_refused(url: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(url)
    assert str(refused.value), "and it says why"


@pytest.mark.parametrize("name", LIST["names"])
def test_a_private_name_is_refused_before_anybody_resolves_it(name: str) -> None:
    with pytest.raises(Refused):
        parse(f"https://{name}/hook")


def test_a_url_without_end_is_refused() -> None:
    with pytest.raises(Refused, match="longer"):
        parse("https://example.com/" + "a" * 2048)


@pytest.mark.parametrize("address", LIST["open"])
def test_a_public_address_passes(address: str) -> None:
    literal = f"[{address}]" if ":" in address else address
    url = parse(f"https://{literal}/hook")
    assert url.literal == ip_address(address)
    assert str(url) == f"https://{literal}/hook"
    assert vet(parse("https://example.com/"), [address]) == [ip_address(address)]


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("https://example.com", "example.com", 443, "/"),
        ("https://Example.COM/A?b=%20c", "example.com", 443, "/A?b=%20c"),
        ("HTTPS://example.com:8443/x", "example.com", 8443, "/x"),
        ("https://bücher.example/x", "xn--bcher-kva.example", 443, "/x"),
        ("https://example.com?x=1", "example.com", 443, "/?x=1"),
        ("https://a.b.example.com/@x:y", "a.b.example.com", 443, "/@x:y"),
        ("https://hooks.local.example.com/", "hooks.local.example.com", 443, "/"),
    ],
)
def test_an_ordinary_url_is_taken_apart(text: str, host: str, port: int, path: str) -> None:
    url = parse(text)
    assert (url.scheme, url.host, url.port, url.path, url.private) == ("https", host, port, path, False)
    assert parse(str(url)) == url


def test_one_private_address_among_public_ones_refuses_them_all() -> None:
    url = parse("https://example.com/")
    for answers in (["1.1.1.1", "127.0.0.1"], ["1.1.1.1", "fd12::1"], ["10.0.0.1", "1.1.1.1"]):
        with pytest.raises(Refused):
            vet(url, answers)
    with pytest.raises(Refused):
        vet(url, [])
    with pytest.raises(Refused):
        vet(url, [f"1.1.{i // 250}.{i % 250}" for i in range(201)])
    assert len(vet(url, [f"1.1.1.{i}" for i in range(200)])) == 200


def test_a_network_named_by_the_operator_opens_itself_and_nothing_else() -> None:
    rules = Rules(private=networks(["10.1.2.0/24", "fd12::/16"]))
    for text in ("https://10.1.2.3/", "http://10.1.2.3:9000/hook", "https://[fd12::5]:5000/", "http://10.1.2.3/"):
        parse(text, rules)
    assert vet(parse("http://redis.railway.internal:9000/", rules), ["fd12::9"], rules) == [ip_address("fd12::9")]
    for text in ("https://10.1.3.1/", "https://127.0.0.1/", "http://1.1.1.1/", "https://1.1.1.1:9000/"):
        with pytest.raises(Refused):
            parse(text, rules)
    with pytest.raises(Refused):
        vet(parse("http://redis.railway.internal:9000/", rules), ["1.1.1.1"], rules)
    with pytest.raises(Refused):
        vet(parse("http://example.com/", rules), ["1.1.1.1"], rules)
    assert vet(parse("https://example.com/", rules), ["1.1.1.1"], rules)


def test_plain_http_and_ports_are_the_operators_choice() -> None:
    rules = Rules(plain=True, ports=frozenset({443, 9443}))
    parse("http://example.com/", rules)
    parse("https://example.com:9443/", rules)
    for text in ("http://example.com:81/", "https://example.com:8443/"):
        with pytest.raises(Refused):
            parse(text, rules)


def test_this_service_does_not_call_itself() -> None:
    rules = Rules(own_names=frozenset({"completar.example.com"}))
    with pytest.raises(Refused, match="itself"):
        parse("https://Completar.example.com/hook", rules)


def test_an_operators_typing_error_is_named() -> None:
    with pytest.raises(ValueError, match=r"10\.1\.2\.3/24"):
        networks(["10.1.2.3/24"])


@given(st.integers(0, 2**32 - 1))
def test_nat64_is_judged_by_the_address_within_or_not_at_all(number: int) -> None:
    within = IPv6Address(int(IPv6Address("64:ff9b::")) + number)
    assert is_public(within, nat64=True) == is_public(IPv4Address(number))
    assert not is_public(within)


@given(
    st.sampled_from([IPv6Network("::/8"), IPv6Network("2002::/16"), IPv6Network("64:ff9b::/32")]),
    st.integers(0, 2**128 - 1),
)
def test_nothing_in_a_translating_prefix_is_public(network: IPv6Network, number: int) -> None:
    address = IPv6Address(int(network.network_address) | number & int(network.hostmask))
    assert not is_public(address)


@given(st.text(max_size=60))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    for url in (text, f"https://{text}/", f"https://example.com/{text}"):
        try:
            found = parse(url)
        except Refused:
            continue
        assert parse(str(found)) == found


def test_the_host_header_names_an_unusual_port() -> None:
    assert parse("https://example.com:8443/").authority == "example.com:8443"
    assert parse("https://example.com:443/").authority == "example.com"
    assert parse("https://[2606:4700:4700::1111]:8443/").authority == "[2606:4700:4700::1111]:8443"
