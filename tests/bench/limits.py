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
from pathlib import Path

from tests.support.limited import Limited
from tests.support.postgres import Postgres
from tests.support.processes import Processes
from tests.support.redis import Redis
from tests.support.scripted_provider import ScriptedProvider
from tests.support.station import Station
from worker.domain.failure import Lane
from worker.store.database import Database
from worker.store.migrate import upgrade


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
