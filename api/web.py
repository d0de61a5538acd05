"""`python -m api.web`: gunicorn, once it is known that it can start.

It reads WEB_CONCURRENCY while it is imported, and PORT before it asks us anything: what is no number ended in its own
traceback, or in a line that named no variable.
"""

from __future__ import annotations

import os
import sys

from api import production
from worker.settings import SettingsError


def main() -> None:
    try:
        settings = production.settings()
    except SettingsError as error:
        sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
        sys.exit(4)  # as gunicorn does where `on_starting` finds a fault of names
    os.environ["WEB_CONCURRENCY"] = str(settings.web_concurrency)  # set and blank is no number to it either
    from gunicorn.app.wsgiapp import run  # noqa: PLC0415

    sys.argv = ["gunicorn", "-c", "gunicorn.conf.py", "api.wsgi:app", *sys.argv[1:]]
    run()


if __name__ == "__main__":
    main()
