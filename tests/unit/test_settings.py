from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args
from urllib.parse import unquote

import httpx
import kombu
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError
from redis.connection import parse_url
from sqlalchemy import make_url

from worker.domain.consensus import Consensus
from worker.domain.failure import FailureKind, Lane
from worker.settings import (
    OwnEndpoint,
    ProviderConfig,
    RouteConfig,
    SettingsError,
    environment_table,
    load,
    read,
    redacted,
)
from worker.settings.address import base_url, database_url, is_loopback, masked, redis_url
from worker.settings.file import PanelConfig, parsed
from worker.settings.table import bounds, by_field
from worker.settings.variables import Settings, user_data_dir

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "completar.example.toml"
LONG = "a-key-of-more-than-twenty-characters"
NUMBERS = [field for field in by_field() if bounds(field) is not None]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the repository's root, where somebody may have a completar.toml."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(text: str, name: str = "conf.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def faults(environ: dict[str, str], config: Path | None = None) -> dict[str, str]:
    with pytest.raises(SettingsError) as raised:
        load(environ, config)
    return {fault.where: str(fault) for fault in raised.value.faults}


# -- the environment ----------------------------------------------------------------------------------------------


def test_nothing_set_is_the_embedded_program() -> None:
    settings = load({"HOME": "/home/ana"})
    assert settings.redis_url is None
    assert (settings.host, settings.port, settings.drain_s, settings.slots) == ("127.0.0.1", 8000, 25.0, 1000)
    assert settings.lanes == {Lane.INTERACTIVE, Lane.BATCH}
    assert settings.database.startswith("sqlite:///")
    assert settings.database.endswith("completar/completar.sqlite3")
    assert settings.warnings == ()


def test_values_of_production_are_read() -> None:
    settings = load(
        {
            "DATABASE_URL": "postgres://u:p@db.internal:5432/app",
            "REDIS_URL": "rediss://default:p@cache:6380/0",
            "PORT": "0",
            "HOST": "::",
            "COMPLETAR_API_KEY": LONG,
            "LANES": " Batch ,",
            "COMPLETAR_WAITERS": "0",
            "COMPLETAR_LOG_LEVEL": "WARNING",
            "COMPLETAR_DATA_DIR": "/var/lib/completar",
        }
    )
    assert settings.database == "postgresql+psycopg://u:p@db.internal:5432/app"
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "rediss://default:p@cache:6380/0"
    assert (settings.port, settings.waiters) == (0, 0)
    assert settings.lanes == {Lane.BATCH}
    assert settings.log_level == "warning"
    assert settings.data_dir == Path("/var/lib/completar")


def test_blank_is_not_set() -> None:
    assert load({"PORT": " ", "DATABASE_URL": "", "GROQ_API_KEY": "\n"}) == load({})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load({}).port = 1


def test_all_faults_come_at_once_each_with_its_variable() -> None:
    found = faults(
        {
            "SLOTS": "many",
            "PORT": "70000",
            "COMPLETAR_SLOTS": "3",
            "COMPLETAR_SANDBXO": "on",
            "COMPLETAR_SANDBOX": "offf",
            "LANES": "bach",
            "DATABASE_URL": "mysql://h/x",
            "COMPLETAR_URL": "localhost:8000",
        }
    )
    assert "1 to 100,000" in found["SLOTS"]
    assert "0 to 65,535" in found["PORT"]
    assert "Did you mean SLOTS?" in found["COMPLETAR_SLOTS"]
    assert "Did you mean COMPLETAR_SANDBOX?" in found["COMPLETAR_SANDBXO"]
    assert "Did you mean off?" in found["COMPLETAR_SANDBOX"]
    assert "Did you mean batch?" in found["LANES"]
    assert "postgresql://" in found["DATABASE_URL"]
    assert "https://" in found["COMPLETAR_URL"]
    assert len(found) == 8


@given(st.sampled_from(NUMBERS), st.integers(-(10**12), 10**12))
def test_a_number_is_taken_within_its_bounds_and_no_further(field: str, number: int) -> None:
    low, high = bounds(field) or (0, 0)
    name = by_field()[field].name
    _, found = read({name: str(number)})
    wrong = [fault for fault in found if fault.where == name and " number (" in fault.message]
    assert bool(wrong) is not (low <= number <= high)
    assert all(f"{low:,} to {high:,}" in fault.message for fault in wrong)


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "12 ducks"])
def test_no_number_is_no_number(field: str, value: str) -> None:
    name = by_field()[field].name
    assert name in faults({name: value})


