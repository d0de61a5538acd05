from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.domain.failure import FailureKind
from worker.domain.money import Price
from worker.domain.retry import Backoff
from worker.domain.route import ALL_NEEDS, Key, Route
from worker.providers.catalog import Catalog, Limits, NoProvider, UnknownModel, build, check
from worker.providers.flavours import FLAVOURS
from worker.providers.formats import FORMATS
from worker.providers.presets import PRESETS
from worker.settings import (
    Flavour,
    ModelConfig,
    ProviderConfig,
    RouteConfig,
    Settings,
    SettingsError,
    environment_table,
    load,
)
from worker.settings.retired import MODELS, USUAL_HOSTS, retired_model

ROOT = Path(__file__).parents[2]
ALL_KEYS = {name: f"key-of-{name}" for preset in PRESETS.values() for name in preset.api_keys or ()}
IN_ORDER = ["groq", "kimi", "openai", "anthropic", "gemini", "huggingface"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SANDBOX_URL = "http://127.0.0.1:4000/v1"


def written(text: str) -> Path:
    path = Path("conf.toml")
    path.write_text(text, encoding="utf-8")
    return path


def catalog(text: str = "", **environ: str) -> Catalog:
    """What comes of a file's text and an environment."""
    return build(load(environ, written(text)), SANDBOX_URL)


def faults(text: str = "", **environ: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as raised:
        check(environ, written(text))
    return {fault.where: str(fault) for fault in raised.value.faults}


def names(route: Route) -> list[str]:
    return [target.name for target in route.targets]


# -- which providers there are ------------------------------------------------------------------------------------


def test_without_a_key_there_is_the_sandbox_and_it_says_so() -> None:
    found = catalog()
    assert list(found.providers) == ["sandbox"]
    spec = found.providers["sandbox"]
    assert (spec.is_sandbox, spec.label, spec.keys) == (True, "Sandbox (no real model)", ())
    (target,) = found.resolve(["default"]).targets
    assert (target.name, target.takes, target.window) == ("sandbox/echo", ALL_NEEDS, None)
    assert target.price == Price(Decimal("0.05"), Decimal("0.20"))


def test_any_model_of_the_sandbox_can_be_named() -> None:
    (target,) = catalog().resolve(["sandbox/fail-3-times"]).targets
    assert (target.model, target.label) == ("fail-3-times", "Sandbox (no real model)")
    assert target.price == Price(Decimal("0.05"), Decimal("0.20"))


def test_the_sandbox_is_called_where_it_listens() -> None:
    assert build(Settings(), "http://127.0.0.1:4000/v1/").providers["sandbox"].base_url == "http://127.0.0.1:4000/v1"
    assert build(Settings()).providers["sandbox"].base_url.endswith(".invalid")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_where_no_sandbox_is_served_and_no_provider_has_a_key_nothing_can_be_named(mode: str) -> None:
    environ = {"COMPLETAR_SANDBOX": mode}
    found = build(load(environ, written("[panels.p]\nmembers = ['sandbox']\n")))
    with pytest.raises(NoProvider, match=r"no provider has a key: set one of GROQ_API_KEY, .*on web and worker"):
        found.resolve(["default"])
    _, checked = check(environ, written(""))
    assert names(checked.resolve(["default"])) == ["sandbox/echo"], "a command may speak of it"
    assert build(load({**environ, "GROQ_API_KEY": "k"}, written(""))).unserved is None


def test_with_a_key_the_sandbox_is_gone_unless_it_is_wanted() -> None:
    assert list(catalog(GROQ_API_KEY="k").providers) == ["groq"]
    both = catalog(GROQ_API_KEY="k", COMPLETAR_SANDBOX="on")
    assert list(both.providers) == ["groq", "sandbox"]
    assert names(both.resolve(["default"])) == ["groq/openai/gpt-oss-20b"]
    assert names(both.resolve(["sandbox"])) == ["sandbox/echo"]


def test_nothing_at_all_is_refused() -> None:
    assert "GROQ_API_KEY" in faults(COMPLETAR_SANDBOX="off")["COMPLETAR_SANDBOX"]


def test_every_key_makes_its_provider_and_the_order_is_fixed() -> None:
    found = catalog(**ALL_KEYS)
    assert list(found.providers) == IN_ORDER
    assert names(found.resolve(["default"])) == [f"{name}/{PRESETS[name].default_model}" for name in IN_ORDER]
    assert found.warnings == ()


@pytest.mark.parametrize("key", sorted(ALL_KEYS))
def test_one_key_is_enough(key: str) -> None:
    found = catalog(**{key: "k"})
    (spec,) = found.providers.values()
    assert spec.keys == (Key(key, spec.name),)
    assert found.secret(spec.name, key) == "k"
    assert spec.base_url.startswith("https://")
    assert not spec.base_url.endswith("/")
    assert spec.format == {"anthropic": "anthropic", "gemini": "gemini"}.get(spec.name, "openai")


def test_two_names_of_one_key_are_one_key() -> None:
    one = catalog(KIMI_API_KEY="same", MOONSHOT_API_KEY="same").providers["kimi"]
    two = catalog(KIMI_API_KEY="a", MOONSHOT_API_KEY="b").providers["kimi"]
    assert one.keys == (Key("KIMI_API_KEY", "kimi"),)
    assert two.keys == (Key("KIMI_API_KEY", "kimi"), Key("MOONSHOT_API_KEY", "kimi"))


def test_hugging_face_as_deployments_have_it() -> None:
    found = catalog(
        HUGGINGFACE_API_KEY="hf", HUGGINGFACE_MODEL_ID="Qwen/Qwen2.5-7B-Instruct", HF_LLAVE_5_NOMBRE="Llave 5"
    )
    (target,) = found.resolve(["huggingface"]).targets
    assert (target.name, target.label) == ("huggingface/Qwen/Qwen2.5-7B-Instruct", "Llave 5")
    assert (target.window, target.price) == (None, None)


def test_presets_name_only_declared_variables_and_living_models() -> None:
    assert list(PRESETS) == IN_ORDER
    assert set(ALL_KEYS) <= {row.name for row in environment_table()}
    for name, preset in PRESETS.items():
        assert preset.base_url is not None
        assert USUAL_HOSTS[name] == preset.base_url.split("/")[2]
        assert preset.default_model in preset.models
        assert not [model for model in preset.models if retired_model(name, model)]
    assert set(MODELS) == set(USUAL_HOSTS.values())


def test_a_successor_is_not_retired_itself() -> None:
    for name, host in USUAL_HOSTS.items():
        assert not [one for one in MODELS[host] if retired_model(name, one.successor)]


def test_anthropic_and_gemini_are_called_in_their_own_formats() -> None:
    found = catalog(**ALL_KEYS).providers
    assert found["anthropic"].base_url == "https://api.anthropic.com/v1"
    assert found["gemini"].base_url == "https://generativelanguage.googleapis.com/v1beta"
    assert {spec.format for spec in found.values()} <= set(FORMATS)


def test_every_default_takes_a_schema_and_anthropic_has_no_embeddings() -> None:
    found = catalog(**ALL_KEYS)
    takers = {target.provider for target in found.resolve(["default"]).targets if "schema" in target.takes}
    assert takers == set(IN_ORDER)
    (unlisted,) = found.resolve(["anthropic/claude-of-tomorrow"]).targets
    assert unlisted.takes == ALL_NEEDS - {"embedding"}


# -- an endpoint of one's own -------------------------------------------------------------------------------------

ENDPOINT = "https://abc.us-east-1.aws.endpoints.huggingface.cloud"
ANYTHING = ("completion", "embedding", "schema", "tools", "vision")


def at_endpoint(url: str = ENDPOINT, flavour: str = "", text: str = "", **environ: str) -> Catalog:
    told = {"HUGGINGFACE_ENDPOINT_URL": url, "HUGGINGFACE_ENDPOINT_FLAVOUR": flavour, "HUGGINGFACE_API_KEY": "hf"}
    return catalog(text, **told, **environ)


@pytest.mark.parametrize(
    ("url", "flavour", "format_", "base_url", "takes"),
    [
        *((ENDPOINT, name, "hf-openai", f"{ENDPOINT}/v1", ANYTHING) for name in ("openai", "vllm", "sglang")),
        *((f"{ENDPOINT}/v1/", name, "hf-openai", f"{ENDPOINT}/v1", ANYTHING) for name in ("llamacpp", "tgi", "")),
        (f"{ENDPOINT}/generate", "tgi", "hf-text-generation", f"{ENDPOINT}/generate", ("completion", "schema")),
        (f"{ENDPOINT}/generate", "", "hf-text-generation", f"{ENDPOINT}/generate", ("completion", "schema")),
        (ENDPOINT, "default", "hf-text-generation", ENDPOINT, ("completion",)),
        (ENDPOINT, "text2text", "hf-text2text-generation", ENDPOINT, ("completion",)),
        (f"{ENDPOINT}/v1", "tei", "tei", ENDPOINT, ("completion", "embedding")),
        (ENDPOINT, "", "hf-handler", ENDPOINT, ("completion",)),
        ("http://127.0.0.1:8080/a/", "default", "hf-text-generation", "http://127.0.0.1:8080/a", ("completion",)),
    ],
)
def test_an_endpoint_is_spoken_to_by_its_flavour(
    url: str, flavour: str, format_: str, base_url: str, takes: tuple[str, ...]
) -> None:
    found = at_endpoint(url, flavour)
    (spec,) = found.providers.values()
    assert (spec.name, spec.format, spec.base_url) == ("huggingface", format_, base_url)
    assert format_ in FORMATS
    (target,) = found.resolve(["huggingface"]).targets
    assert (target.name, target.label, target.takes) == ("huggingface/endpoint", "Hugging Face", frozenset(takes))
    assert (spec.keys, dict(spec.models)) == ((Key("HUGGINGFACE_API_KEY", "huggingface"),), {})


def test_every_flavour_has_a_manner() -> None:
    assert set(FLAVOURS) == {*get_args(Flavour), None}
    assert {manner.format for manner in FLAVOURS.values()} <= set(FORMATS)


def test_an_endpoint_beside_other_keys_is_the_last_resort_and_can_be_asked_alone() -> None:
    found = at_endpoint(flavour="vllm", GROQ_API_KEY="k", HUGGINGFACE_MODEL_ID="org/own", HF_LLAVE_5_NOMBRE="Llave 5")
    assert names(found.resolve(["default"])) == ["groq/openai/gpt-oss-20b", "huggingface/org/own"]
    assert names(found.only("huggingface")) == ["huggingface/org/own"]
    assert found.providers["huggingface"].label == "Llave 5"


def test_the_file_says_more_of_an_endpoint() -> None:
    text = "[providers.huggingface]\ntakes = ['completion', 'tools']\nformat = 'openai'\nmodels.own = { window = 9 }\n"
    spec = at_endpoint(flavour="vllm", text=text).providers["huggingface"]
    assert (spec.format, spec.base_url) == ("hf-openai", f"{ENDPOINT}/v1")
    assert (spec.takes, spec.target("own").window) == ({"completion", "tools"}, 9)


def test_an_endpoint_without_its_token_is_told() -> None:
    found = catalog(HUGGINGFACE_ENDPOINT_URL=ENDPOINT, HUGGINGFACE_ENDPOINT_FLAVOUR="tei", GROQ_API_KEY="k")
    assert list(found.providers) == ["groq"]
    assert "HUGGINGFACE_API_KEY is not set" in found.warnings[0]


# -- the file over the presets ------------------------------------------------------------------------------------

POOL = """
[providers.groq]
api_keys = ["GROQ_API_KEY", "GROQ_API_KEY_2"]
accounts = { GROQ_API_KEY_2 = "second" }
limits = { rpm = 30, concurrency = 20 }
models."openai/gpt-oss-20b" = { window = 1000 }
models.new = { price = { input = 1.5, output = 2 } }
"""


def test_the_file_changes_only_what_it_names() -> None:
    found = catalog(POOL, GROQ_API_KEY="a", GROQ_API_KEY_2="b")
    spec = found.providers["groq"]
    assert spec.keys == (Key("GROQ_API_KEY", "groq"), Key("GROQ_API_KEY_2", "second"))
    assert spec.limits == Limits(rpm=30, concurrency=20)
    assert (spec.label, spec.base_url) == ("Groq", "https://api.groq.com/openai/v1")
    known, new = spec.target("openai/gpt-oss-20b"), spec.target("new")
    assert (known.window, known.price) == (1000, Price(Decimal("0.075"), Decimal("0.30"), Decimal("0.0375")))
    assert (new.window, new.price, new.keys) == (None, Price(Decimal("1.5"), Decimal(2)), spec.keys)
    assert found.secret("groq", "GROQ_API_KEY_2") == "b"


def test_an_unknown_model_of_a_known_provider_has_no_window_and_no_price() -> None:
    (target,) = catalog(GROQ_API_KEY="k").resolve(["groq/brand/new"]).targets
    assert (target.provider, target.model, target.window, target.price) == ("groq", "brand/new", None, None)
    assert (target.label, target.takes) == ("Groq", ALL_NEEDS)


def test_a_provider_of_ones_own_needs_no_key() -> None:
    found = catalog("[providers.local]\nbase_url = 'http://127.0.0.1:8001/v1'\nmodels.qwen = {}\n")
    assert list(found.providers) == ["local"]
    (target,) = found.resolve(["default"]).targets
    assert (target.name, target.keys, target.label) == ("local/qwen", (), "local")


def test_a_configured_preset_without_its_key_is_told() -> None:
    found = catalog("[providers.groq]\nlimits = { rpm = 1 }\n", OPENAI_API_KEY="k")
    assert list(found.providers) == ["openai"]
    assert found.warnings == ("providers.groq is configured, but does not exist: GROQ_API_KEY is not set",)


def test_the_warnings_of_the_settings_are_there_too() -> None:
    found = catalog(HUGGINGFACE_API_KEY="k", HUGGINGFACE_API_URL="https://api-inference.huggingface.co")
    assert found.providers["huggingface"].base_url == "https://router.huggingface.co/v1"
    assert "shut down" in found.warnings[0]


def test_bounds_are_the_files_or_the_domains() -> None:
    found = catalog(
        """
        [routes.default]
        targets = ["groq"]
        max_wait_s = 0
        max_attempts = 2
        backoff = { cap_s = 5 }
        on = { content_filter = "next" }
        [routes.plain]
        targets = ["groq"]
        """,
        GROQ_API_KEY="k",
    )
    mine, plain = found.routes["default"], found.routes["plain"]
    assert (mine.max_wait_s, mine.max_attempts, mine.backoff) == (0.0, 2, Backoff(0.5, 5.0))
    assert mine.on == {FailureKind.CONTENT_FILTER: "next"}
    assert plain == Route("plain", plain.targets)
    adhoc = found.resolve(["groq/x"])
    assert (adhoc.max_wait_s, adhoc.max_attempts, adhoc.on) == (0.0, 2, mine.on)


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ("targets = ['groq']\nhedge_after_s = 2", "routes.r.hedge_after_s: needs a second target in the route"),
        (
            "targets = ['groq', 'kimi']\nhedge_after_s = 2\nmax_attempts = 1",
            "routes.r.hedge_after_s: needs max_attempts of 2 or more: both calls count",
        ),
        (
            "targets = ['groq', 'kimi']\nhedge_after_s = 60",
            "routes.r.hedge_after_s: must be below attempt_timeout_s (60): no call is open for longer",
        ),
        (
            "targets = ['groq', 'kimi']\nhedge_after_s = 0",
            "routes.r.hedge_after_s: must be greater than or equal to 0.1",
        ),
        ("targets = ['groq', 'kimi']\nhedge_after_s = true", "routes.r.hedge_after_s: must be a valid number"),
        ("targets = ['groq', 'kimi']\nhedge_s = 2", "routes.r.hedge_s: is not a known key"),
    ],
)
def test_a_hedge_that_could_never_be_is_told(bounds: str, told: str) -> None:
    assert told in "\n".join(faults(f"[routes.r]\n{bounds}\n", GROQ_API_KEY="a", KIMI_API_KEY="b").values())


