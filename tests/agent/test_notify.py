"""The service manager hears what sd_notify(3) prescribes."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import TestCase

from pkengine.agent.notify import SystemdNotifier


class SystemdNotifierTests(TestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        folder = tempfile.TemporaryDirectory()  # its path is short enough for a socket
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "notify")
        self.manager = self.listen(self.path)

    def listen(self, address: str) -> socket.socket:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(manager.close)
        manager.bind(address)
        manager.setblocking(False)
        return manager

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                return messages

    def notifier(self, **environment: str) -> SystemdNotifier:
        notifier = SystemdNotifier(self.reactor, {"NOTIFY_SOCKET": self.path, **environment})
        self.addCleanup(lambda: notifier.running and notifier.stopService())
        return notifier

    def start(self, notifier: SystemdNotifier) -> None:
        notifier.startService()
        self.reactor.run()  # MemoryReactor runs what waited for the start, and returns

    def test_ready_is_said_only_when_the_reactor_runs(self) -> None:
        notifier = self.notifier()
        notifier.startService()
        self.assertEqual(self.heard(), [])
        self.reactor.run()
        self.assertEqual(self.heard(), ["READY=1"])

    def test_stopping_is_said_once_and_ends_the_watchdog(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="2000000")
        self.start(notifier)
        self.heard()
        notifier.stopService()
        self.reactor.advance(10)
        self.assertEqual(self.heard(), ["STOPPING=1"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_alive_is_said_twice_per_interval(self) -> None:
        self.start(self.notifier(WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid())))
        self.assertEqual(self.heard(), ["READY=1", "WATCHDOG=1"])
        self.reactor.pump([1, 1, 1, 1])
        self.assertEqual(self.heard(), ["WATCHDOG=1", "WATCHDOG=1"])

    def test_watchdog_of_another_process_is_left_alone(self) -> None:
        self.start(self.notifier(WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid() + 1)))
        self.reactor.advance(10)
        self.assertEqual(self.heard(), ["READY=1"])

    def test_abstract_socket_is_reached(self) -> None:
        name = f"pkengine-test-{secrets.token_hex(8)}"
        self.manager = self.listen("\0" + name)
        self.start(self.notifier(NOTIFY_SOCKET="@" + name))
        self.assertEqual(self.heard(), ["READY=1"])

    def test_status_is_passed_on(self) -> None:
        self.notifier().notify("STATUS=Listening on port 54321")
        self.assertEqual(self.heard(), ["STATUS=Listening on port 54321"])

    def test_without_a_manager_nothing_is_scheduled(self) -> None:
        notifier = SystemdNotifier(self.reactor, {"WATCHDOG_USEC": "4000000"})
        self.start(notifier)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        notifier.stopService()

    def test_manager_that_went_away_does_no_harm(self) -> None:
        notifier = self.notifier()
        self.manager.close()
        os.unlink(self.path)
        self.start(notifier)
        self.assertTrue(notifier.running)
