"""The client's end of an SSH transport (RFC 4253), up to the proof of the host key.

Conch keeps the order of a key exchange and hands messages to services.  This file takes over
from it what comes before and below that: the exchange of versions, the binary packets, the
negotiation, the key exchanges themselves and when they are due.  And it stands between conch
and everything that a server may send: what is malformed or comes at the wrong moment ends the
connection with one reason, which whoever waits for the connection is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from twisted.conch.ssh.transport import (
    DISCONNECT_BY_APPLICATION,
    MSG_KEXINIT,
    MSG_NEWKEYS,
    MSG_SERVICE_REQUEST,
    MSG_UNIMPLEMENTED,
    SSHCiphers,
    SSHClientTransport,
)
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, IReactorTime, ISystemHandle, ITCPTransport
from twisted.logger import (
    FilteringLogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from pkengine.errors import (
    HostUnreachable,
    SshConnectionLost,
    SshError,
)
from pkengine.keys import SshPublicKey
from pkengine.ssh.certificate import CERTIFICATE_SUFFIX, certified_key
from pkengine.ssh.ciphers import CIPHERS, MACS, Keys, Opener, Plain, Sealer, opener, sealer
from pkengine.ssh.host_keys import HOST_KEY_ALGORITHMS, KEY_TYPES, IHostKeyVerifier
from pkengine.ssh.key_exchange import METHODS, KeyExchange
from pkengine.ssh.negotiation import (
    STRICT_CLIENT,
    STRICT_SERVER,
    Agreement,
    NoCommonAlgorithm,
    Offer,
    negotiate,
)
from pkengine.ssh.signature import is_genuine
from pkengine.ssh.silence import notice_silence
from pkengine.ssh.version import OUR_VERSION, VersionReader
from pkengine.ssh.wire import MalformedMessage, Reader, readable, string

#: Conch tells of every message at level "info"; what it finds wrong is enough.
QUIET_LOG = Logger(
    observer=FilteringLogObserver(
        globalLogPublisher, [LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)]
    )
)
#: How many messages that nobody understands are answered before the connection is ended.
_MAX_UNIMPLEMENTED = 16
#: How many requests of the host are answered while it does not take in our answers.
_MAX_UNHEARD = 64

#: After how many octets in both directions, and after how many seconds, new keys are made
#: (RFC 4253 §9).
REKEY_OCTETS = 1 << 30
REKEY_S = 3600.0

#: The client's and the host's part of every key exchange that is offered.
_MSG_KEX_INIT, _MSG_KEX_REPLY = 30, 31
_FIRST_SERVICE_MESSAGE = 50
#: How much key material is derived for each purpose, in octets.
_KEY_MATERIAL = 64
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class _NegotiatedCiphers(SSHCiphers):
    """Holds what a key exchange negotiated until both sides said NEWKEYS."""

    sealer: Sealer | None = None
    opener: Opener | None = None

    def __init__(self, agreement: Agreement) -> None:
        out, in_ = agreement.cipher_out.encode(), agreement.cipher_in.encode()
        super().__init__(out, in_, agreement.mac_out.encode(), agreement.mac_in.encode())
        self.agreement = agreement

    def setKeys(
        self,
        outIV: bytes,
        outKey: bytes,
        inIV: bytes,
        inKey: bytes,
        outInteg: bytes,
        inInteg: bytes,
    ) -> None:
        """Take the keys that were agreed; conch calls this."""
        chosen = self.agreement
        self.sealer = sealer(chosen.cipher_out, chosen.mac_out, Keys(outIV, outKey, outInteg))
        self.opener = opener(chosen.cipher_in, chosen.mac_in, Keys(inIV, inKey, inInteg))
        self.encBlockSize = self.decBlockSize = 16  # tells conch that there are keys


def _names(names: Iterable[str]) -> list[bytes]:
    return [name.encode("ascii") for name in names]


#: What this side offers, save for the host key algorithms, which depend on the host.
_OFFER = Offer(
    exchanges=(*METHODS, STRICT_CLIENT),
    host_keys=(),
    ciphers_out=tuple(CIPHERS),
    ciphers_in=tuple(CIPHERS),
    macs_out=tuple(MACS),
    macs_in=tuple(MACS),
    compressions_out=("none",),
    compressions_in=("none",),
)


@implementer(IPushProducer)
class SshTransport(SSHClientTransport):
    """One connection to an SSH server.

    Args:
        where: the host as error texts name it.
        verifier: judges the host's key.
        clock: tells when new keys are due.

    Attributes:
        secured: fires with None once the host has proved that it holds a key which the
            verifier accepted, and encryption is on; fails with the reason otherwise.  Until
            then nothing that is secret has been sent.  Where the verifier wants the key only,
            it fires before encryption is on, and the connection is of no further use.
        stage: what the connection waits for, in words.
        ended_by: why the connection ended or is ending; None while it is alive.
    """

    _log = QUIET_LOG
    ourVersionString = OUR_VERSION
    supportedKeyExchanges = _names(_OFFER.exchanges)
    supportedCiphers = _names(_OFFER.ciphers_out)
    supportedMACs = _names(_OFFER.macs_out)
    supportedCompressions = _names(_OFFER.compressions_out)

    def __init__(self, where: str, verifier: IHostKeyVerifier, clock: IReactorTime) -> None:
        self.where = where
        self._clock = clock
        self.secured: Deferred[None] = Deferred()
        self._network: Any = None  # the stream, which conch's type knows too little of
        self.stage = "its SSH version string"
        self.ended_by: SshError | None = None
        self._verifier = verifier
        self._ask_for_key_types(*verifier.key_types)
        self._shown: SshPublicKey | None = None
        self._exchange: KeyExchange | None = None
        self._octets = 0
        self._keys_since = 0.0
        self._is_secure = False
        self._strict = False
        self._version_reader = VersionReader()
        self._received = bytearray()
        self._sealer: Sealer = Plain()
        self._opener: Opener = Plain()
        self._requested: Any = None
        self._hash: Callable[..., Any] = hashlib.sha256
        self._unimplemented = 0
        self._pending: _NegotiatedCiphers | None = None
        self._is_lost = False
        self._lost_waiters: list[Deferred[None]] = []
        self._is_congested = False
        self._unheard = 0
        self.on_writable: Callable[[], None] = lambda: None

    def _ask_for_key_types(self, *key_types: str) -> None:
        """Offer these first.

        The others stand behind them and are never chosen, as the verifier sees to it that the
        host has one of these.  But OpenSSH's server looks there for the hashes that this side
        knows, before it proves an RSA key beside the one of the connection.
        """
        algorithms = tuple(
            algorithm
            for key_type in dict.fromkeys((*key_types, *KEY_TYPES))
            for algorithm in HOST_KEY_ALGORITHMS[key_type]
        )
        self._offer = replace(_OFFER, host_keys=algorithms)
        self.supportedPublicKeys = _names(algorithms)

    # The connection's beginning and end.

    def connectionMade(self) -> None:
        """Say our version, and at once which algorithms we have."""
        self._network = self.transport
        if ITCPTransport.providedBy(self.transport):
            self._network.setTcpNoDelay(True)
        if ISystemHandle.providedBy(self.transport):
            notice_silence(self._network.getHandle())
        self._network.registerProducer(self, True)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell everybody who waits why there is no connection any more."""
        if self.ended_by is None:
            self.ended_by = self._error(
                "the host closed the connection"
                if reason is None or reason.check(ConnectionDone) or not self._is_secure
                else "the host closed the connection without a word, or is cut off"
            )
        super().connectionLost(reason)
        if self._requested is not None:
            self._requested.serviceStopped()
        if not self._is_secure:
            self._is_secure = True
            self.secured.errback(Failure(self.ended_by))
        self._is_lost = True
        waiters, self._lost_waiters = self._lost_waiters, []
        for waiter in waiters:
            if not waiter.called:  # it may have been cancelled
                waiter.callback(None)

    def when_lost(self) -> Deferred[None]:
        """Give a Deferred that fires when the connection is gone."""
        if self._is_lost:
            return succeed(None)
        self._lost_waiters.append(Deferred())
        return self._lost_waiters[-1]

    def end(self, reason: SshError) -> None:
        """Cut the connection off without another word; the first reason is kept."""
        if self.ended_by is None:
            self.ended_by = reason
        self._network.abortConnection()

    def disconnect(self, reason: SshError, code: int = DISCONNECT_BY_APPLICATION) -> None:
        """Say goodbye and close; the first reason is kept."""
        if self.ended_by is None:
            self.ended_by = reason
            super().sendDisconnect(code, b"")

    def _error(self, what: str) -> SshError:
        if self._is_secure:
            return SshConnectionLost(f"The SSH connection to {self.where} was lost: {what}.")
        return HostUnreachable(
            f"No SSH connection to {self.where}: {what} while {self.stage} was awaited. Check "
            "that an SSH server, and nothing else, listens on that port."
        )

    def sendDisconnect(self, reason: int, desc: bytes) -> None:
        """Conch calls this where it cannot go on."""
        if self.ended_by is None:
            self.ended_by = self._error(f"the SSH protocol was broken ({readable(desc)})")
            super().sendDisconnect(reason, b"protocol error")

    def receiveError(self, reasonCode: int, description: bytes) -> None:
        """Keep the reason that the server gives for ending the connection."""
        if self.ended_by is None:
            self.ended_by = self._error(f"the host says '{readable(description)}'")

    # Octets in: the version string, then packets.

    def dataReceived(self, data: bytes) -> None:
        """Take octets from the network."""
        self._received += data
        try:
            if not self.gotVersion:
                version = self._version_reader.read(self._received)
                if version is None:
                    return
                self.otherVersionString, self.gotVersion = version, True
                self.stage = "its key exchange"
            while self.ended_by is None:
                payload = self._opener.open(self.incomingPacketSequence, self._received)
                if payload is None:
                    break
                self._octets += len(payload)
                self.incomingPacketSequence = (self.incomingPacketSequence + 1) & 0xFFFF_FFFF
                self.dispatchMessage(payload[0], payload[1:])
            self._renew_keys_when_due()
        except SshError as error:
            self.end(error)
        except Exception as error:  # conch shows malformed messages by exceptions of many types
            ending = self._error(f"the SSH protocol was broken ({readable(str(error))})")
            ending.__cause__ = error
            self.end(ending)
        self._acknowledge_quickly()

    def _acknowledge_quickly(self) -> None:
        """Acknowledge what was read at once.

        Until a session starts, sshd leaves Nagle's algorithm on, and then waits for our
        acknowledgement, which Linux delays by 40 ms.  The option does not last.
        """
        if _QUICKACK is not None and ITCPTransport.providedBy(self.transport):
            handle = self._network.getHandle()
            with contextlib.suppress(OSError):  # the host may have hung up meanwhile
                handle.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand a message on, unless it must not come at this moment."""
        is_awaited = messageNum == _MSG_KEX_REPLY and self._exchange is not None
        if 30 <= messageNum <= 49 and not is_awaited:
            raise MalformedMessage(f"message {messageNum} outside a key exchange")
        if self._strict and not self._is_secure and not 20 <= messageNum <= 49 and messageNum != 1:
            raise MalformedMessage(f"message {messageNum} within the first key exchange")
        if messageNum >= _FIRST_SERVICE_MESSAGE and self.service is None:
            raise MalformedMessage(f"message {messageNum} before any service")
        super().dispatchMessage(messageNum, payload)

    def sendUnimplemented(self) -> None:
        """Say that a message was not understood, but not without end."""
        self._unimplemented += 1
        if self._unimplemented > _MAX_UNIMPLEMENTED:
            raise MalformedMessage("too many messages that nobody asked for")
        number = (self.incomingPacketSequence - 1) & 0xFFFF_FFFF
        self.sendPacket(MSG_UNIMPLEMENTED, number.to_bytes(4, "big"))

    def receiveUnimplemented(self, seqnum: int) -> None:
        """All that we send is part of every SSH server."""
        raise MalformedMessage("the host does not know a message that every SSH server knows")

    def receiveDebug(self, alwaysDisplay: bool, message: bytes, lang: bytes) -> None:
        """Leave out what a server tells for debugging."""

    # Octets out.

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send a message; during a key exchange keep back what must not come in between."""
        if messageType >= _FIRST_SERVICE_MESSAGE:
            self._renew_keys_when_due()
        if self._is_exchanging and not self._allowedKeyExchangeMessageType(messageType):
            cast(list[tuple[int, bytes]], self._blockedByKeyExchange).append(
                (messageType, payload)
            )
            return
        message = bytes((messageType,)) + payload
        self._octets += len(message)
        self._network.write(self._sealer.seal(self.outgoingPacketSequence, message))
        self.outgoingPacketSequence = (self.outgoingPacketSequence + 1) & 0xFFFF_FFFF
        if messageType == MSG_NEWKEYS:
            assert self._pending is not None
            assert self._pending.sealer is not None
            self._sealer = self._pending.sealer
            if self._strict:
                self.outgoingPacketSequence = 0

    @property
    def is_congested(self) -> bool:
        """Tell whether what is sent now would have to wait: for the network, or for new keys."""
        return self._is_congested or (self._is_secure and self._is_exchanging)

    def pauseProducing(self) -> None:
        """The network takes no more for now."""
        self._is_congested = True

    def resumeProducing(self) -> None:
        """The network takes more."""
        self._is_congested = False
        self._unheard = 0
        if not self.is_congested:
            self.on_writable()

    def bear_request(self) -> None:
        """Count a request of the host that will be answered.

        Raises:
            MalformedMessage: the host asks on and on without taking the answers in.
        """
        self._unheard += self.is_congested
        if self._unheard > _MAX_UNHEARD:
            raise MalformedMessage("requests without end")

    def stopProducing(self) -> None:
        """The connection is going away; `connectionLost` follows."""

    # The key exchange.

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Agree on algorithms and begin the key exchange."""
        if self._keyExchangeState == self._KEY_EXCHANGE_PROGRESSING:
            raise MalformedMessage("a key exchange within another")
        theirs = Offer.parse(packet)
        if not self._is_secure:
            if STRICT_SERVER in theirs.exchanges:
                self._strict = True
                if self.incomingPacketSequence != 1:
                    raise MalformedMessage("a message before the first key exchange")
            self._verifier.offered(theirs.host_keys)
        if self._keyExchangeState == self._KEY_EXCHANGE_NONE:
            self.sendKexInit()
        self._keyExchangeState = self._KEY_EXCHANGE_PROGRESSING
        agreement = self._negotiate(theirs)
        self.otherKexInitPayload = bytes((MSG_KEXINIT,)) + packet
        self.nextEncryptions = self._pending = _NegotiatedCiphers(agreement)
        self.incomingCompressionType = self.outgoingCompressionType = b"none"
        self._hash, begin = METHODS[agreement.exchange]
        self._exchange = begin()
        self.sendPacket(_MSG_KEX_INIT, string(self._exchange.init))

    def _negotiate(self, theirs: Offer) -> Agreement:
        try:
            return negotiate(self._offer, theirs)
        except NoCommonAlgorithm as missing:
            error = SshConnectionLost if self._is_secure else HostUnreachable
            raise error(
                f"{self.where} and this side share no {missing.what}: the host offers "
                f"{readable(', '.join(missing.theirs)) or 'none'}; this side offers "
                f"{', '.join(missing.ours)}. Allow one of these in the host's sshd_config."
            ) from None

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> None:
        """Take message 31: the host's key, its part of the exchange, and its signature."""
        assert self._pending is not None
        assert self._exchange is not None
        reader = Reader(packet)
        host_key, reply, signature = reader.string(), reader.string(), reader.string()
        signer = self._judge(host_key)
        try:
            secret = self._exchange.shared_secret(reply)
        except ValueError as error:
            raise MalformedMessage(str(error) or "a value that no key exchange has") from error
        said = (
            self.ourVersionString,
            self.otherVersionString,
            self.ourKexInitPayload,
            self.otherKexInitPayload,
            host_key,
            self._exchange.init,
            reply,
        )
        exchange_hash = self._hash(b"".join(map(string, said)) + secret).digest()
        algorithm = self._pending.agreement.host_key.removesuffix(CERTIFICATE_SUFFIX)
        if not is_genuine(signer, signature, exchange_hash, algorithm=algorithm):
            raise MalformedMessage(f"the host's signature is not genuine, or not {algorithm}")
        self._exchange = None
        if self._verifier.is_key_enough:
            self._is_secure = True
            self.secured.callback(None)
            return
        self._keySetup(secret, exchange_hash)

    def _judge(self, blob: bytes) -> SshPublicKey:
        """Judge what the host shows.

        Returns:
            The key that must sign: a certificate's own key, where it is one.
        """
        assert self._pending is not None
        algorithm = self._pending.agreement.host_key
        shown = SshPublicKey.from_blob(blob)
        if algorithm not in HOST_KEY_ALGORITHMS.get(shown.key_type, ()):
            raise MalformedMessage(f"the host key is not for {algorithm}")
        if self._shown is None:
            self._verifier.judge(shown)
            self._shown = shown
        elif shown != self._shown:
            raise self._error("the host changed its key within the connection")
        return certified_key(shown)

    def _getKey(self, c: bytes, sharedSecret: bytes, exchangeHash: bytes) -> bytes:
        """Derive the material for one purpose (RFC 4253 §7.2)."""
        assert self.sessionID is not None
        beginning = sharedSecret + exchangeHash
        key: bytes = self._hash(beginning + c + self.sessionID).digest()
        while len(key) < _KEY_MATERIAL:
            key += self._hash(beginning + key).digest()
        return key

    @property
    def _is_exchanging(self) -> bool:
        return bool(self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    def _renew_keys_when_due(self) -> None:
        """Begin a key exchange where much was sent and received, or long ago was the last."""
        if self.service is None or self._is_exchanging or self.ended_by is not None:
            return
        age_s = self._clock.seconds() - self._keys_since
        if self._octets >= REKEY_OCTETS or age_s >= REKEY_S:
            self.sendKexInit()

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """Decrypt with the new keys from here on."""
        if self._pending is None or self._pending.opener is None:
            raise MalformedMessage("new keys that were not agreed")
        self._opener, self._pending = self._pending.opener, None
        if self._strict:
            self.incomingPacketSequence = 0
        self._octets, self._keys_since = 0, self._clock.seconds()
        super().ssh_NEWKEYS(packet)
        self._unheard = 0
        if not self.is_congested:
            self.on_writable()

    def connectionSecure(self) -> None:
        """The keys are in use; conch calls this after every key exchange."""
        if not self._is_secure:
            self._is_secure = True
            assert self._shown is not None
            self._ask_for_key_types(self._shown.key_type)
            self.stage = "its consent to a login"
            self.secured.callback(None)

    # Services.

    def requestService(self, instance: Any) -> None:
        """Ask for a service, such as ``ssh-userauth``.

        Its `serviceStopped` is called at the end of the connection, started or not.
        """
        self._requested = instance
        instance.transport = self
        self.sendPacket(MSG_SERVICE_REQUEST, string(instance.name))

    def ssh_SERVICE_ACCEPT(self, packet: bytes) -> None:
        """Start the service that was asked for, once."""
        instance, self._requested = self._requested, None
        if instance is None or Reader(packet).string() != instance.name:
            raise MalformedMessage("the host accepts a service that was not asked for")
        self.setService(instance)
