"""Start here: `python3 run.py demo`, on Windows `py run.py demo`.

Makes .venv from the hashed locks, keeps it in step with them, and runs a command in it. Standard library only, and no
syntax newer than Python 3.6: an old interpreter must get as far as saying that it is too old.
"""

import collections
import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HELP = """Completar: a durable queue for calls to language models.

  python3 run.py demo        see it work: no key, no account, no other service needed
  python3 run.py up          everything in one process, for your own machine
  python3 run.py COMMAND     run, batch, predictions, jobs, webhooks, dead-letters, usage, keys, projects, queue,
                             workers, providers, routes, plan, endpoints, config, doctor, db: each says more with
                             --help

  python3 run.py test        the whole check: linters, types, import rules, every test
  python3 run.py test ARGS   only pytest, with these arguments (paths from the repository's root)
  python3 run.py lint        the check without the tests
  python3 run.py bench ARGS  measure
  python3 run.py chaos ARGS  break things on purpose and count what was lost
  python3 run.py lock        compile the locks anew

On Windows write `py run.py`. What is needed is installed into .venv the first time, and again when a lock changed."""

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
BUSY = VENV / "installing"  # there while .venv is being changed: found at a start, that install was cut short
OLDER = ("openai-2", "openai-1")  # majors of a client that tests are run with once more, each in a folder of its own
LOCKS = {
    part: ROOT / name
    for part, name in (
        ("runtime", "requirements.txt"),
        ("test", "requirements-test.txt"),
        *((older, f"requirements-{older}.txt") for older in OLDER),
    )
}
FOR_DEVELOPERS = ("test", "lint", "bench", "chaos")
PIP = ["-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
UV = "uv==0.13.9"
STEP_S = 45 * 60  # a check that never ends tells nobody what is wrong

LINTERS = {
    "ruff check": [str(PYTHON), "-m", "ruff", "check", "."],
    "ruff format": [str(PYTHON), "-m", "ruff", "format", "--check", "."],
    "mypy": [str(PYTHON), "-m", "mypy"],
    "import-linter": [str(BIN / "lint-imports"), "--no-logo"],
}
# Any order must pass, and here each run draws one; a check that decides about a change draws none.
ORDER = ["--randomly-seed=1"] if os.environ.get("CI") else []
TESTS = {
    # Half the time of a test is waiting, so four at once keep two cores at work. Those of chaos meet deadlines: two.
    "pytest": [str(PYTHON), "-m", "pytest", "-n", "4", "--ignore=tests/chaos", *ORDER],
    "pytest chaos": [str(PYTHON), "-m", "pytest", "-n", "2", "--dist", "loadfile", "tests/chaos", *ORDER],
}


def too_old(version: "tuple[int, ...]") -> str:
    """What to tell somebody whose interpreter is too old, or nothing."""
    if version[:2] >= (3, 11):
        return ""
    return (
        f"Completar needs Python 3.11 or newer; this is {version[0]}.{version[1]}.\n"
        "Install a newer one beside it and name it: `python3.13 run.py ...`, on Windows `py -3.13 run.py ...`."
    )


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def digest(lock: Path) -> str:
    """Of the lines, so that a checkout with other line ends has the same."""
    return hashlib.sha256(b"\n".join(lock.read_bytes().splitlines())).hexdigest()


def stamp(part: str) -> Path:
    return VENV / f"lock-{part}.sha256"


def in_step(part: str) -> bool:
    return stamp(part).exists() and stamp(part).read_text() == digest(LOCKS[part])


def ready(parts: "list[str]") -> bool:
    return PYTHON.exists() and not BUSY.exists() and all(in_step(part) for part in parts)


@contextlib.contextmanager
def alone() -> "Iterator[None]":
    """One launcher at a time changes .venv. The lock is held on this file: nothing is left behind, whoever dies."""
    waiting = "Completar: another launcher is installing; waiting for it"
    with Path(__file__).open("r+b") as held:  # a network file system locks only what can be written
        os.set_inheritable(held.fileno(), True)  # so that pip holds it on when we are killed
        if sys.platform == "win32":
            import msvcrt

            held.seek(1 << 30)  # past the end: nobody else may read the locked bytes, and all must read this file
            while True:
                with contextlib.suppress(OSError):  # gave up after 10 s
                    msvcrt.locking(held.fileno(), msvcrt.LK_LOCK, 1)
                    break
                say(waiting)
        else:
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(waiting)
                fcntl.flock(held, fcntl.LOCK_EX)
        yield  # closing the file lets go


def ensure(parts: "list[str]") -> None:
    """Bring .venv in step with these parts' locks."""
    if ready(parts):
        return
    with alone():
        if not ready(parts):  # another launcher may have done it meanwhile
            install(parts)


def ensure_older() -> None:
    """Older clients for the tests. Where one cannot be had the check goes on, and its end says what was not tested."""
    for part in OLDER:
        try:
            ensure([part])
        except SystemExit as fault:
            say(str(fault))
            return


def install(parts: "list[str]") -> None:
    if VENV.exists() and (BUSY.exists() or not PYTHON.exists()):
        shutil.rmtree(str(VENV))
    if not VENV.exists():
        say("Completar: making .venv")
        VENV.mkdir()
        BUSY.touch()
        base = getattr(sys, "_base_executable", sys.executable)  # ours may have been in the .venv just removed
        watched([base, "-m", "venv", str(VENV)], "On Debian and Ubuntu: `apt install python3-venv`, then try again.")
    BUSY.touch()
    for part in parts:
        if in_step(part):
            continue
        lines = LOCKS[part].read_text(encoding="utf-8").splitlines()
        total = sum(line[:1].isalnum() for line in lines)
        say(f"Completar: installing {total} packages of {LOCKS[part].name} into .venv, once")
        command = [str(PYTHON), *PIP, "--require-hashes", "-r", str(LOCKS[part])]
        if part in OLDER:  # beside the newer one, which nothing must replace
            folder = VENV / "clients" / part
            shutil.rmtree(str(folder), ignore_errors=True)
            command += ["--target", str(folder)]
        remedy = "Is the network away? Behind a proxy set HTTPS_PROXY; for an index of your own, PIP_INDEX_URL."
        try:
            watched(command, remedy, total)
        except SystemExit:
            BUSY.unlink()  # pip gave up by itself and left things as they were
            raise
        stamp(part).write_text(digest(LOCKS[part]))
    BUSY.unlink()


def watched(command: "list[str]", remedy: str, total: int = 0) -> None:
    """Run it quietly; on a terminal count the packages. If it fails: its last lines, the remedy, and the end."""
    last = collections.deque(maxlen=10)  # type: collections.deque[str]
    seen = 0
    env = dict(os.environ, PIP_USER="0", PYTHONPATH="", PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        close_fds=False,
    ) as process:
        for line in process.stdout or ():
            last.append("  " + line.rstrip())
            seen += line.startswith("Collecting ")
            if total and sys.stderr.isatty():
                say(f"\r  {seen} of {total}", end="")
    if total and sys.stderr.isatty():
        say("\r" + " " * 20, end="\r")
    if process.returncode != 0:
        what = " ".join(command[2:4])
        sys.exit("\n".join([*last, f"Completar: `{what}` failed.", remedy, "Then run the same command again."]))


def environment() -> "dict[str, str]":
    """For what runs in .venv: its programs first on PATH, our packages importable from any folder."""
    path = os.pathsep.join([str(BIN), os.environ.get("PATH", "")])
    ours = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return dict(os.environ, PATH=path, PYTHONPATH=ours)


def typed() -> str:
    """What a person writes before a command of ours, so that messages can say it."""
    script = sys.argv[0]
    if os.name == "nt":
        return "py " + (f'"{script}"' if " " in script else script)
    return " ".join(map(shlex.quote, [sys.orig_argv[0], script]))


def become(*command: str) -> int:
    """Turn into this Python command, so that signals and the exit code are its own."""
    words = [str(PYTHON), *command]
    if os.name != "nt":
        os.execve(words[0], words, environment())
    process = subprocess.Popen(words, env=environment())
    while True:
        with contextlib.suppress(KeyboardInterrupt):  # the command had it too, and ends in its own way
            return process.wait()


def check(steps: "dict[str, list[str]]") -> int:
    """Every step, whatever became of the ones before; then what became of each, and what could not be tested."""
    failed = []
    # Python 3.11 parses source to underline what raised. Two threads that do so at once break both, and with them the
    # whole run of pytest, whose report of a failed test parses it too.
    env = dict(environment(), PYTHONNODEBUGRANGES="1")
    with tempfile.TemporaryDirectory() as folder:
        missing = Path(folder, "missing")
        missing.touch()
        for name, command in steps.items():
            print(f"\n== {name}", flush=True)
            try:
                code = subprocess.call(command, env=dict(env, MISSING_PARTS_FILE=str(missing)), timeout=STEP_S)
            except subprocess.TimeoutExpired:
                print(f"{name} did not end within {STEP_S // 60} minutes", flush=True)
                code = 1
            if code != 0:
                failed.append(name)
        lost = missing.read_text(encoding="utf-8")
    print("\n== summary")
    for name in steps:
        print(f"{name:14} {'FAILED' if name in failed else 'ok'}")
    print("NOT TESTED, for want of a part:\n" + lost if lost else "", end="")
    return 1 if failed else 0


def lock() -> int:
    """Compile the locks with uv, from a throwaway environment of its own."""
    compiling = "-m uv pip compile --quiet --universal --python-version 3.11"
    plain = "--generate-hashes --no-emit-index-url --no-header"  # a lock names no host
    with tempfile.TemporaryDirectory() as folder:
        say(f"Completar: fetching {UV}, then compiling")
        watched([sys.executable, "-m", "venv", folder], "It takes a Python with venv and pip.")
        python = str(Path(folder) / PYTHON.relative_to(VENV))
        watched([python, *PIP, UV], "It takes the network.")
        for target in LOCKS.values():  # the runtime lock first: it binds the others
            words = f"{compiling} {plain} {target.stem}.in -o {target.name}".split()
            code = subprocess.call([python, *words], cwd=str(ROOT))
            if code != 0:
                return code
    return 0


def main(arguments: "list[str]") -> int:
    fault = too_old(sys.version_info[:2])
    if fault:
        sys.exit(fault)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, flush=True)
        if not ready(["runtime"]):
            return 0
        print("\nThe commands, in their own words:\n", flush=True)
        arguments = ["--help"]
    command, rest = arguments[0], arguments[1:]
    if command == "lock":
        return lock()
    if command not in FOR_DEVELOPERS:
        ensure(["runtime"])
        os.environ["TYPED_COMMAND"] = typed()
        return become("-P", "-m", "api.cli", *arguments)  # -P: an `api` in the user's folder is not ours
    ensure(["runtime", "test"])
    if command == "test":
        ensure_older()
    os.chdir(str(ROOT))
    if command in ("bench", "chaos"):
        return become("-m", f"tests.{command}", *rest)
    if command == "test" and rest:
        return become("-m", "pytest", *rest)
    return check({**LINTERS, **TESTS} if command == "test" else LINTERS)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as fault:
        sys.exit(f"Completar: {fault}")
