"""The agent: a service that answers the engines whose keys it accepts.

Theory of operation.  A call of an engine takes this way::

    engine_listener (port, TLS, authentication) -> channel (JSON-RPC) -> verbs -> accepted_keys
                                                                              -> capabilities, …

and a command on the host this one, to the same keys::

    pkagent -> control (UNIX socket, the kernel's credentials) -> accepted_keys, status

Keys stand in one file of the state folder.  Whoever changes it, the connections of a key
that is gone are closed at once.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.logger import Logger

import pkengine
from pkengine.agent.accepted_keys import AcceptedKeys
from pkengine.agent.control import ControlService, control_verbs
from pkengine.agent.control_socket import Credentials
from pkengine.agent.control_verbs import Status
from pkengine.agent.engine_listener import EngineListener
from pkengine.agent.listening import listening_endpoint
from pkengine.agent.notify import SystemdNotifier
from pkengine.agent.state import StateFolder
from pkengine.agent.verbs import Host, engine_verbs
from pkengine.auth.pin import PinAuthenticator
from pkengine.auth.trust import FileTrustStore
from pkengine.channel import Verbs


class AgentService(MultiService):
    """The agent of this host.

    Args:
        reactor: runs everything.
        directory: the state folder; what is missing in it is made.
        listen: a port, or an endpoint of Twisted.
        environment: says what systemd and the installed wrapper have to say.

    Attributes:
        pin: the agent's own key.

    Raises:
        AgentError: another agent has the folder, or `listen` is malformed.
        KeyFileError: the folder, or the key in it, cannot be used.
        TrustFileError: the file of accepted keys cannot be used.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        directory: Path,
        listen: str,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        MultiService.__init__(self)
        endpoint = listening_endpoint(reactor, listen)
        self._state = StateFolder(directory)
        key_pair = self._state.prepare()
        self._lock = self._state.lock()
        trust = FileTrustStore(self._state.authorized_engines)
        self.pin = key_pair.pin
        self._keys = AcceptedKeys(trust, self.pin)
        self._host = Host(reactor, self._state, environment.get("PKAGENT_BUNDLE", ""))
        self._notifier = SystemdNotifier(reactor, environment)
        self._engines = EngineListener(
            reactor,
            endpoint,
            listen,
            PinAuthenticator(key_pair, trust),
            engine_verbs(self._host, self._keys),
            self._changed,
        )
        control = ControlService(reactor, self._state, self._control_verbs)
        # The last one to start says that all is ready, and is the first to stop.
        for service in (self._engines, control, self._notifier):
            MultiService.addService(self, service)

    def privilegedStartService(self) -> None:
        """Say who this agent is, and listen.

        Raises:
            AgentError: it cannot listen.
        """
        self._log.info(
            "pkengine agent {version} with key {pin}, state folder {state}, host {uuid}",
            version=pkengine.__version__,
            pin=self.pin,
            state=self._state.directory,
            uuid=self._host.uuid,
        )
        if not self._keys.list():
            self._log.warn(
                "No engine is accepted yet; add its key with: pkagent keys add 'PIN name=NAME'"
            )
        MultiService.privilegedStartService(self)

    def status(self) -> Status:
        """Tell how the agent is doing."""
        version = self._host.version()
        return Status(
            pin=str(self.pin),
            uuid=self._host.uuid,
            version=version.version,
            bundle=version.bundle,
            pid=version.pid,
            started=datetime.datetime.fromtimestamp(version.started, datetime.timezone.utc),
            state=str(self._state.directory),
            listening=self._engines.addresses(),
            engines=self._keys.list(),
            connections=self._engines.connections(),
        )

    def _control_verbs(self, caller: Credentials) -> Verbs:
        return control_verbs(
            self.status, self._keys, by=f"process {caller.pid} of uid {caller.uid}"
        )

    def _changed(self) -> None:
        addresses = ", ".join(map(str, self._engines.addresses())) or "nothing"
        count = len(self._engines.connections())
        self._notifier.notify(f"STATUS=Listening on {addresses}; engines connected: {count}")
