from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
from twisted.trial.unittest import TestCase

#: The work starts a daemon that detaches itself as twistd does, then says so and waits.
_PROGRAM = """
import os, sys, time
from pathlib import Path
from pkengine.cli.demo.keeper import run_kept

def detach(folder):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            (folder / "daemon.pid").write_text(str(os.getpid()))
            os.closerange(0, 3)
            while True:
                time.sleep(60)
        os._exit(0)
    os.wait()
    while not (folder / "daemon.pid").exists():
        time.sleep(0.01)
    while not (text := (folder / "daemon.pid").read_text()):
        time.sleep(0.01)
    return text

def work(folder):
    try:
        print(folder, os.getppid(), os.getpid(), detach(folder), flush=True)
        while sys.argv[1] == "wait":
            time.sleep(60)
    except KeyboardInterrupt:
        return 7
    return int(sys.argv[1])

sys.exit(run_kept(work))
"""


class KeeperTests(TestCase):
    def start(self, argument: str) -> None:
        """Run the program; wait until its daemon runs."""
        self.keeper = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_PROGRAM), argument],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.addCleanup(self.keeper.kill)
        assert self.keeper.stdout is not None
        self.addCleanup(self.keeper.stdout.close)
        folder, *pids = self.keeper.stdout.readline().split()
        self.folder = Path(folder)
        self.worker_pid, self.daemon_pid = int(pids[1]), int(pids[2])

    def assert_nothing_is_left(self) -> None:
        for pid in (self.worker_pid, self.daemon_pid):
            if psutil.pid_exists(pid):  # its new parent may not have reaped it yet
                self.assertEqual(psutil.Process(pid).status(), psutil.STATUS_ZOMBIE)
        self.assertFalse(self.folder.exists())

    def test_the_status_of_the_work_is_the_status_of_the_command(self) -> None:
        self.start("3")
        self.assertEqual(self.keeper.wait(30), 3)
        self.assert_nothing_is_left()

    def test_an_interrupt_reaches_the_work_and_nothing_is_left(self) -> None:
        self.start("wait")
        self.keeper.send_signal(signal.SIGINT)
        self.assertEqual(self.keeper.wait(30), 7)
        self.assert_nothing_is_left()

    def test_sigterm_and_a_closed_terminal_leave_nothing(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.start("wait")
            self.keeper.send_signal(number)
            self.assertEqual(self.keeper.wait(30), 128 + number)
            self.assert_nothing_is_left()

    def test_a_killed_worker_leaves_nothing(self) -> None:
        self.start("wait")
        os.kill(self.worker_pid, signal.SIGKILL)
        self.assertEqual(self.keeper.wait(30), 128 + signal.SIGKILL)
        self.assert_nothing_is_left()

    def test_a_killed_keeper_leaves_nothing(self) -> None:
        self.start("wait")
        left = [psutil.Process(pid) for pid in (self.worker_pid, self.daemon_pid)]
        self.keeper.kill()
        self.keeper.wait(30)
        psutil.wait_procs(left, timeout=30)
        self.assert_nothing_is_left()
