"""What every test stands on: an environment without anybody's keys, real databases and a real Redis."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import settings

from tests.support.parts import PartMissing, losses
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis

if TYPE_CHECKING:
    from worker.store.database import Database

# Whoever runs the tests may have real keys, a real database or a proxy in the environment. No test may find them,
# so they are gone before anything of ours is imported.
_PRIVATE = re.compile(
    r"(COMPLETAR|GROQ|OPENAI|ANTHROPIC|CLAUDE|GEMINI|GOOGLE|KIMI|MOONSHOT|HF|HUGGINGFACE|HUGGING_FACE|LLAVE|CELERY|FLASK|PG)_.*"
    r"|.*_API_KEYS?(_\d+)?|DATABASE_URL|REDIS_URL|(RABBITMQ|AMQP|BROKER)_URL|PG[A-Z]+|PORT|HOST|LANES|DRAIN_S|WEB_CONCURRENCY"
    r"|(https?|all|no)_proxy",
    re.IGNORECASE,
)
for _name in [name for name in os.environ if _PRIVATE.fullmatch(name)]:
    del os.environ[_name]

settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("here", deadline=None)
settings.register_profile("long", deadline=None, max_examples=4000)  # `--hypothesis-profile=long`, for a night
settings.load_profile("ci" if os.environ.get("CI") else "here")


Server = TypeVar("Server", Postgres, Redis)


def _had(server: type[Server]) -> closing[Server]:
    """The server, closed at the end; or a skip that the end of the run counts."""
    try:
        return closing(server())
    except PartMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def migrate() -> Callable[[str], None]:
    """Brings the database of a URL to the newest schema."""
    from worker.store.database import Database
    from worker.store.migrate import upgrade

    def migrated(url: str) -> None:
        with closing(Database(url)) as database:
            upgrade(database)

    return migrated


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The server of this run (with xdist: of this worker). Do not stop it; `own_postgres` is there for that."""
    with _had(Postgres) as server:
        yield server.start()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that belongs to one test, to be stopped, frozen and started."""
    with _had(Postgres) as server:
        yield server.start()


@pytest.fixture
def postgres_url(postgres: Postgres, migrate: Callable[[str], None]) -> Iterator[str]:
    """A database of its own, with our tables, empty."""
    url = postgres.migrate_once(migrate).fresh()
    yield url
    postgres.drop(url)


@pytest.fixture
def empty_postgres_url(postgres: Postgres) -> Iterator[str]:
    """A database of its own, without any table."""
    url = postgres.empty()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory, migrate: Callable[[str], None]) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A file of its own, with our tables, empty."""
    for part in _sqlite_template.parent.glob(_sqlite_template.name + "*"):  # with the log, where one is left
        shutil.copy(part, tmp_path / part.name.replace("template", "completar"))
    return f"sqlite:///{tmp_path / 'completar.sqlite3'}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'empty.sqlite3'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """Every test that takes it runs on both databases."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open Database with our tables, empty; every test that takes it runs on both."""
    from worker.store.database import Database

    with closing(Database(database_url)) as opened:
        yield opened


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """As `database_url`, before any migration."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


@pytest.fixture(scope="session")
def _redis() -> Iterator[Redis]:
    with _had(Redis) as server:
        yield server.start()


@pytest.fixture
def redis_server(_redis: Redis) -> Redis:
    """Running and empty. A test may stop, kill or freeze it: the next one finds it healed."""
    return _redis.healed()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts real processes; kills them after the test, and shows the end of their logs when it failed."""
    with Processes(tmp_path) as started:
        yield started


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Last of all, what was not tested because the machine lacks something, and how many tests that cost."""
    yield
    reasons = [report.longrepr[2] for report in terminalreporter.getreports("skipped") if report.longrepr]
    lost = losses(reasons)
    if not lost:
        return
    terminalreporter.section("NOT TESTED, for want of a part", red=True)
    for line in lost:
        terminalreporter.line(line)
    if told := os.environ.get("MISSING_PARTS_FILE"):
        with Path(told).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lost)
