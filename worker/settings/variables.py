"""Every environment variable of Completar's own, declared once: name, type, default, bounds and what it means.

The README's table, `.env.example` and the messages about wrong values are all made from these declarations by `table`.
Those of providers, which are no fields of Settings, stand in `declared`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from worker.domain.failure import Lane
from worker.settings import address
from worker.settings.address import Network
from worker.settings.declared import Flavour, Variable
from worker.settings.file import PanelConfig, ProviderConfig, RouteConfig

SandboxMode = Literal["auto", "on", "off"]
HintsMode = Literal["auto", "redis", "sql"]
LogLevel = Literal["debug", "info", "warning", "error", "critical"]


def user_data_dir(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where this platform wants a program's own files, by its conventions; nothing is made."""
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
    if platform == "win32":
        local = environ.get("LOCALAPPDATA")
        return (Path(local) if local else home / "AppData" / "Local") / "completar"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "completar"
    xdg = environ.get("XDG_DATA_HOME", "")  # a relative one is to be ignored (XDG Base Directory Specification)
    return (Path(xdg) if xdg.startswith("/") else home / ".local" / "share") / "completar"


def _lowered(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _words(value: Any) -> Any:
    return [word.strip().lower() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _networks(value: Any) -> Any:
    return address.networks(_words(value)) if isinstance(value, str) else value


def _checked_database(value: SecretStr) -> SecretStr:
    return SecretStr(address.database_url(value.get_secret_value()))


def _checked_redis(value: SecretStr) -> SecretStr:
    return SecretStr(address.redis_url(value.get_secret_value()))


def no_blanks(value: SecretStr) -> SecretStr:
    """A key travels in a header: a line break or a quote in it came from copying."""
    text = value.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text or text[:1] in "\"'":
        raise ValueError("holds a space, a quote, a line break or a letter no key has: copy it again")
    return value


def _long(value: SecretStr) -> SecretStr:
    if any(len(key) < 32 for key in value.get_secret_value().split(",")):
        raise ValueError("must have 32 characters or more; several, the newest first, are separated by commas")
    return value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_checked_database)]
RedisUrl = Annotated[SecretStr, AfterValidator(_checked_redis)]
Token = Annotated[SecretStr, AfterValidator(no_blanks)]
SecretKey = Annotated[Token, AfterValidator(_long)]


