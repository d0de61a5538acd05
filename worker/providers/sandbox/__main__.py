"""`python -m worker.providers.sandbox --port 9000`: the sandbox alone, until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys

from worker.providers.sandbox.models import MODELS
from worker.providers.sandbox.server import Sandbox


async def _serve(port: int) -> None:
    sandbox = Sandbox()
    await sandbox.start(port)
    stopped = asyncio.Event()
    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the loop instead
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    sys.stdout.write(f"[sandbox] listening on {sandbox.base_url}\n")
    sys.stdout.flush()
    try:
        await stopped.wait()
    finally:
        await sandbox.aclose()


def main() -> int:
    width = max(map(len, MODELS))
    parser = argparse.ArgumentParser(
        prog="python -m worker.providers.sandbox",
        description="An OpenAI-compatible server without a model, for tests.",
        epilog="models:\n" + "\n".join(f"  {name:{width}}  {does}" for name, does in MODELS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=9000, help="0 for any free one (default %(default)s)")
    try:
        asyncio.run(_serve(parser.parse_args().port))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        sys.stderr.write(f"[sandbox] {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