def test_a_hedge_is_of_the_route_and_of_lists_by_the_default_one() -> None:
    text = "[routes.default]\ntargets = ['groq', 'kimi']\nhedge_after_s = 2\n[routes.r]\ntargets = ['kimi', 'groq']\n"
    found = catalog(text, GROQ_API_KEY="a", KIMI_API_KEY="b")
    assert (found.routes["default"].hedge_after_s, found.routes["r"].hedge_after_s) == (2.0, None)
    assert found.resolve(["kimi", "groq"]).hedge_after_s == 2.0


def test_what_is_shown_has_no_key_in_it() -> None:
    secrets = {name: f"hidden{number}" for number, name in enumerate(ALL_KEYS)}
    found = catalog(**secrets)
    text = json.dumps(found.describe())
    assert "GROQ_API_KEY" in text
    assert "0.0375" in text
    assert not [secret for secret in secrets.values() if secret in text + repr(found) + repr(vars(found))]


def test_the_example_file_is_true() -> None:
    environ = {"GROQ_API_KEY": "a", "GROQ_API_KEY_2": "b", "KIMI_API_KEY": "c", "HUGGINGFACE_API_KEY": "d"}
    settings, found = check(environ, ROOT / "completar.example.toml")
    assert found.warnings == settings.warnings == ()
    assert names(found.routes["default"]) == [
        "groq/openai/gpt-oss-20b",
        "kimi/kimi-k2.6",
        "huggingface/openai/gpt-oss-20b:cheapest",
    ]
    assert names(found.routes["patient"]) == ["local/qwen3", *names(found.routes["default"])]
    assert found.routes["default"] == Route("default", found.routes["default"].targets)  # it writes out the defaults