@pytest.mark.parametrize("field", NUMBERS)
def test_the_default_lies_within_the_bounds(field: str) -> None:
    low, high = bounds(field) or (0, 0)
    assert low <= Settings.model_fields[field].default <= high


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_a_weak_key_will_do_on_loopback(host: str) -> None:
    settings = load({"COMPLETAR_API_KEY": "short", "HOST": host})
    assert settings.api_key == SecretStr("short")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_a_weak_key_is_refused_where_others_can_reach_it(host: str) -> None:
    assert "20 characters" in faults({"COMPLETAR_API_KEY": "x" * 19, "HOST": host})["COMPLETAR_API_KEY"]
    assert load({"COMPLETAR_API_KEY": "x" * 20, "HOST": host}).host == host


def test_one_variable_is_told_once() -> None:
    _, found = read({"LANES": "bach,intractive"})
    assert [fault.where for fault in found] == ["LANES"]


def test_a_secret_key_is_long() -> None:
    assert "32 characters" in faults({"COMPLETAR_SECRET_KEY": "x" * 31})["COMPLETAR_SECRET_KEY"]
    assert load({"COMPLETAR_SECRET_KEY": "x" * 32}).secret_key is not None


def test_a_lease_outlives_two_heartbeats() -> None:
    assert "COMPLETAR_HEARTBEAT_S" in faults({"COMPLETAR_LEASE_S": "5.9"})["COMPLETAR_LEASE_S"]
    assert load({"COMPLETAR_LEASE_S": "6"}).lease_s == 6.0


@pytest.mark.parametrize("key", ['"gsk_quoted"', "two words", "line\nbreak", "clé"])
def test_a_key_that_was_copied_badly_is_told(key: str) -> None:
    text = faults({"GROQ_API_KEY": key})["GROQ_API_KEY"]
    assert key not in text


@given(st.dictionaries(st.sampled_from([row.name for row in environment_table()]), st.text(max_size=30)))
def test_whatever_is_in_the_environment_it_is_read_or_told(environ: dict[str, str]) -> None:
    environ.pop("COMPLETAR_CONFIG", None)  # a fault there is told with the path
    _, found = read(environ)
    assert {fault.where for fault in found} <= environ.keys() | {"COMPLETAR_LEASE_S"}


def test_the_home_of_nobody_is_told() -> None:
    assert "user" in faults({"COMPLETAR_DATA_DIR": "~no-such-user-at-all/x"})["COMPLETAR_DATA_DIR"]


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12, max_size=40).map("S3cr3t".__add__))
def test_no_secret_is_ever_shown(secret: str) -> None:
    environ = {
        "DATABASE_URL": f"postgres://u:{secret}@h/db?sslpassword={secret}",
        "REDIS_URL": f"redis://:{secret}@h:1/0",
        "COMPLETAR_API_KEY": secret,
        "COMPLETAR_SECRET_KEY": secret * 2,
        "GROQ_API_KEY": secret,
    }
    settings = load(environ)
    assert secret in settings.database
    assert settings.keys["GROQ_API_KEY"].get_secret_value() == secret
    assert secret not in repr(settings)
    assert secret not in json.dumps(redacted(settings))
    with pytest.raises(SettingsError) as raised:  # every one of them wrong, in the way of a slip while copying
        load(
            {name: f'"{value}' for name, value in environ.items()}
            | {"HOST": "0.0.0.0", "SLOTS": secret, "LANES": secret}
        )
    assert secret not in str(raised.value)
    assert len(raised.value.faults) == 7


