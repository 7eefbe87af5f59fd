"""Joins an engine by a code that a person typed; the agent need not run meanwhile.

Theory of operation.  This is a change of the way between two ends (see `way_changes`), of
which the first way is the code::

    on the connection by the code       Host.join -->
                                                  <-- Engine.prepare   the lasting way
                                                  <-- Engine.try       dials by it
    on the connection by the lasting way          <-- Engine.commit    keeps it
    on the connection by the code                 <-- (Host.join is answered)

Nothing is written before the commit.  From then on a running agent, which follows its state
folder, dials by itself.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult

from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.threads import deferToThreadPool

import pkengine
from pkengine.agent.dialled_engines import DialledEngine, DialledEngines
from pkengine.agent.engine_dialling import EngineDialling
from pkengine.agent.engine_ways import EngineWay, EngineWays
from pkengine.agent.state import StateFolder
from pkengine.auth.join_code import INVITING_ENGINE, JoinCode
from pkengine.auth.key_agreement import KeyAgreement
from pkengine.auth.mechanisms import IdentityParts
from pkengine.auth.pake import Spake2PlusAuthenticator
from pkengine.auth.peer import Role, TrustedPeer
from pkengine.auth.shared_key import SHARED_KEY_MECHANISMS, MemorySharedKeys, SharedKeyFolder
from pkengine.auth.trust import FileTrustStore, MemoryTrustStore
from pkengine.channel import Channel, Verbs, connect_channel
from pkengine.channel.engine_url import joining_endpoint, parse_engine_url
from pkengine.channel.http_proxy import proxy_from_environment
from pkengine.channel.join_verbs import HOST_JOIN, Joined, JoinRequest
from pkengine.channel.verbs import (
    ENGINE_COMMIT,
    ENGINE_PREPARE,
    ENGINE_TRY,
    CommittedWay,
    Nothing,
    PreparedWay,
    PrepareWay,
)
from pkengine.errors import (
    AgentError,
    AuthenticationError,
    AuthenticationTimeout,
    CallRefused,
    PkengineError,
)
from pkengine.keys import KeyPair, Pin

#: How long the engine may take to take the host in.
JOIN_TIMEOUT_S = 60.0


class Joining:
    """One attempt to join an engine.

    Args:
        reactor: does the connecting, and gives threads.
        state: the agent's state folder; what is missing in it is made.
        anew: join also an engine that the agent knows already.
        host_name: what this host calls itself; None asks the system.
        environment: names the HTTP proxy to connect through.

    Raises:
        KeyFileError: the state folder cannot be used.
    """

    def __init__(
        self,
        reactor: Any,
        state: StateFolder,
        *,
        anew: bool = False,
        host_name: str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._state = state
        self._anew = anew
        self._host_name = host_name or socket.gethostname().partition(".")[0]
        self._environment = environment
        self._key_pair: KeyPair = state.prepare()
        self._way: EngineWay | None = None
        self._channels: list[Channel] = []

    async def join(self, code: JoinCode, engine_url: str) -> Joined:
        """Join the engine; both ends know each other by lasting keys when this returns.

        Args:
            code: what the administrator has read out.
            engine_url: where the engine is; it is proved by the code, not by the URL.

        Raises:
            InvalidEngineUrl: the URL is malformed.
            AuthenticationError: code and engine do not fit together.
            ChannelError: the engine cannot be reached, or what answers is none.
            AgentError: the engine, or this host, refuses.
        """
        url = parse_engine_url(engine_url)
        try:
            channel = await self._connect(code, url)
            request = JoinRequest(
                name=self._host_name,
                address=str(getattr(channel.own_address, "host", "")),
                url=url.geturl(),
                version=pkengine.__version__,
            )
            joined: Joined = await channel.call(
                HOST_JOIN, request, result_type=Joined, timeout_s=JOIN_TIMEOUT_S
            )
        except CallRefused as error:
            raise AgentError(str(error)) from error
        finally:
            for each in self._channels:
                each.close()
        return joined

    async def _connect(self, code: JoinCode, url: SplitResult) -> Channel:
        """Connect by the code, which proves both ends."""
        proxy = proxy_from_environment(self._environment, url.hostname or "")
        verbs = Verbs()
        verbs.add(ENGINE_PREPARE, PrepareWay, lambda request, _: self._prepare(request))
        verbs.add(ENGINE_TRY, Nothing, lambda _, __: self._try())
        proof, _ = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), code.register
        )
        engine = TrustedPeer(INVITING_ENGINE, proof.key_id, frozenset({proof.mechanism}))
        try:
            channel = await connect_channel(
                self._reactor,
                joining_endpoint(self._reactor, url, proxy=proxy),
                Spake2PlusAuthenticator(MemorySharedKeys([proof]), MemoryTrustStore([engine])),
                expected=INVITING_ENGINE,
                verbs=verbs,
            )
        except AuthenticationTimeout:
            raise
        except AuthenticationError as error:
            raise AuthenticationError(
                "The engine does not accept this code. It may be mistyped, or of another engine, "
                "or it ended more than an hour ago; and after several wrong ones even the right "
                "one is refused. Ask for a new one: pkengine host invite"
            ) from error
        self._channels.append(channel)
        return channel

    # What the engine calls, on the connection by the code and then by the lasting way.

    def _prepare(self, request: PrepareWay) -> PreparedWay:
        if self._way is not None:
            raise AgentError("This host has been told a lasting way already.")
        if request.connection != "agent-dials":
            raise AgentError("A host that joins by a code dials the engine, and is not dialled.")
        self._check_is_new(request.name)
        engine = DialledEngine(request.url, request.mechanism, request.server)
        engine.check()
        mechanisms = frozenset({request.mechanism})
        if request.mechanism not in SHARED_KEY_MECHANISMS:
            pin = Pin.parse(request.engine_pin)
            self._way = EngineWay(TrustedPeer(request.name, pin, mechanisms), engine)
            return PreparedWay(str(self._key_pair.pin))
        agreement = KeyAgreement(
            request.mechanism, local=request.host_id, peer=request.name, role=Role.INITIATOR
        )
        secret = agreement.agree(request.share or "")
        peer = TrustedPeer(request.name, secret.key_id, mechanisms)
        self._way = EngineWay(peer, engine, secret)
        return PreparedWay(str(self._key_pair.pin), agreement.share)

    def _check_is_new(self, name: str) -> None:
        known = FileTrustStore(self._state.authorized_engines).peers()
        if not self._anew and any(peer.name == name for peer in known):
            raise AgentError(
                f"This host knows the engine {name} already: see 'pkagent keys list'. To join it "
                "anew, remove the host at the engine, and say --anew here."
            )

    async def _try(self) -> None:
        """Dial the engine by the lasting way, and stay connected."""
        way = self._way
        if way is None or way.engine is None:
            raise AgentError("This host was told no lasting way to try.")
        verbs = Verbs()
        verbs.add(ENGINE_COMMIT, Nothing, lambda _, __: self._commit(way))
        secrets = MemorySharedKeys([way.secret] if way.secret is not None else [])
        parts = IdentityParts(self._key_pair, MemoryTrustStore([way.peer]), secrets)
        dialling = EngineDialling(self._reactor, parts, verbs, self._environment)
        try:
            channel = await dialling.connect(way.peer.name, way.engine)
        except (PkengineError, ConnectError, ConnectionClosed, OSError) as error:
            raise AgentError(
                f"The code is right, and yet this host cannot reach the engine at "
                f"{way.engine.url}: {error} Nothing was changed; the code stays good."
            ) from error
        self._channels.append(channel)

    def _commit(self, way: EngineWay) -> CommittedWay:
        ways = EngineWays(
            FileTrustStore(self._state.authorized_engines),
            SharedKeyFolder(self._state.secrets),
            DialledEngines(self._state.dialled_engines),
        )
        ways.make_only(way)
        return CommittedWay(is_new=True)