class OwnEndpoint(BaseModel):
    """An Inference Endpoint; `flavour` None: nobody told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    flavour: Flavour | None = None


class Settings(BaseModel):
    """Immutable. The fields below `url` are no variables of their own: they come from the file and the keys.

    endpoint  what `huggingface` stands for instead of the router
    keys      variable -> key, for every key variable that is set
    warnings  sentences for the log: values that work no longer, or not as written
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: Annotated[
        DatabaseUrl | None,
        Variable("DATABASE_URL", "Postgres, or sqlite:///FILE; not set: an SQLite file in the data folder."),
    ] = None
    redis_url: Annotated[
        RedisUrl | None,
        Variable("REDIS_URL", "Redis or Valkey, through which workers hear of new jobs; not needed."),
    ] = None
    hints: Annotated[
        HintsMode,
        Variable(
            "COMPLETAR_HINTS",
            "How workers hear of new jobs: redis, sql (no broker at all), or auto: redis where REDIS_URL is set.",
        ),
        BeforeValidator(_lowered),
    ] = "auto"
    port: Annotated[
        int, Variable("PORT", "Port the web process listens on; 0 takes a free one."), Field(ge=0, le=65_535)
    ] = 8000
    host: Annotated[
        str, Variable("HOST", "Address the web process binds; 0.0.0.0 or :: to be reached from outside.")
    ] = "127.0.0.1"
    config: Annotated[
        Path | None,
        Variable(
            "COMPLETAR_CONFIG",
            "TOML file with providers and routes; without it completar.toml, where there is one.",
            shown="completar.toml",
        ),
    ] = None
    data_dir: Annotated[
        Path,
        Variable(
            "COMPLETAR_DATA_DIR",
            "Folder of the embedded database and key, and of answers that wait for the database to come back.",
            shown="the user's data folder",
        ),
    ] = Field(default_factory=lambda: user_data_dir(os.environ))
    api_key: Annotated[
        Token | None,
        Variable(
            "COMPLETAR_API_KEY",
            "A key the first project always has; under 20 characters only where HOST is loopback.",
        ),
    ] = None
    secret_key: Annotated[
        SecretKey | None,
        Variable(
            "COMPLETAR_SECRET_KEY",
            "Encrypts webhook secrets in the database; 32 characters or more. Before it is changed, the new one is put"
            " in front of the old one, with a comma between.",
        ),
    ] = None
    webhooks: Annotated[bool, Variable("COMPLETAR_WEBHOOKS", "Whether this worker sends webhooks.", shown="on")] = True
    private_networks: Annotated[
        tuple[Network, ...],
        Variable(
            "COMPLETAR_PRIVATE_NETWORKS",
            "Networks that webhooks may reach although they are private, such as 10.1.2.0/24,fd12::/16. Without"
            " `DATABASE_URL`, and where only this machine can reach the server: this machine itself.",
        ),
        BeforeValidator(_networks),
    ] = ()
    nat64: Annotated[
        bool,
        Variable("COMPLETAR_NAT64", "Whether this machine reaches IPv4 through NAT64 (64:ff9b::/96).", shown="off"),
    ] = False
    public_domain: Annotated[
        str | None,
        Variable("RAILWAY_PUBLIC_DOMAIN", "Name of this very service on the internet: no webhook may call it."),
        BeforeValidator(_lowered),
    ] = None
    drain_s: Annotated[
        float,
        Variable("DRAIN_S", "How long calls in flight may go on after SIGTERM.", "seconds"),
        Field(ge=0, le=3600),
    ] = 25.0
    lanes: Annotated[
        frozenset[Lane],
        Variable("LANES", "Lanes this worker serves: interactive, batch or both."),
        BeforeValidator(_words),
        Field(min_length=1),
    ] = frozenset(Lane)
    slots: Annotated[
        int, Variable("SLOTS", "Jobs that one worker process works on at once, in each lane."), Field(ge=1, le=100_000)
    ] = 1000
    heartbeat_s: Annotated[
        float,
        Variable("COMPLETAR_HEARTBEAT_S", "Between two signs of life of a worker.", "seconds"),
        Field(ge=0.05, le=60),
    ] = 3.0
    lease_s: Annotated[
        float,
        Variable(
            "COMPLETAR_LEASE_S", "Silence after which a worker counts as dead and its jobs are taken back.", "seconds"
        ),
        Field(ge=0.1, le=600),
    ] = 15.0
    poll_s: Annotated[
        float,
        Variable("COMPLETAR_POLL_S", "Between two looks for due rows whose message was lost.", "seconds"),
        Field(ge=0.01, le=60),
    ] = 1.0
    deadline_s: Annotated[
        float,
        Variable("COMPLETAR_DEADLINE_S", "Deadline of a job that names none.", "seconds"),
        Field(ge=1, le=2_592_000),
    ] = 86_400.0
    queue_depth: Annotated[
        int,
        Variable(
            "COMPLETAR_QUEUE_DEPTH",
            "Jobs of a project that may wait in a lane; more are refused with 429. 0: no bound.",
        ),
        Field(ge=0, le=100_000_000),
    ] = 1_000_000
    queue_age_s: Annotated[
        float,
        Variable(
            "COMPLETAR_QUEUE_AGE_S",
            "How long a project's first interactive job may wait for a place before more are refused. 0: no bound.",
            "seconds",
        ),
        Field(ge=0, le=2_592_000),
    ] = 3600.0
    max_body_bytes: Annotated[
        int,
        Variable("COMPLETAR_MAX_BODY_BYTES", "Largest request body taken.", "bytes"),
        Field(ge=1024, le=1_073_741_824),
    ] = 8 * 1024 * 1024
    max_file_bytes: Annotated[
        int,
        Variable("COMPLETAR_MAX_FILE_BYTES", "Largest file taken in one request.", "bytes"),
        Field(ge=1024, le=8_589_934_592),
    ] = 512 * 1024 * 1024
    max_batch_lines: Annotated[
        int,
        Variable("COMPLETAR_MAX_BATCH_LINES", "Most requests in the file of a batch."),
        Field(ge=1, le=10_000_000),
    ] = 1_000_000
    max_answer_bytes: Annotated[
        int,
        Variable("COMPLETAR_MAX_ANSWER_BYTES", "Largest answer of a provider that is read.", "bytes"),
        Field(ge=1024, le=1_073_741_824),
    ] = 16 * 1024 * 1024
    waiters: Annotated[
        int,
        Variable("COMPLETAR_WAITERS", "Requests of one web process that may wait for a job at once; 0: none waits."),
        Field(ge=0, le=10_000),
    ] = 32
    retention_days: Annotated[
        int,
        Variable("COMPLETAR_RETENTION_DAYS", "How long a finished job is kept.", "days"),
        Field(ge=1, le=3650),
    ] = 30
    log_level: Annotated[
        LogLevel, Variable("COMPLETAR_LOG_LEVEL", "What is logged, and all above it."), BeforeValidator(_lowered)
    ] = "info"
    sandbox: Annotated[
        SandboxMode,
        Variable("COMPLETAR_SANDBOX", "The built-in provider without a model; auto: where there is no other."),
        BeforeValidator(_lowered),
    ] = "auto"
    web_concurrency: Annotated[
        int, Variable("WEB_CONCURRENCY", "Web processes under gunicorn."), Field(ge=1, le=256)
    ] = 2
    url: Annotated[
        str,
        Variable("COMPLETAR_URL", "Server the command line talks to."),
        AfterValidator(address.web_url),
    ] = "http://127.0.0.1:8000"

    providers: Mapping[str, ProviderConfig] = {}
    routes: Mapping[str, RouteConfig] = {}
    panels: Mapping[str, PanelConfig] = {}
    endpoint: OwnEndpoint | None = None
    keys: Mapping[str, SecretStr] = {}
    warnings: tuple[str, ...] = ()

    @property
    def broker(self) -> SecretStr | None:
        """Redis, where workers hear of jobs through it."""
        return None if self.hints == "sql" else self.redis_url

    @property
    def secret_keys(self) -> list[str]:
        """Newest first."""
        return [] if self.secret_key is None else self.secret_key.get_secret_value().split(",")

    @property
    def unnamed_database(self) -> str | None:
        """What to say where nobody named a database; None: somebody did."""
        if self.database_url is not None:
            return None
        return f"DATABASE_URL is not set: SQLite at {self.database.removeprefix('sqlite:///')}"

    @property
    def database(self) -> str:
        """SQLAlchemy's URL, a file in the data folder where none was named. It may hold a password."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'completar.sqlite3').as_posix()}"