def test_the_result_can_be_shown() -> None:
    shown = redacted(load({"DATABASE_URL": "postgres://u:p@h/db", "COMPLETAR_API_KEY": LONG, "OPENAI_API_KEY": "sk-1"}))
    assert shown["DATABASE_URL"] == "postgresql+psycopg://u:***@h/db"
    assert (shown["COMPLETAR_API_KEY"], shown["OPENAI_API_KEY"], shown["GROQ_API_KEY"]) == ("***", "***", None)
    assert (shown["PORT"], shown["LANES"], shown["REDIS_URL"]) == (8000, "interactive,batch", None)


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"HOME": "/home/ana"}, "/home/ana/.local/share/completar"),
        ("linux", {"HOME": "/home/ana", "XDG_DATA_HOME": "/data"}, "/data/completar"),
        ("linux", {"HOME": "/home/ana", "XDG_DATA_HOME": "relative"}, "/home/ana/.local/share/completar"),
        ("darwin", {"HOME": "/Users/ana"}, "/Users/ana/Library/Application Support/completar"),
        ("win32", {"LOCALAPPDATA": "C:/Users/ana/AppData/Local"}, "C:/Users/ana/AppData/Local/completar"),
        ("win32", {"USERPROFILE": "C:/Users/ana"}, "C:/Users/ana/AppData/Local/completar"),
    ],
)
def test_the_data_folder_is_where_the_platform_wants_it(platform: str, environ: dict[str, str], expected: str) -> None:
    assert user_data_dir(environ, platform).as_posix() == expected


# -- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("postgres://u:p@h:5432/db", "postgresql+psycopg://u:p@h:5432/db"),
        ("postgresql://u:p@h/db?sslmode=require", "postgresql+psycopg://u:p@h/db?sslmode=require"),
        ("postgresql+psycopg://h/db", "postgresql+psycopg://h/db"),
        ("postgresql://u:a#b/c:d@h:5432/db", "postgresql+psycopg://u:a#b/c:d@h:5432/db"),
        ("postgresql://postgres:@/postgres?host=/tmp/pg", "postgresql+psycopg://postgres:@/postgres?host=/tmp/pg"),
        (
            "postgres://u:a?b=c@h/db?sslmode=require&channel_binding=require",
            "postgresql+psycopg://u:a?b=c@h/db?sslmode=require&channel_binding=require",
        ),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("sqlite:////var/jobs.db", "sqlite:////var/jobs.db"),
    ],
)
def test_databases(given_url: str, expected: str) -> None:
    assert database_url(given_url) == expected
    assert database_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "db", "mysql://h/db", "postgresql:/h/db", "postgres://h:port/db", "postgres://u:p@ss@h/db"),
        *("sqlite://", "sqlite:///", "sqlite://x.db", "sqlite:///:memory:"),
        *("postgres://h/db?pgbouncer=true", "postgres://h/db?sslmode=require&schema=public"),
        *("postgres://u:a?b@h/db?prepare_threshold=0", "postgres://h/db?connection_limit="),
    ],
)
def test_no_databases(url: str) -> None:
    with pytest.raises(ValueError):
        database_url(url)


def test_a_password_with_an_at_sign_is_told_how_it_is_written_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="written %40") as fault:
        database_url("postgres://u:p@ss@host/db")
    assert "ss@" not in str(fault.value)
    assert make_url(database_url("postgres://u:p%40ss@host/db")).password == "p@ss"


def test_redis_addresses() -> None:
    assert redis_url("redis://h:6379/0") == "redis://h:6379/0"
    assert redis_url("valkeys://u:p@h:6379") == "rediss://u:p@h:6379"
    for url in ("amqp://h", "redis://", "redis:h", "redis://h:x", "redis://h/jobs", "redis://h/0/1", "redis://h#0"):
        with pytest.raises(ValueError):
            redis_url(url)


@pytest.mark.parametrize("password", ["p/w", "p#w", "p?w", "p@w", "p:w", "p%2Fw", "ñ", "p+w", "[", "p w"])
def test_redis_passwords_are_read_as_they_were_written(password: str) -> None:
    url = redis_url(f"redis://default:{password}@h:6379/1")
    read = kombu.Connection(url).info()
    assert (read["hostname"], read["port"], read["virtual_host"]) == ("h", 6379, "1")
    assert read["password"] == parse_url(url)["password"] == unquote(password)
    assert redis_url(url) == url


