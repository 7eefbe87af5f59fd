"""Keeps what runs in a temporary folder from outliving its work, however the work ends.

The command splits in two processes.  The *worker* does the work; the *keeper* waits.  Both
are subreapers (prctl(2), PR_SET_CHILD_SUBREAPER), so a daemon that the work started, and
that detached itself, is still a descendant of theirs.  Whichever of the two ends, the other
one ends what is left and removes the folder: the keeper waits for the worker, and the worker
gets SIGTERM from the kernel when the keeper is gone (PR_SET_PDEATHSIG).  So no single signal
to the command, not even SIGKILL, leaves anything behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 5.0
#: Sockets live in the folder, and the path of a UNIX socket has 107 octets at most.
_LONGEST_FOLDER = 45

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_kept(work: Callable[[Path], int]) -> int:
    """Run `work` with a new private folder; give its status when nothing of it is left.

    The worker exits in here, with the status that `work` gives or exits with.

    Raises:
        OSError: something is left.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    folder = _new_folder()
    keeper = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    worker = os.fork()
    if worker == 0:
        try:
            # A group of its own: what the terminal sends reaches the keeper, which passes it
            # on once.  Writing to the terminal is allowed to groups in the background.
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_IGN)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, _exit)
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != keeper:  # it ended before the line above
                sys.exit(1)
            sys.exit(work(folder))
        finally:
            _end_all(folder)
    for number in _ENDING:
        signal.signal(number, lambda number, frame: _pass_on(number, worker))
    try:
        _, wait_status = os.waitpid(worker, 0)
    finally:
        _end_all(folder)
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pkengine-demo-"))
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="pkengine-demo-", dir="/tmp"))
    return folder


def _exit(number: int, frame: object) -> NoReturn:
    """Unwind the stack, so that what is left is ended on the way out."""
    sys.exit(128 + number)


def _pass_on(number: int, worker: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker, number)


def _end_all(folder: Path) -> None:
    """End every descendant, then remove the folder."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(descendants, timeout=_GRACE_S)
    # What was started meanwhile gets no grace.
    for process in {*alive, *psutil.Process().children(recursive=True)}:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_GRACE_S)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
