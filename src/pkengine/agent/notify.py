"""Tells systemd how the service fares: the datagrams of sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class SystemdNotifier(Service):
    """Says ready, alive and stopping; says nothing where no service manager listens.

    Alive is said from a timer of the reactor, so an agent whose reactor hangs stops saying
    it and is restarted.

    Args:
        reactor: gives the time, and runs when the service is ready.
        environment: where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorCore, environment: Mapping[str, str] = os.environ) -> None:
        self._reactor = reactor
        self._address = _socket_address(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_seconds(environment)
        self._watchdog = LoopingCall(self.notify, "WATCHDOG=1")
        self._watchdog.clock = cast(IReactorTime, reactor)

    def startService(self) -> None:
        """Say ready as soon as the reactor runs, then alive twice per watchdog interval."""
        Service.startService(self)
        if self._address is not None:
            self._reactor.callWhenRunning(self._ready)

    def stopService(self) -> Deferred[None] | None:
        """Say that the service is on its way out."""
        Service.stopService(self)
        if self._watchdog.running:
            self._watchdog.stop()
        self.notify("STOPPING=1")
        return None

    def notify(self, *assignments: str) -> None:
        """Send assignments such as ``STATUS=…``; a failure is logged and harms nothing else."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode("utf-8"), self._address)
        except OSError as error:
            self._log.warn(
                "Cannot tell the service manager {assignments}: {reason}.",
                assignments=assignments,
                reason=error.strerror,
            )

    def _ready(self) -> None:
        if not self.running:
            return
        self.notify("READY=1")
        if self._watchdog_s is not None:
            ended = self._watchdog.start(self._watchdog_s / 2)
            ended.addErrback(lambda failure: self._log.failure("The watchdog failed.", failure))


def _socket_address(text: str) -> str | None:
    """Give the address of a UNIX socket; ``@`` begins an abstract one."""
    if text.startswith("@") and len(text) > 1:
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Give the watchdog's interval where there is one and it is meant for this process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    pid = environment.get("WATCHDOG_PID", str(os.getpid()))
    if microseconds.isdigit() and int(microseconds) > 0 and pid == str(os.getpid()):
        return int(microseconds) / 1_000_000
    return None