# -- what a name stands for ---------------------------------------------------------------------------------------


def test_names_of_a_request() -> None:
    found = catalog("[routes.fast]\ntargets = ['kimi', 'groq']\n", GROQ_API_KEY="a", KIMI_API_KEY="b")
    groq, kimi = "groq/openai/gpt-oss-20b", "kimi/kimi-k2.6"
    assert found.resolve(["fast"]) is found.routes["fast"]
    assert names(found.resolve(["fast"])) == [kimi, groq]
    assert names(found.resolve(["groq"])) == [groq]
    assert names(found.resolve(["groq/a/b:c"])) == ["groq/a/b:c"]
    assert found.resolve(["groq/x", "kimi/y"]).name == "groq/x,kimi/y"
    assert names(found.resolve([groq, "fast"])) == [groq, kimi]  # each once, in order
    assert found.resolve(["groq", "kimi"]) is found.resolve(("groq", "kimi"))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("defualt", "default"),
        ("gorq", "groq"),
        ("gpt-oss-120b", "groq/openai/gpt-oss-120b"),
        ("openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
        ("qroq/openai/gpt-oss-20b", "groq/openai/gpt-oss-20b"),
        ("nothing of the kind", None),
        ("groq/", "groq"),
        ("", None),
    ],
)
def test_an_unknown_name_is_refused_with_a_suggestion(name: str, suggestion: str | None) -> None:
    with pytest.raises(UnknownModel) as raised:
        catalog(GROQ_API_KEY="k").resolve([name])
    assert raised.value.suggestion == suggestion
    assert (suggestion or "unknown model") in str(raised.value)


