"""Logins that are signed where the administrator is: relays to their ssh-agents.

Theory of operation.  A client opens a relay with the public keys that its ssh-agent has, names it
in a request that logs in, and asks again and again what is to be signed.  The engine answers with
the octets, and with the proof of the host that the session is one with it; so the client sees what
is signed, for whom and at which host, without believing the engine, and lets its agent sign or
refuses.  No private key and nothing that could log in elsewhere comes to the engine.

A relay belongs to the user who opened it.  It ends when its client says so, or asks no more.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from pkengine.engine.model import Origin
from pkengine.errors import BadRequest, Conflict, KeyAgentError, NotFound
from pkengine.keys import SshPublicKey
from pkengine.ssh.login_signature import SessionBinding

MOST_RELAYS = 64
MOST_KEYS = 32
#: A client asks again as soon as it was answered, so who is silent for so long has gone.
_SILENCE_S = 60.0
#: How long a question waits for something to sign.
LONGEST_POLL_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureRequest:
    """What is to be signed.

    Attributes:
        id: says which one is answered.
        key: what is to sign.
        signed: see `LoginRequest.parse`.
        binding: the host's proof that the session is one with it.
    """

    id: uuid.UUID
    key: SshPublicKey
    signed: bytes
    algorithm: str
    binding: SessionBinding


class AgentRelay:
    """One relay: for logins a `Signer`, for the client a queue of what is to be signed."""

    def __init__(self, user: str, keys: Sequence[SshPublicKey]) -> None:
        self.id = uuid.uuid4()
        self.user = user
        self.keys = tuple(keys)
        self._requests: deque[SignatureRequest] = deque()
        self._waiting: dict[uuid.UUID, Deferred[bytes]] = {}
        self._poll: Deferred[None] | None = None
        self._is_closed = False

    def sign(
        self, key: SshPublicKey, signed: bytes, algorithm: str, binding: SessionBinding
    ) -> Deferred[bytes]:
        """See `Signer`; who gives up waiting withdraws the request."""
        request = SignatureRequest(
            id=uuid.uuid4(), key=key, signed=signed, algorithm=algorithm, binding=binding
        )
        signature: Deferred[bytes] = Deferred(lambda _: self._withdraw(request))
        if self._is_closed:
            signature.errback(KeyAgentError("the ssh-agent went away"))
            return signature
        self._requests.append(request)
        self._waiting[request.id] = signature
        if self._poll is not None and not self._poll.called:
            self._poll.callback(None)
        return signature

    async def next_request(self, clock: IReactorTime) -> SignatureRequest | None:
        """Wait for something to sign; None where nothing came for a while."""
        if not self._requests and not self._is_closed:
            if self._poll is not None and not self._poll.called:
                self._poll.callback(None)
            poll = self._poll = Deferred()
            try:
                await poll.addTimeout(LONGEST_POLL_S, clock)
            except TimeoutError:
                return None
        return self._requests.popleft() if self._requests else None

    def answer(self, request_id: uuid.UUID, signature: bytes | None) -> None:
        """Hand in a signature; None refuses to sign.

        Raises:
            NotFound: nobody waits for it.
        """
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            raise NotFound(f"Nobody waits for a signature {request_id}.")
        if signature is None:
            waiting.errback(KeyAgentError("the ssh-agent's owner does not sign"))
        else:
            waiting.callback(signature)

    def close(self) -> None:
        """Refuse what waits, and all else."""
        self._is_closed = True
        self._requests.clear()
        waiting, self._waiting = self._waiting, {}
        for signature in waiting.values():
            signature.errback(KeyAgentError("the ssh-agent went away"))
        if self._poll is not None and not self._poll.called:
            self._poll.callback(None)

    def _withdraw(self, request: SignatureRequest) -> None:
        self._waiting.pop(request.id, None)
        if request in self._requests:
            self._requests.remove(request)


class AgentRelays:
    """The relays that are open.

    Args:
        clock: tells which ones are silent.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._relays: dict[uuid.UUID, AgentRelay] = {}
        self._ends: dict[uuid.UUID, IDelayedCall] = {}

    def open(self, keys: Sequence[SshPublicKey], origin: Origin) -> AgentRelay:
        """Open one.

        Raises:
            BadRequest: there is no key, or there are too many.
            Conflict: too many relays are open.
        """
        if not 1 <= len(keys) <= MOST_KEYS:
            raise BadRequest(f"Expected 1 to {MOST_KEYS} public keys, found {len(keys)}.")
        if len(self._relays) >= MOST_RELAYS:
            raise Conflict(f"{MOST_RELAYS} relays to ssh-agents are open already.")
        relay = AgentRelay(origin.user, keys)
        self._relays[relay.id] = relay
        self._ends[relay.id] = self._clock.callLater(_SILENCE_S, self._end, relay.id)
        return relay

    def get(self, relay_id: uuid.UUID, origin: Origin) -> AgentRelay:
        """Give one, to the user who opened it alone; that keeps it open.

        Raises:
            NotFound: there is none.
        """
        relay = self._relays.get(relay_id)
        if relay is None or relay.user != origin.user:
            raise NotFound(f"There is no relay {relay_id} to an ssh-agent.")
        self._ends[relay_id].reset(_SILENCE_S)
        return relay

    async def next_request(self, relay_id: uuid.UUID, origin: Origin) -> SignatureRequest | None:
        """Wait for something to sign; None where nothing came for a while.

        Raises:
            NotFound: there is no such relay.
        """
        return await self.get(relay_id, origin).next_request(self._clock)

    def close(self, relay_id: uuid.UUID, origin: Origin) -> None:
        """End one.

        Raises:
            NotFound: there is none.
        """
        self.get(relay_id, origin)
        self._ends[relay_id].cancel()
        self._end(relay_id)

    def stop(self) -> None:
        """End them all."""
        for relay_id, end in list(self._ends.items()):
            end.cancel()
            self._end(relay_id)

    def _end(self, relay_id: uuid.UUID) -> None:
        del self._ends[relay_id]
        self._relays.pop(relay_id).close()
