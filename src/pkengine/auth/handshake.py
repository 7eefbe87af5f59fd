"""A handshake of three messages, the same for every mechanism that makes a session key.

Theory of operation
===================

The initiator says *hello*, the acceptor answers *hello* and *proof*, the initiator gives its
*proof*, and the acceptor ends with *ready*, which is the first record under the new keys::

    initiator                               acceptor
    M1  hello                     -->
                                  <--       M2  hello, proof
    M3  proof                     -->
                                  <--       ready (in a record)

A hello names the protocol, the mechanism, the key, both identities, the role of the sender,
its fresh share and what it sees of the TLS below.  All of it is part of the transcript that
the proofs cover::

    TH2 = SHA-256(M1 | hello of M2)   proved by the acceptor
    TH3 = SHA-256(M1 | M2)            proved by the initiator
    TH  = SHA-256(M1 | M2 | M3)       goes into the keys of the records that follow

What differs between mechanisms is a `Party`: how to make a share, a proof, and the secret.
Anything out of order, too long, from the wrong role, of another version or mechanism ends the
exchange, and the wire never tells why: an acceptor that does not know a key goes on to the
last message with a key that cannot be right, so that *unknown* and *wrong* look alike.

=============== =============== ==========================================
state           awaits          then
=============== =============== ==========================================
NEW             `start`         AWAIT_ANSWER or AWAIT_HELLO
AWAIT_HELLO     M1              sends M2, AWAIT_PROOF
AWAIT_ANSWER    M2              sends M3, AWAIT_READY
AWAIT_PROOF     M3              sends *ready*, DONE
AWAIT_READY     *ready*         DONE
DONE                            `outcome` is set
FAILED                          everything raises
=============== =============== ==========================================
"""

from __future__ import annotations

import abc
import enum
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from zope.interface import implementer

from pkengine.auth.channel_binding import DIRECT, PROXIED, UNKNOWN, require_direct_path
from pkengine.auth.fields import MessageReader, decode_fields, encode_fields, frame
from pkengine.auth.key_schedule import PROTOCOL, KeySchedule, transcript_hash
from pkengine.auth.mac_records import MacRecords
from pkengine.auth.peer import Authenticated, Role, TrustedPeer
from pkengine.auth.ready import Ready
from pkengine.auth.trust import Clock, utc_now
from pkengine.errors import AuthenticationError
from pkengine.interfaces import IExchange
from pkengine.keys.secret import Secret

_HELLO_FIELDS = 8


@dataclass(frozen=True, slots=True)
class Hello:
    """What each end says of itself.

    Attributes:
        mechanism: the mechanism's name.
        key_id: which key is meant; public.
        identity: who the sender is.
        peer: whom the sender means to talk to; empty for whoever it is.
        role: which role the sender has, `Role.INITIATOR` for the end that dialled.
        share: what the sender adds to the session, fresh for each exchange.
        channel_binding: the RFC 9266 exporter value of the sender's TLS, or empty.
    """

    mechanism: str
    key_id: bytes
    identity: str
    peer: str
    role: Role
    share: bytes
    channel_binding: bytes

    def encode(self) -> bytes:
        """Write the hello as fields, each behind its length."""
        return encode_fields(
            PROTOCOL,
            self.mechanism.encode(),
            self.key_id,
            self.identity.encode(),
            self.peer.encode(),
            self.role.value.encode(),
            self.share,
            self.channel_binding,
        )

    @classmethod
    def from_fields(cls, fields: list[bytes]) -> Hello:
        """Read what `encode` wrote.

        Raises:
            AuthenticationError: it is another protocol or version, or no hello.
        """
        protocol, mechanism, key_id, identity, peer, role, share, channel_binding = fields
        if protocol != PROTOCOL:
            raise AuthenticationError(
                f"The peer speaks {protocol[:40]!r}, and this end {PROTOCOL!r}."
            )
        try:
            return cls(
                mechanism.decode("ascii"),
                key_id,
                identity.decode(),
                peer.decode(),
                Role(role.decode("ascii")),
                share,
                channel_binding,
            )
        except ValueError as error:
            raise AuthenticationError("The peer's hello is malformed.") from error


class Party(Protocol):
    """One end of one exchange: the part that mechanisms differ in."""

    key_id: bytes
    identity: str
    peer: str
    share: bytes

    def judge(self, hello: Hello) -> TrustedPeer:
        """Tell whose hello this is, and that trust in it holds now.

        Raises:
            AuthenticationError: it is nobody's.
        """

    def secret(self) -> Secret:
        """Give the secret that the keys of the records come from, behind the proofs."""