def test_redis_takes_what_is_for_tls_and_nothing_else() -> None:
    given = "rediss://:p@h:6379/0?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=%2Fetc%2Fca.pem"
    assert redis_url(given) == "rediss://:p@h:6379/0?ssl_cert_reqs=none&ssl_ca_certs=%2Fetc%2Fca.pem"
    for ending in ("://h?family=0", "://h?ssl_cert_reqs=none", "s://h?family=0", "s://h?ssl_cert_reqs=x"):
        with pytest.raises(ValueError):
            redis_url(f"redis{ending}")


@pytest.mark.parametrize(
    "url",
    [
        "api.groq.com/openai/v1",
        "ftp://h/v1",
        "https://",
        "https://user:secret@h/v1",
        "https://h/v1?key=1",
        "https://h/v1#x",
        "https://h/v1/chat/completions",
        "https://h/a b",
        "https://h:99999/v1",
        "https://h/\x00",
        "https://exa mple/v1",
    ],
)
def test_no_base_urls(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        base_url(url)
    assert "secret" not in str(raised.value)


@given(st.text(st.sampled_from("ab.-_:/[]%@?# é\x7f0123"), max_size=25))
def test_a_base_url_that_is_taken_can_be_called(tail: str) -> None:
    try:
        url = base_url(f"https://{tail}")
    except ValueError:
        return
    assert httpx.URL(url + "/chat/completions").host
    assert not url.endswith("/")
    assert base_url(url) == url


@given(st.text(st.characters(codec="ascii", exclude_characters="@ "), min_size=1).map("pw".__add__))
def test_a_password_is_masked_whatever_is_in_it(password: str) -> None:
    assert masked(f"postgresql://user:{password}@host:5432/db") == "postgresql://user:***@host:5432/db"


def test_what_has_no_password_is_shown_as_it_is() -> None:
    assert masked("redis://cache:6379/0") == "redis://cache:6379/0"
    assert (
        masked("postgresql://h/db?sslmode=require&password=x&a=b")
        == "postgresql://h/db?sslmode=require&password=***&a=b"
    )


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "LOCALHOST", "::1")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "localhost.example.org")))


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_file_is_read_where_it_is_named(file: Any) -> None:
    path = file('[routes.fast]\ntargets = ["groq"]\nmax_wait_s = 0\n')
    by_variable, by_argument = load({"COMPLETAR_CONFIG": str(path)}), load({}, path)
    assert by_variable.routes == by_argument.routes
    assert by_variable.config == by_argument.config == path
    assert by_variable.routes["fast"].targets == ("groq",)
    assert by_variable.routes["fast"].max_wait_s == 0.0


def test_completar_toml_of_the_working_folder_is_the_default(file: Any) -> None:
    file('[routes.here]\ntargets = ["groq"]\n', "completar.toml")
    other = file('[routes.there]\ntargets = ["groq"]\n')
    assert set(load({}).routes) == {"here"}
    assert set(load({}, other).routes) == {"there"}


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    assert "cannot be read" in faults({}, tmp_path / "none.toml")[str(tmp_path / "none.toml")]
    assert "cannot be read" in faults({"COMPLETAR_CONFIG": str(tmp_path)})[str(tmp_path)]


def test_files_as_windows_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "bom.toml"
    path.write_bytes(b"\xef\xbb\xbf[routes.fast]\r\ntargets = ['groq']\r\n")
    assert set(load({}, path).routes) == {"fast"}
    path.write_bytes("[routes.fast]".encode("utf-16"))
    assert "Save it as UTF-8" in faults({}, path)[str(path)]


def test_a_table_said_twice_is_told_with_its_line(file: Any) -> None:
    path = file("[routes.a]\ntargets = ['groq']\n[routes.a]\ntargets = ['kimi']\n")
    assert "line 3" in faults({}, path)[str(path)]


FAULTY = """
[provider.x]

[providers.groq]
limit = { rpm = 3 }
limits = { rpm = 0, tmp = 3, concurrency = true }

[providers.mine]
base_url = "https://user:hidden@h/v1"
api_keys = ["MINE_KEY", "mine"]
models."x/y" = { window = "a", takes = ["completoin"], price = { input = -1 } }

[providers.sandbox]

[routes.fast]
targets = ["groq", "groq"]
on = { content_filtr = "next", cancelled = "next", quota = "never" }

[routes.slow]
targets = "groq"
max_attempts = 0
attempt_timeout_s = inf
backoff = { base_s = 9, cap_s = 1 }

[routes."a/b"]
targets = ["groq"]
"""