def test_a_provider_without_its_key_is_explained() -> None:
    with pytest.raises(UnknownModel, match="KIMI_API_KEY or MOONSHOT_API_KEY is not set"):
        catalog(GROQ_API_KEY="k").resolve(["kimi/kimi-k2.6"])
    with pytest.raises(UnknownModel, match="COMPLETAR_SANDBOX=on"):
        catalog(GROQ_API_KEY="k").resolve(["sandbox/echo"])


def test_no_name_is_no_route() -> None:
    with pytest.raises(UnknownModel):
        catalog().resolve([])


def test_one_unknown_name_spoils_a_list() -> None:
    with pytest.raises(UnknownModel):
        catalog(GROQ_API_KEY="k").resolve(["groq", "nowhere/x"])


def test_a_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(UnknownModel) as raised:
        catalog().resolve(["x" * 100_000])
    assert len(str(raised.value)) < 300


def test_only_one_provider() -> None:
    found = catalog(
        "[routes.default]\ntargets = ['groq/a', 'kimi', 'groq/b']\n",
        GROQ_API_KEY="a",
        KIMI_API_KEY="b",
        OPENAI_API_KEY="c",
    )
    assert names(found.only("groq")) == ["groq/a", "groq/b"]
    assert names(found.only("openai")) == ["openai/gpt-6-luna"]
    assert found.only("groq").max_attempts == found.routes["default"].max_attempts
    for unknown in ("huggingface", "default", "groq/a", ""):
        with pytest.raises(UnknownModel):
            found.only(unknown)


