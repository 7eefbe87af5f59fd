"""The agent: a service that answers the engines whose keys it accepts.

Theory of operation.  A call of an engine takes this way::

    engine_listener (port) ------┬-> authentication -> channel -> verbs -> accepted_keys
    engine_dialler (WebSocket) --┘                                      -> capabilities, …

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
from twisted.internet.defer import Deferred
from twisted.logger import Logger

import pkengine
from pkengine.agent.accepted_keys import AcceptedKeys
from pkengine.agent.connected_engines import ConnectedEngines
from pkengine.agent.control import ControlService, control_verbs
from pkengine.agent.control_socket import Credentials
from pkengine.agent.control_verbs import ListeningAddress, Status
from pkengine.agent.dialled_engines import DialledEngines
from pkengine.agent.engine_dialler import EngineDialler
from pkengine.agent.engine_dialling import EngineDialling
from pkengine.agent.engine_listener import EngineListener, is_reached_by
from pkengine.agent.engine_ways import EngineWays
from pkengine.agent.listening import NOWHERE
from pkengine.agent.notify import SystemdNotifier
from pkengine.agent.own_upgrade import OwnUpgrade
from pkengine.agent.state import StateFolder
from pkengine.agent.trial_trust import TrialTrust
from pkengine.agent.verbs import Host, answer_engines
from pkengine.agent.way_changes import WayChanges
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.shared_key import SharedKeyFolder
from pkengine.auth.trust import FileTrustStore
from pkengine.channel import Verbs
from pkengine.listening import AGENT_PORT, listening_endpoint


class AgentService(MultiService):
    """The agent of this host.

    Args:
        reactor: runs everything.
        directory: the state folder; what is missing in it is made.
        listen: a port, an endpoint of Twisted, or `NOWHERE`.
        is_on_demand: listen only while an engine is accepted that is not dialled.
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
        *,
        is_on_demand: bool = False,
    ) -> None:
        MultiService.__init__(self)
        endpoint = (
            None if listen == NOWHERE else listening_endpoint(reactor, listen, example=AGENT_PORT)
        )
        self._state = StateFolder(directory)
        key_pair = self._state.prepare()
        self._lock = self._state.lock()
        self._kept = FileTrustStore(self._state.authorized_engines)
        trust = TrialTrust(self._kept)
        self.pin = key_pair.pin
        self._dialled = DialledEngines(self._state.dialled_engines)
        secrets = SharedKeyFolder(self._state.secrets)
        self._keys = AcceptedKeys(trust, self.pin, secrets, self._dialled)
        bundle = environment.get("PKAGENT_BUNDLE", "")
        self._host = Host(reactor, self._state, bundle)
        self._upgrade = OwnUpgrade(reactor, self._state, bundle, listen)
        self._notifier = SystemdNotifier(reactor, environment)
        self._connected = ConnectedEngines(reactor, self._changed)
        verbs = Verbs()
        parts = IdentityParts(key_pair, trust, secrets)
        self._listener: EngineListener | None = None
        if endpoint is not None:
            self._listener = EngineListener(
                reactor,
                endpoint,
                listen,
                parts.authenticator("pin"),
                verbs,
                self._connected,
                demand=self._is_reached if is_on_demand else None,
                changed=self._changed,
            )
            MultiService.addService(self, self._listener)
        dialling = EngineDialling(reactor, parts, verbs, environment)
        self._dialler = EngineDialler(reactor, self._dialled, dialling.connect, self._connected)
        self._changes = WayChanges(
            reactor,
            own=self.pin,
            trust=trust,
            ways=EngineWays(trust, secrets, self._dialled),
            dialled=self._dialled,
            dialler=self._dialler,
            listener=self._listener,
            connect=dialling.connect,
            connected=self._connected,
        )
        answer_engines(verbs, self._host, self._keys, self._changes, self._upgrade)
        control = ControlService(reactor, self._state, self._control_verbs)
        # The last one to start says that all is ready, and is the first to stop.
        for service in (self._dialler, control, self._notifier):
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
        self._upgrade.begin_watch()
        self._changed()

    def stopService(self) -> Deferred[Any]:
        """Close every connection in order."""
        self._changes.stop()
        self._upgrade.stop()
        stopping: Deferred[Any] = MultiService.stopService(self)
        return stopping

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
            listening=self._addresses(),
            listens_on_demand=self._listener is not None and self._listener.is_on_demand,
            engines=self._keys.list(),
            connections=self._connected.list(),
            dialled=self._dialler.status(),
        )

    def _control_verbs(self, caller: Credentials) -> Verbs:
        return control_verbs(
            self.status, self._keys, by=f"process {caller.pid} of uid {caller.uid}"
        )

    def _is_reached(self) -> bool:
        """Tell whether an engine has to reach this agent, because it is not dialled."""
        dialled, _ = self._dialled.all()
        return self._changes.is_engine_awaited() or is_reached_by(
            self._kept.peers(), "pin", dialled
        )

    def _addresses(self) -> list[ListeningAddress]:
        return self._listener.addresses() if self._listener is not None else []

    def _changed(self) -> None:
        addresses = ", ".join(map(str, self._addresses())) or "nothing"
        count = len(self._connected.list())
        self._notifier.notify(f"STATUS=Listening on {addresses}; engines connected: {count}")