def test_all_faults_of_a_file_come_at_once(file: Any) -> None:
    found = faults({"SLOTS": "0"}, file(FAULTY))
    assert "Did you mean providers?" in found["provider"]
    assert "Did you mean limits?" in found["providers.groq.limit"]
    assert "Did you mean tpm?" in found["providers.groq.limits.tmp"]
    assert "Did you mean completion?" in found["providers.mine.models.x/y.takes.0"]
    assert "Did you mean content_filter?" in found["routes.fast.on.content_filtr"]
    assert "list" in found["routes.slow.targets"]
    assert "hidden" not in "".join(found.values())
    assert set(found) == {
        "SLOTS",
        "provider",
        "providers.groq.limit",
        "providers.groq.limits.rpm",
        "providers.groq.limits.tmp",
        "providers.groq.limits.concurrency",
        "providers.mine.base_url",
        "providers.mine.api_keys.1",
        "providers.mine.models.x/y.window",
        "providers.mine.models.x/y.takes.0",
        "providers.mine.models.x/y.price.input",
        "providers.mine.models.x/y.price.output",
        "providers.sandbox",
        "routes.fast.targets",
        "routes.fast.on.content_filtr",
        "routes.fast.on.cancelled",
        "routes.fast.on.quota",
        "routes.slow.targets",
        "routes.slow.max_attempts",
        "routes.slow.attempt_timeout_s",
        "routes.slow.backoff",
        "routes.a/b",
    }


def test_what_is_right_beside_a_fault_is_kept(file: Any) -> None:
    settings, found = read({}, file("[providers.groq]\nlabel = 'Fast'\nlimits = { rpm = 0 }\n"))
    assert settings.providers["groq"].label == "Fast"
    assert [fault.where for fault in found] == ["providers.groq.limits.rpm"]


def test_keys_named_in_the_file_must_be_set(file: Any) -> None:
    path = file("[providers.groq]\napi_keys = ['GROQ_API_KEY', 'GROQ_API_KEY_2']\n")
    assert load({"GROQ_API_KEY": "a", "GROQ_API_KEY_2": "b"}, path).keys["GROQ_API_KEY_2"] == SecretStr("b")
    text = faults({"GROQ_API_KEY": "a", "GROQ_APIKEY_2": "b"}, path)["providers.groq.api_keys"]
    assert "GROQ_API_KEY_2 is not set. Did you mean GROQ_APIKEY_2?" in text
    assert "Did you mean" not in faults({"GROQ_API_KEY": "a"}, path)["providers.groq.api_keys"]


KEYS = ["gsk_a1b2c3d4e5f6g7h8i9j0", "sk-proj-a1b2c3d4e5f6g7h8", "hf_abcdefghijklmnopqrst", "AIzaSyA1b2c3d4e5f6g7h8"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "text",
    [
        "[providers.groq]\napi_keys = ['{}']",
        "[providers.groq]\napi_key = '{}'",
        "[providers.groq]\nlabel = '{}'",
        "[providers.groq]\naccounts = {{ {} = 'a' }}",
        "[providers.groq]\nmodels.x = {{ price = '{}' }}",
        "[providers.{}]\nlabel = 'x'",
        "[routes.fast]\ntargets = ['groq', '{}']",
        "token = '{}'",
    ],
)
def test_a_key_in_the_file_is_refused_with_the_reason_and_not_repeated(file: Any, text: str, key: str) -> None:
    found = faults({}, file(text.format(key)))
    assert any("looks like a key" in one for one in found.values())
    assert key not in "".join(found.values())


def test_keys_without_a_known_beginning_are_no_names_of_variables(file: Any) -> None:
    for key in ("abcdef0123456789", "ABCDEF0123456789ABCDEF", "My_Key"):
        text = "".join(faults({}, file(f"[providers.x]\napi_keys = ['{key}']")).values())
        assert "in capitals" in text
        assert key not in text