def test_a_key_the_provider_has_not_got() -> None:
    with pytest.raises(KeyError):
        catalog(GROQ_API_KEY="a", OPENAI_API_KEY="b").secret("groq", "OPENAI_API_KEY")


_TWO = build(load({"GROQ_API_KEY": "a", "KIMI_API_KEY": "b"}, Path(os.devnull)))
_TARGETS = st.lists(st.sampled_from(["groq", "kimi/a", "groq/a/b", "groq/openai/gpt-oss-20b", "default"]), min_size=1)


@given(_TARGETS)
def test_a_list_is_its_parts_in_order_each_once(wanted: list[str]) -> None:
    found = _TWO
    parts = [target for name in wanted for target in found.resolve([name]).targets]
    assert list(found.resolve(wanted).targets) == list(dict.fromkeys(parts))


@given(st.text(min_size=1, max_size=30))
def test_the_provider_is_what_stands_before_the_first_slash(model: str) -> None:
    (target,) = _TWO.resolve([f"groq/{model}"]).targets
    assert (target.provider, target.model) == ("groq", model)


@given(st.text(max_size=30))
def test_any_name_is_a_route_or_unknown(name: str) -> None:
    try:
        route = _TWO.resolve([name])
    except UnknownModel:
        return
    assert route.targets


