"""A real PostgreSQL, for as long as the tests of this process take."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from twisted.trial.unittest import SynchronousTestCase, TestCase

_numbers = itertools.count(1)


def _programs() -> Path | None:
    """Find the folder of the newest version that Debian has installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


#: Why tests with it are skipped, or None.
SKIP: str | None = None
if _programs() is None:
    SKIP = "PostgreSQL is missing: apt-get install postgresql"
elif find_spec("psycopg") is None:
    SKIP = "psycopg is missing: pip install 'pkengine[postgresql]'"


def new_database(test: TestCase | SynchronousTestCase) -> str:
    """Give the URL of a database of its own, which is empty."""
    directory = _server()
    name = f"test{next(_numbers)}"
    _run(
        "psql", "--host", str(directory), "--dbname=postgres", f"--command=CREATE DATABASE {name}"
    )
    return f"postgresql://{_user()}@/{name}?host={directory}"


@functools.cache
def _server() -> Path:
    """Start the server, which listens on a socket in its folder and nowhere else."""
    directory = Path(tempfile.mkdtemp(prefix="pkengine-postgresql-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    os.chown(directory, *_ids())
    data = directory / "data"
    _run("initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", str(data))
    server = subprocess.Popen(
        [
            # It ends with this process, however that ends.
            *("setpriv", "--pdeathsig", "INT"),
            *_as_user(),
            *(str(_folder() / "postgres"), "-D", str(data), "-k", str(directory)),
            *("-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=log"),
        ],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.wait)
    atexit.register(server.send_signal, signal.SIGINT)
    assert server.stderr is not None
    said = []
    for line in server.stderr:
        said.append(line)
        if "ready to accept connections" in line:
            break
    else:
        raise AssertionError("".join(said))
    threading.Thread(target=_drain, args=(server.stderr,), daemon=True).start()
    return directory


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass


def _run(program: str, *arguments: str) -> None:
    command = [*(["setpriv", *_as_user()] if _as_user() else []), str(_folder() / program)]
    found = subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def _folder() -> Path:
    found = _programs()
    assert found is not None
    return found


def _ids() -> tuple[int, int]:
    """PostgreSQL does not run as root."""
    entry = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    return entry.pw_uid, entry.pw_gid


def _user() -> str:
    return pwd.getpwuid(_ids()[0]).pw_name


def _as_user() -> list[str]:
    if os.getuid() != 0:
        return []
    uid, gid = _ids()
    return ["--reuid", str(uid), "--regid", str(gid), "--clear-groups"]