_VALUES = st.recursive(
    st.booleans() | st.integers(-3, 99) | st.floats() | st.sampled_from(["groq", "X_KEY", "next", "https://h/v1", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rpm", "window", "price", "input", "base_s", "quota", "m"]), inner, max_size=3
        )
    ),
    max_leaves=5,
)
_KEYS = st.sampled_from([*ProviderConfig.model_fields, *RouteConfig.model_fields, "nonsense"])


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {toml(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@given(st.sampled_from(["providers", "routes"]), st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_whatever_a_table_holds_it_is_read_or_told(kind: str, table: dict[str, Any]) -> None:
    read_file, found = parsed(f"{kind} = {{ one = {toml(table)} }}", "f.toml")
    assert set(getattr(read_file, kind)) == {"one"}
    assert all(fault.where.startswith(f"{kind}.one") for fault in found)
    told = {fault.where.split(".")[2] for fault in found if fault.where.count(".") >= 2}
    assert set(table) - told <= getattr(read_file, kind)["one"].model_fields_set


@given(st.text(max_size=60))
def test_whatever_a_file_holds_it_is_read_or_told(text: str) -> None:
    read_file, found = parsed(text, "f.toml")
    assert found or (not read_file.providers and not read_file.routes)


def test_what_no_provider_does_cannot_be_routed_around() -> None:
    ours = {kind for kind in FailureKind if parsed(f"[routes.r]\non = {{ {kind} = 'next' }}", "f")[1]}
    assert ours == {
        FailureKind.BUDGET,
        FailureKind.DEADLINE,
        FailureKind.CANCELLED,
        FailureKind.NO_TARGET,
        FailureKind.INTERRUPTED,
        FailureKind.POISON,
        FailureKind.INTERNAL,
    }


# -- what is answered no more -------------------------------------------------------------------------------------


def test_the_dead_address_of_hugging_face_is_replaced() -> None:
    settings = load({"HUGGINGFACE_API_URL": "https://api-inference.huggingface.co"})
    assert settings.providers["huggingface"].base_url == "https://router.huggingface.co/v1"
    assert len(settings.warnings) == 1
    assert "https://router.huggingface.co/v1" in settings.warnings[0]


def test_the_same_in_the_file(file: Any) -> None:
    path = file("[providers.huggingface]\nbase_url = 'https://api-inference.huggingface.co/models'\n")
    settings = load({}, path)
    assert settings.providers["huggingface"].base_url == "https://router.huggingface.co/v1"
    assert settings.warnings[0].startswith("providers.huggingface.base_url: ")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://router.huggingface.co", "https://router.huggingface.co/v1"),
        (
            "https://abc.us-east-1.aws.endpoints.huggingface.cloud/",
            "https://abc.us-east-1.aws.endpoints.huggingface.cloud/v1",
        ),
        ("https://router.huggingface.co/v1", "https://router.huggingface.co/v1"),
        ("http://localhost:8080/api", "http://localhost:8080/api"),
    ],
)
def test_a_bare_host_of_hugging_face_is_completed(url: str, expected: str) -> None:
    assert load({"HUGGINGFACE_API_URL": url}).providers["huggingface"].base_url == expected


def test_the_wrong_form_of_an_endpoint_is_told() -> None:
    (warning,) = load({"HUGGINGFACE_API_URL": "https://x.us-east-1.inference.endpoints.huggingface.cloud"}).warnings
    assert "https://ID.REGION.VENDOR.endpoints.huggingface.cloud" in warning


def test_the_environment_beats_the_file(file: Any) -> None:
    path = file("[providers.huggingface]\nlabel = 'File'\nlimits = { rpm = 5 }\n")
    config = load({"HF_LLAVE_5_NOMBRE": "Llama Maverick"}, path).providers["huggingface"]
    assert (config.label, config.limits.rpm) == ("Llama Maverick", 5)


@pytest.mark.parametrize(
    ("provider", "model", "successor"),
    [
        ("groq", "llama-3.1-8b-instant", "openai/gpt-oss-20b"),
        ("groq", "llama-3.3-70b-versatile", "openai/gpt-oss-120b"),
        ("openai", "gpt-3.5-turbo", "gpt-6-luna"),
        ("openai", "gpt-3.5-turbo-0125", "gpt-6-luna"),
        ("gemini", "gemini-2.5-flash", "gemini-3.5-flash-lite"),
        ("kimi", "kimi-k2-0905-preview", "kimi-k2.6"),
        ("huggingface", "meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("anthropic", "claude-3-5-haiku-20241022", "claude-haiku-4-5"),
    ],
)
def test_a_retired_model_is_told_with_its_successor(file: Any, provider: str, model: str, successor: str) -> None:
    settings = load({}, file(f"[routes.default]\ntargets = ['{provider}/{model}']\n"))
    (warning,) = settings.warnings
    assert warning.startswith(f"routes.default.targets: {provider} does not serve {model} any more")
    assert warning.endswith(f"use {successor}")


@pytest.mark.parametrize("choice", ["", ":cheapest", ":together"])
def test_a_model_in_the_environment_is_looked_at_too(choice: str) -> None:
    model = f"meta-llama/Llama-4-Maverick-17B-128E-Instruct{choice}"
    (warning,) = load({"HUGGINGFACE_MODEL_ID": model}).warnings
    assert warning.startswith("HUGGINGFACE_MODEL_ID: ")
    assert warning.endswith("use openai/gpt-oss-20b")


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4.1", "o3", "gpt-6-luna"])
def test_a_model_that_is_served_is_not(file: Any, model: str) -> None:
    assert load({}, file(f"[routes.default]\ntargets = ['openai/{model}']\n")).warnings == ()


def test_a_server_of_ones_own_may_have_any_model(file: Any) -> None:
    own = "[providers.openai]\nbase_url = '{}'\ndefault_model = 'gpt-3.5-turbo'\n"
    assert load({}, file(own.format("http://gpu.internal/v1"))).warnings == ()
    assert len(load({}, file(own.format("https://api.openai.com/v1"))).warnings) == 1


# -- an endpoint of one's own -------------------------------------------------------------------------------------

ENDPOINT = "https://abc.us-east-1.aws.endpoints.huggingface.cloud"


def test_an_endpoint_is_where_hugging_face_is() -> None:
    settings = load({"HUGGINGFACE_ENDPOINT_URL": f" {ENDPOINT}/ ", "HUGGINGFACE_ENDPOINT_FLAVOUR": "vLLM"})
    assert settings.endpoint == OwnEndpoint(url=ENDPOINT, flavour="vllm")
    assert settings.providers["huggingface"].base_url == ENDPOINT
    assert settings.warnings == ()
    assert load({}).endpoint is None


def test_an_endpoint_of_no_flavour_is_taken_and_told() -> None:
    settings = load({"HUGGINGFACE_ENDPOINT_URL": ENDPOINT})
    assert settings.endpoint == OwnEndpoint(url=ENDPOINT)
    (warning,) = settings.warnings
    assert warning.startswith("HUGGINGFACE_ENDPOINT_FLAVOUR: is not set")
    assert "openai, vllm, sglang" in warning


def test_a_flavour_without_an_endpoint_is_told() -> None:
    (warning,) = load({"HUGGINGFACE_ENDPOINT_FLAVOUR": "tei"}).warnings
    assert warning == "HUGGINGFACE_ENDPOINT_FLAVOUR: says nothing without HUGGINGFACE_ENDPOINT_URL"


def test_the_endpoint_beats_the_router_and_the_file(file: Any) -> None:
    path = file("[providers.huggingface]\nbase_url = 'https://router.huggingface.co/v1'\n")
    environ = {
        "HUGGINGFACE_ENDPOINT_URL": ENDPOINT,
        "HUGGINGFACE_ENDPOINT_FLAVOUR": "default",
        "HUGGINGFACE_API_URL": "https://api-inference.huggingface.co",
        "HUGGINGFACE_MODEL_ID": "meta-llama/Meta-Llama-3.1-8B-Instruct",  # retired at the router only
    }
    settings = load(environ, path)
    assert settings.providers["huggingface"].base_url == ENDPOINT
    assert settings.warnings == ("HUGGINGFACE_API_URL: is not used beside HUGGINGFACE_ENDPOINT_URL",)


def test_faults_of_an_endpoint() -> None:
    found = faults({"HUGGINGFACE_ENDPOINT_URL": "my-endpoint", "HUGGINGFACE_ENDPOINT_FLAVOUR": "vlm"})
    assert "https://" in found["HUGGINGFACE_ENDPOINT_URL"]
    assert "Did you mean vllm?" in found["HUGGINGFACE_ENDPOINT_FLAVOUR"]
    assert len(found) == 2


def test_the_wrong_form_of_an_endpoint_is_told_of_its_own_variable_too() -> None:
    url = "https://tu-endpoint-id.us-east-1.inference.endpoints.huggingface.cloud"
    environ = {"HUGGINGFACE_ENDPOINT_URL": url, "HUGGINGFACE_ENDPOINT_FLAVOUR": "text2text"}
    (warning,) = load(environ).warnings
    assert warning.startswith("HUGGINGFACE_ENDPOINT_URL: an endpoint's address has the form")


# -- what is written down about it --------------------------------------------------------------------------------


def test_every_variable_is_declared_once_with_a_sentence() -> None:
    rows = environment_table()
    assert len({row.name for row in rows}) == len(rows)
    assert all(row.meaning.endswith(".") and len(row.meaning) > 20 for row in rows)
    by_name = {row.name: row for row in rows}
    assert by_name["DRAIN_S"].default == "25"
    assert by_name["DRAIN_S"].meaning.endswith("(0 to 3,600 seconds).")
    assert by_name["LANES"].default == "interactive,batch"
    assert by_name["GROQ_API_KEY"].default == ""


def test_the_defaults_of_the_table_are_the_defaults() -> None:
    literal = {row.name: row.default for row in environment_table() if row.default and " " not in row.default}
    del literal["COMPLETAR_CONFIG"]  # only where there is such a file
    assert load(literal) == load({})


def test_the_secret_that_the_command_line_reads_is_known() -> None:
    assert load({"COMPLETAR_WEBHOOK_SECRET": "whsec_x"}) == load({})


def test_env_example_is_the_table() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    written = [
        (meaning.removeprefix("# "), *assignment.removeprefix("# ").split("=", 1))
        for meaning, assignment in pairwise(lines)
        if assignment.startswith("# ") and "=" in assignment and meaning.startswith("# ")
    ]
    assert written == [
        (row.meaning, row.name, "" if " " in row.default else row.default) for row in environment_table()
    ]


def test_the_example_file_loads() -> None:
    settings = load({"GROQ_API_KEY": "a", "GROQ_API_KEY_2": "b"}, EXAMPLE)
    assert set(settings.providers) == {"groq", "local"}
    assert set(settings.routes) == {"default", "private", "patient"}
    assert settings.warnings == ()


def _keys(table: type[BaseModel]) -> Iterator[str]:
    """Every key that may stand in a table of the file, also those of the tables inside it."""
    for name, field in table.model_fields.items():
        yield name
        for inner in _tables(field.annotation):
            yield from _keys(inner)


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _tables(argument)


def test_the_example_file_names_every_key_of_the_file() -> None:
    tables = {"providers": ProviderConfig, "routes": RouteConfig, "panels": PanelConfig}
    text = EXAMPLE.read_text(encoding="utf-8")
    for kind, table in tables.items():
        part = "".join(re.findall(rf"(?ms)^\[{kind}\..*?(?=^\[(?!{kind}\.)|\Z)", text))
        wanted = [*_keys(table), *((one.name for one in fields(Consensus)) if kind == "panels" else ())]
        assert [key for key in wanted if not re.search(rf"\b{key} *=|\.{key}\b", part)] == [], kind


def test_what_the_example_file_has_as_comments_can_be_taken_in() -> None:
    text = re.sub(r"(?m)^# (?=[a-z_]+ = |\[)", "", EXAMPLE.read_text(encoding="utf-8"))
    assert parsed(text, "completar.toml")[1] == []


def test_hints_go_through_redis_only_where_that_is_wished_and_there_is_one() -> None:
    redis = {"REDIS_URL": "redis://cache:6379/0"}
    assert load(redis).broker is not None
    assert load({**redis, "COMPLETAR_HINTS": "redis"}).broker is not None
    assert load({**redis, "COMPLETAR_HINTS": "SQL"}).broker is None
    assert load({}).broker is None
    assert "REDIS_URL is not set" in faults({"COMPLETAR_HINTS": "redis"})["COMPLETAR_HINTS"]