# -- faults between names -----------------------------------------------------------------------------------------


def test_all_faults_between_names_come_at_once() -> None:
    found = faults(
        """
        [providers.mine]
        api_keys = []
        accounts = { MINE_KEY = "a" }
        format = "opneai"
        [routes.a]
        targets = ["b", "gorq/x"]
        [routes.b]
        targets = ["a", "kimi"]
        [routes.c]
        [routes.openai]
        targets = ["groq"]
        [routes.sandboxed]
        targets = ["sandbox/echo"]
        """,
        GROQ_API_KEY="k",
    )
    assert set(found) == {
        "providers.mine.base_url",
        "providers.mine.format",
        "providers.mine.api_keys",
        "routes.a.targets",
        "routes.b.targets",
        "routes.c.targets",
        "routes.openai",
        "routes.sandboxed.targets",
    }
    assert "Did you mean openai?" in found["providers.mine.format"]
    assert "Did you mean groq?" in found["routes.a.targets"]
    assert "COMPLETAR_SANDBOX=on" in found["routes.sandboxed.targets"]


def test_a_loop_is_shown() -> None:
    found = faults("[routes.a]\ntargets = ['b']\n[routes.b]\ntargets = ['c']\n[routes.c]\ntargets = ['a', 'b']\n")
    assert "a -> b -> c -> a" in found["routes.c.targets"] or "b -> c -> b" in found["routes.c.targets"]
    assert set(found) == {"routes.c.targets"}
    assert "a -> a" in faults("[routes.a]\ntargets = ['a']\n")["routes.a.targets"]