class Initiator(Party, Protocol):
    """The end that dialled."""

    def confirm(self, hello: Hello, th2: bytes, proof: bytes, th3: bytes) -> bytes:
        """Check the acceptor's proof over TH2; give the proof over TH3."""


class Acceptor(Party, Protocol):
    """The end that was dialled."""

    def answer(self, hello: Hello, th2: bytes) -> bytes:
        """Give the proof over TH2."""

    def finish(self, th3: bytes, proof: bytes) -> None:
        """Check the initiator's proof over TH3."""


class _State(enum.Enum):
    NEW = enum.auto()
    AWAIT_HELLO = enum.auto()
    AWAIT_ANSWER = enum.auto()
    AWAIT_PROOF = enum.auto()
    AWAIT_READY = enum.auto()
    DONE = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an authenticator decides for all of its handshakes.

    Attributes:
        mechanism: the mechanism's name.
        require_direct: refuse where the two ends do not see the same TLS below.
        monotonic: seconds that only go forward, for the age of record keys.
        clock: the time of day, for *ready*.
    """

    mechanism: str
    require_direct: bool = False
    monotonic: Callable[[], float] = time.monotonic
    clock: Clock = utc_now


class _Handshake(abc.ABC):
    """What both ends of a handshake have in common."""

    _role: Role

    def __init__(self, policy: Policy, channel_binding: bytes) -> None:
        self.outcome: Authenticated | None = None
        self._policy = policy
        self._channel_binding = channel_binding
        self._state = _State.NEW
        self._reader = MessageReader()
        self._transcript: list[bytes] = []
        self._records: MacRecords | None = None

    def receive(self, data: bytes) -> bytes:
        """Take octets from the peer, split in any way; give octets to send."""
        if self._state in (_State.NEW, _State.DONE, _State.FAILED):
            self._state = _State.FAILED
            raise AuthenticationError("The exchange has not begun, or has ended.")
        try:
            return self._advance(data)
        except Exception:
            self._state = _State.FAILED
            raise

    def pending(self) -> bytes:
        """Give nothing: a handshake that failed leaves no word for the peer."""
        return b""

    def protection(self) -> MacRecords:
        """Give the records under the keys of this exchange, once."""
        records, self._records = self._records, None
        if self.outcome is None or records is None:
            raise AuthenticationError("There is no protection without an outcome.")
        return records

    @abc.abstractmethod
    def _advance(self, data: bytes) -> bytes:
        """Take the next octets, in any state but the first and the last."""

    def _begin(self, state: _State) -> None:
        if self._state is not _State.NEW:
            self._state = _State.FAILED
            raise AuthenticationError("An exchange is used once.")
        self._state = state

    def _hello(self, party: Party) -> Hello:
        return Hello(
            self._policy.mechanism,
            party.key_id,
            party.identity,
            party.peer,
            self._role,
            party.share,
            self._channel_binding,
        )

    def _read_hello(self, fields: list[bytes]) -> Hello:
        hello = Hello.from_fields(fields)
        if hello.mechanism != self._policy.mechanism:
            raise AuthenticationError(
                f"The peer wants mechanism {hello.mechanism[:40]!r}; "
                f"only {self._policy.mechanism!r} is allowed."
            )
        if hello.role is self._role:
            raise AuthenticationError(f"The peer claims this end's own role, {hello.role.value}.")
        return hello

    def _say(self, message: bytes) -> bytes:
        framed = frame(message)
        self._transcript.append(framed)
        return framed

    def _transcript_hash(self, *more: bytes) -> bytes:
        return transcript_hash(*self._transcript, *more)

    def _conclude(self, party: Party, peer: TrustedPeer, hello: Hello) -> Authenticated:
        """Make the keys and the outcome, behind the last message of the transcript."""
        path = _path(self._channel_binding, hello.channel_binding)
        if self._policy.require_direct:
            require_direct_path(path, peer.name)
        schedule = KeySchedule(self._policy.mechanism, party.secret())
        th = self._transcript_hash()
        send = schedule.derive(_records_of(self._role), th)
        receive = schedule.derive(_records_of(hello.role), th)
        self._records = MacRecords(send, receive, clock=self._policy.monotonic)
        session_key = Secret(schedule.derive(b"session key", th))
        return Authenticated(peer, self._policy.mechanism, session_key, {"tls_path": path})


@implementer(IExchange)
class InitiatorHandshake(_Handshake):
    """The end that dialled.

    Args:
        policy: what the authenticator decided.
        party: this end.
        channel_binding: the RFC 9266 exporter value of the TLS below, or empty.
    """

    _role = Role.INITIATOR

    def __init__(self, policy: Policy, party: Initiator, channel_binding: bytes) -> None:
        super().__init__(policy, channel_binding)
        self._party = party
        self._verified: tuple[Authenticated, Hello] | None = None

    def start(self) -> bytes:
        """Begin; give M1."""
        self._begin(_State.AWAIT_ANSWER)
        return self._say(self._hello(self._party).encode())

    def _advance(self, data: bytes) -> bytes:
        answer = b""
        if self._state is _State.AWAIT_ANSWER:
            m2 = self._reader.feed(data)
            if m2 is None:
                return b""
            answer = self._confirm(m2)
            data = self._reader.rest()
        self._await_ready(data)
        return answer

    def _confirm(self, m2: bytes) -> bytes:
        *fields, proof = decode_fields(m2, _HELLO_FIELDS + 1)
        hello = self._read_hello(fields)
        if hello.key_id != self._party.key_id:
            raise AuthenticationError("The peer answered with another key.")
        peer = self._party.judge(hello)
        th2 = self._transcript_hash(encode_fields(*fields))
        self._transcript.append(frame(m2))
        proof = self._party.confirm(hello, th2, proof, self._transcript_hash())
        m3 = self._say(encode_fields(proof))
        self._verified = self._conclude(self._party, peer, hello), hello
        self._state = _State.AWAIT_READY
        return m3

    def _await_ready(self, data: bytes) -> None:
        assert self._records is not None, "the keys come with M3"
        assert self._verified is not None, "the proof comes with M2"
        message = self._reader.feed(self._records.open(data))
        if message is None:
            if self._records.is_closed:
                raise AuthenticationError("The peer closed the connection without 'ready'.")
            return
        outcome, hello = self._verified
        Ready.decode(message).check(
            mechanism=self._policy.mechanism,
            acceptor=hello.identity,
            initiator=self._party.identity,
        )
        self._records.unread(self._reader.rest())
        self._state = _State.DONE
        self.outcome = outcome


@implementer(IExchange)
class AcceptorHandshake(_Handshake):
    """The end that was dialled.

    Args:
        policy: what the authenticator decided.
        choose: gives this end for the hello that came.
        channel_binding: the RFC 9266 exporter value of the TLS below, or empty.
    """

    _role = Role.ACCEPTOR

    def __init__(
        self, policy: Policy, choose: Callable[[Hello], Acceptor], channel_binding: bytes
    ) -> None:
        super().__init__(policy, channel_binding)
        self._choose = choose
        self._answered: tuple[Acceptor, Hello] | None = None

    def start(self) -> bytes:
        """Begin; the initiator speaks first."""
        self._begin(_State.AWAIT_HELLO)
        return b""

    def _advance(self, data: bytes) -> bytes:
        answer = b""
        message = self._reader.feed(data)
        if message is not None and self._state is _State.AWAIT_HELLO:
            answer = self._answer(message)
            message = self._reader.feed(b"")
        if message is not None:
            answer += self._finish(message)
        return answer

    def _answer(self, m1: bytes) -> bytes:
        hello = self._read_hello(decode_fields(m1, _HELLO_FIELDS))
        party = self._choose(hello)
        self._transcript.append(frame(m1))
        own = self._hello(party).encode()
        proof = party.answer(hello, self._transcript_hash(own))
        self._answered = party, hello
        self._state = _State.AWAIT_PROOF
        return self._say(own + encode_fields(proof))

    def _finish(self, m3: bytes) -> bytes:
        assert self._answered is not None, "a proof comes behind a hello"
        party, hello = self._answered
        (proof,) = decode_fields(m3, 1)
        party.finish(self._transcript_hash(), proof)
        peer = party.judge(hello)
        self._transcript.append(frame(m3))
        outcome = self._conclude(party, peer, hello)
        records = self._records
        assert records is not None, "the keys come with the outcome"
        records.unread(records.open(self._reader.rest()))
        ready = Ready(self._policy.mechanism, party.identity, hello.identity, self._policy.clock())
        self._state = _State.DONE
        self.outcome = outcome
        return records.seal(ready.encode())


def _records_of(role: Role) -> bytes:
    return b"records of the " + role.value.encode()


def _path(ours: bytes, theirs: bytes) -> str:
    if not ours or not theirs:
        return UNKNOWN
    return DIRECT if hmac.compare_digest(ours, theirs) else PROXIED
