"""How much of one limit a fleet of real workers uses: `python -m tests.bench.limits --help`.

python -m tests.bench.limits --rpm 3000 --seconds 60              used, refused, in Postgres with four workers
python -m tests.bench.limits --rpm 3000 --seconds 60 --kill       Redis is killed in the middle
python -m tests.bench.limits --tpm 100000 --tokens 100 300        a limit of tokens
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.batch_client import KEY, BatchClient
from tests.bench.ground import Ground
from tests.support.limited import Limited
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain.failure import Lane
from worker.store.database import Database
from worker.store.migrate import upgrade

RPM: Final = 600
TPM: Final = 60_000
SETTLED_S: Final = 4.0  # until it is known what a call takes, which is not counted
TOKENS: Final = (60, 60)  # of each answer: the tokens are used up by 500 requests a minute
_LIMITS: Final = f"""
[providers.{{name}}]
format = "openai"
base_url = "{{url}}/{{name}}/v1"
label = "{{name}}"
default_model = "m"

[providers.{{name}}.limits]
rpm = {RPM}
"""


@dataclass(frozen=True, slots=True)
class Enforced:
    """Of two providers that count, one of them tokens too: the part of its limit that was used, and what it refused."""

    used_rpm: float
    used_tpm: float
    answered: int
    refused: int

    @property
    def refused_part(self) -> float:
        return self.refused / max(1, self.answered + self.refused)

    def line(self) -> str:
        return (
            f"{RPM} requests a minute: {self.used_rpm:.1%} used; {TPM:,} tokens a minute: {self.used_tpm:.1%} used; "
            f"{self.refused} of {self.answered + self.refused} calls refused"
        )


def enforced(ground: Ground, seconds: float) -> Enforced:
    """Two batches at once, one for each provider, for so long; one worker process."""
    limits = {"calls": Limited(RPM), "tokens": Limited(RPM, TPM, tokens=TOKENS)}
    with ScriptedProvider() as provider:
        provider.always(lambda request: limits[request.path.split("/")[1]](request))
        config = ground.folder / "limits.toml"
        config.write_text(
            "".join(_LIMITS.format(name=name, url=provider.url) for name in limits) + f"tpm = {TPM}\n",
            encoding="utf-8",
        )
        with ground.fresh_database() as url, closing(Database(url)):
            more = {"COMPLETAR_CONFIG": str(config), "COMPLETAR_API_KEY": KEY}
            web, port = ground.web(url, **more)
            worker = ground.worker(url, **more)
            try:
                worker.wait_for_line(r"\bready\.")
                client = BatchClient(port)
                for name in limits:
                    client.create(client.upload(int(RPM / 60 * (SETTLED_S + seconds) * 1.5) + 200, f"{name}/m"))
                provider.wait_for(1)
                time.sleep(SETTLED_S + seconds)
            finally:
                ground.end([web, worker])
    both = limits.values()
    return Enforced(
        limits["calls"].used(SETTLED_S),
        limits["tokens"].used(SETTLED_S),
        sum(len(one.taken) for one in both),
        sum(len(one.refused) for one in both),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.limits")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rpm", type=int)
    parser.add_argument("--tpm", type=int)
    parser.add_argument("--tokens", type=int, nargs=2, default=(50, 50), metavar=("INPUT", "OUTPUT"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kill", action="store_true", help="kill Redis in the middle")
    given = parser.parse_args()
    limited = Limited(given.rpm, given.tpm, tokens=tuple(given.tokens))
    per_s = max((given.rpm or 0) / 60, (given.tpm or 0) / 60 / sum(given.tokens))
    limits = "".join(f"{name} = {rate}\n" for name, rate in (("rpm", given.rpm), ("tpm", given.tpm)) if rate)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Postgres()) as postgres,
        closing(Redis()) as redis,
        ScriptedProvider() as provider,
        Processes(Path(folder)) as processes,
    ):
        provider.always(limited)
        url = postgres.start().empty()
        with closing(Database(url)) as database:
            upgrade(database)
        redis.start()
        more = f"[providers.first.limits]\n{limits}"
        with closing(Station(url, provider, Path(folder), redis_url=redis.url, more=more)) as station:
            station.submit(int(per_s * given.seconds * 1.3) + 200, lane=Lane.BATCH)
            for _ in range(given.workers):
                processes.worker(station.env)
            provider.wait_for(1)
            limited.taken.clear()  # what came while the workers were still being started is not of the whole fleet
            limited.refused.clear()
            time.sleep(given.seconds / 2)
            if given.kill:
                redis.kill()
            time.sleep(given.seconds / 2)
            taken, refused = len(limited.taken), len(limited.refused)
            part = refused / max(1, taken)
            print(f"used {limited.used():.1%} of the limit; {taken} answered, {refused} refused ({part:.2%})")


if __name__ == "__main__":
    main()