def test_a_target_without_its_key_is_explained() -> None:
    text = faults("[routes.default]\ntargets = ['openai/gpt-6-luna']\n", GROQ_API_KEY="k")["routes.default.targets"]
    assert "OPENAI_API_KEY is not set" in text


def test_faults_of_both_layers_come_at_once_and_what_follows_from_one_is_left_out() -> None:
    path = written(
        """
        [providers.mine]
        base_url = "not a url"
        api_keys = ["mine"]
        accounts = { MINE_KEY = "a" }
        [providers.yours]
        base_url = "https://h/v1"
        api_keys = ["YOUR_KEY"]
        [routes.default]
        targets = ["mine/x", "yours/x", "openai", "nowhere/x"]
        """
    )
    with pytest.raises(SettingsError) as raised:
        check({"SLOTS": "none", "OPENAI_API_KEY": "copied badly"}, path)
    assert sorted(fault.where for fault in raised.value.faults) == [
        "OPENAI_API_KEY",
        "SLOTS",
        "providers.mine.api_keys.0",
        "providers.mine.base_url",
        "providers.yours.api_keys",
        "routes.default.targets",
    ]
    assert "names nowhere/x" in str(raised.value)


def test_settings_made_by_hand_are_checked_too() -> None:
    settings = Settings(
        providers={"mine": ProviderConfig(base_url="http://h/v1", api_keys=("MINE_KEY",), models={"x": ModelConfig()})},
        routes={"default": RouteConfig(targets=("mine",))},
    )
    with pytest.raises(SettingsError, match="MINE_KEY is not set"):
        build(settings)


_ROUTES = st.dictionaries(
    st.sampled_from("abcd"),
    st.lists(st.sampled_from(["a", "b", "c", "d", "groq/x", "groq/y"]), min_size=1, max_size=3, unique=True),
)


def _leaves(graph: dict[str, list[str]], name: str, path: tuple[str, ...] = ()) -> list[str] | None:
    """What a route comes to, the slow way; None where it leads back to itself or to nothing."""
    found: list[str] = []
    for target in graph[name]:
        if "/" in target:
            found.append(target)
            continue
        if target in (*path, name) or target not in graph:
            return None
        deeper = _leaves(graph, target, (*path, name))
        if deeper is None:
            return None
        found += deeper
    return list(dict.fromkeys(found))


@given(_ROUTES)
def test_routes_that_name_routes_end_at_targets_or_are_refused(graph: dict[str, list[str]]) -> None:
    settings = load({"GROQ_API_KEY": "k"})
    routes: dict[str, Any] = {name: RouteConfig(targets=tuple(targets)) for name, targets in graph.items()}
    expected = {name: _leaves(graph, name) for name in graph}
    try:
        found = build(settings.model_copy(update={"routes": routes}))
    except SettingsError:
        assert None in expected.values()
        return
    assert {name: names(found.routes[name]) for name in graph} == expected
