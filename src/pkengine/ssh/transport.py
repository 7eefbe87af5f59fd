"""The client's end of an SSH transport (RFC 4253): a connection on which services run.

Conch keeps the order of a key exchange and hands messages to services.  Our own are the binary
packets (`packet_transport`), what is offered and agreed (`offer`, `negotiation`), the key exchange
(`keying`), and when one is due.  This file puts them together, and it stands between conch and
every message that a server may send: one that comes at the wrong moment ends the connection.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from twisted.conch.ssh.transport import MSG_KEXINIT, MSG_NEWKEYS, MSG_SERVICE_REQUEST
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from pkengine.errors import HostUnreachable, SshConnectionLost
from pkengine.keys import SshPublicKey
from pkengine.ssh.host_keys import IHostKeyVerifier
from pkengine.ssh.keying import Keying, Said
from pkengine.ssh.login_signature import SessionBinding
from pkengine.ssh.negotiation import STRICT_SERVER, Agreement, NoCommonAlgorithm, Offer, negotiate
from pkengine.ssh.offer import ClientOffer
from pkengine.ssh.packet_transport import PacketTransport
from pkengine.ssh.wire import MalformedMessage, Reader, readable, string

#: After how many octets in both directions, and after how many seconds, new keys are made
#: (RFC 4253 §9).
REKEY_OCTETS = 1 << 30
REKEY_S = 3600.0
#: How long new keys are waited for, in seconds: a whole window may be on a slow way before them.
REKEY_TIMEOUT_S = 300.0

#: The client's and the host's part of every key exchange that is offered.
_MSG_KEX_INIT, _MSG_KEX_REPLY = 30, 31
_FIRST_SERVICE_MESSAGE = 50


class OfferTooNarrow(HostUnreachable):
    """The host needs an algorithm that is offered only on a second connection."""


class SshTransport(PacketTransport):
    """One connection to an SSH server.

    Args:
        where: as for `PacketTransport`.
        verifier: judges the host's key.
        clock: tells when new keys are due.
        is_wide: offer also what is trusted less.

    Attributes:
        secured: fires with None once the host has proved that it holds a key which the
            verifier accepted, and encryption is on; fails with the reason otherwise, which is
            `OfferTooNarrow` where a wide offer would do.  Until then nothing that is secret
            has been sent.  Where the verifier wants the key only, it fires before encryption
            is on, and the connection is of no further use.
        binding: the host's proof that this is a session with it; None before the host's key
            was accepted.
    """

    binding: SessionBinding | None = None

    def __init__(
        self,
        where: str,
        verifier: IHostKeyVerifier,
        clock: IReactorTime,
        *,
        is_wide: bool = False,
    ) -> None:
        super().__init__(where)
        self.secured: Deferred[None] = Deferred()
        self._clock = clock
        self._verifier = verifier
        self._is_wide = is_wide
        self._offer = ClientOffer.of(
            tuple(verifier.key_types),
            is_wide=is_wide,
            keeps_secrets=not verifier.is_key_enough,
        )
        self._shown: SshPublicKey | None = None
        self._keying: Keying | None = None
        self._awaits_reply = False
        self._renewal: IDelayedCall | None = None
        self._strict = False
        self._requested: Any = None

    # Messages, and when they may come and go.

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand a message on, unless it must not come at this moment."""
        is_awaited = messageNum == _MSG_KEX_REPLY and self._awaits_reply
        if 30 <= messageNum <= 49 and not is_awaited:
            raise MalformedMessage(f"message {messageNum} outside a key exchange")
        if self._strict and not self.is_secure and not 20 <= messageNum <= 49 and messageNum != 1:
            raise MalformedMessage(f"message {messageNum} within the first key exchange")
        if messageNum >= _FIRST_SERVICE_MESSAGE and self.service is None:
            raise MalformedMessage(f"message {messageNum} before any service")
        super().dispatchMessage(messageNum, payload)
        self._renew_keys_when_due()

    def send(self, message_type: int, *payload: bytes) -> None:
        """Send a message; during a key exchange keep back what must not come in between."""
        if message_type >= _FIRST_SERVICE_MESSAGE:
            self._renew_keys_when_due()
        if self._is_exchanging and not self._allowedKeyExchangeMessageType(message_type):
            blocked = cast(list[tuple[int, bytes]], self._blockedByKeyExchange)
            blocked.append((message_type, b"".join(payload)))
            return
        super().send(message_type, *payload)
        if message_type == MSG_NEWKEYS:
            assert self._keying is not None
            assert self._keying.sealer is not None
            self._packets.seal_with(self._keying.sealer, is_strict=self._strict)

    @property
    def is_congested(self) -> bool:
        """Tell whether what is sent now would have to wait: for the network, or for new keys."""
        return super().is_congested or (self.is_secure and self._is_exchanging)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Tell also those who wait for a secure connection, or for a service."""
        self._set_renewal(None)
        super().connectionLost(reason)
        if self._requested is not None:
            self._requested.serviceStopped()
        if not self.is_secure:
            self.is_secure = True
            self.secured.errback(Failure(self.ended_by))

    # The key exchange.

    def sendKexInit(self) -> None:
        """Begin a key exchange, or answer to one that the host began."""
        self.ourKexInitPayload = bytes((MSG_KEXINIT,)) + os.urandom(16) + self._offer.written
        self.sendPacket(MSG_KEXINIT, self.ourKexInitPayload[1:])
        self._keyExchangeState = self._KEY_EXCHANGE_REQUESTED
        self._blockedByKeyExchange = []
        if self.is_secure:
            self._set_renewal(REKEY_TIMEOUT_S, self._renewal_stalled)

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """Agree on algorithms and begin the key exchange."""
        if self._keyExchangeState == self._KEY_EXCHANGE_PROGRESSING:
            raise MalformedMessage("a key exchange within another")
        theirs = Offer.parse(packet)
        if not self.is_secure:
            if STRICT_SERVER in theirs.exchanges:
                self._strict = True
                if self._packets.opened != 1:
                    raise MalformedMessage("a message before the first key exchange")
            self._verifier.offered(theirs.host_keys)
        if self._keyExchangeState == self._KEY_EXCHANGE_NONE:
            self.sendKexInit()
        self._keyExchangeState = self._KEY_EXCHANGE_PROGRESSING
        agreement = self._negotiate(theirs)
        their_kexinit = bytes((MSG_KEXINIT,)) + packet
        self._keying = Keying(
            agreement,
            Said(
                self.ourVersionString,
                self.otherVersionString,
                self.ourKexInitPayload,
                their_kexinit,
            ),
            keeps_secrets=not self._verifier.is_key_enough,
        )
        self.nextEncryptions = self._keying
        self.incomingCompressionType = self.outgoingCompressionType = b"none"
        self._awaits_reply = True
        self.sendPacket(_MSG_KEX_INIT, string(self._keying.init))

    def _negotiate(self, theirs: Offer) -> Agreement:
        if not self.is_secure and not self._is_wide and self._offer.is_too_narrow_for(theirs):
            raise OfferTooNarrow(f"{self.where} has nothing of what is offered first.")
        try:
            return negotiate(self._offer.lists, theirs)
        except NoCommonAlgorithm as missing:
            error = SshConnectionLost if self.is_secure else HostUnreachable
            raise error(
                f"{self.where} and this side share no {missing.what}: the host offers "
                f"{readable(', '.join(missing.theirs)) or 'none'}; this side offers "
                f"{', '.join(missing.ours)}. Allow one of these in the host's sshd_config."
            ) from None

    def ssh_KEX_DH_GEX_GROUP(self, packet: bytes) -> None:
        """Take message 31: the host's key, its part of the exchange, and its signature."""
        assert self._keying is not None
        secret, exchange_hash = self._keying.finish(packet, self._judge)
        self._awaits_reply = False
        if self._verifier.is_key_enough:
            self.is_secure = True
            self.secured.callback(None)
        else:
            if self.binding is None:
                assert self._shown is not None
                signature = self._keying.signature
                self.binding = SessionBinding(self._shown, exchange_hash, signature)
            self._keySetup(secret, exchange_hash)

    def _judge(self, shown: SshPublicKey) -> None:
        if self._shown is None:
            self._verifier.judge(shown)
            self._shown = shown
        elif shown != self._shown:
            raise self._error("the host changed its key within the connection")

    def _getKey(self, c: bytes, sharedSecret: bytes, exchangeHash: bytes) -> bytes:
        """Derive the material for one purpose; conch calls this."""
        assert self._keying is not None
        assert self.sessionID is not None
        return self._keying.derive(c, sharedSecret, exchangeHash, self.sessionID)

    @property
    def _is_exchanging(self) -> bool:
        return bool(self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    def _renew_keys_when_due(self) -> None:
        """Begin a key exchange where much was sent and received."""
        if self._packets.octets >= REKEY_OCTETS:
            self._renew_keys()

    def _renew_keys(self) -> None:
        if self.service is not None and not self._is_exchanging and self.ended_by is None:
            self.sendKexInit()

    def _renewal_stalled(self) -> None:
        self.end(self._error(f"no new keys were agreed within {REKEY_TIMEOUT_S:g} s"))

    def _set_renewal(self, delay_s: float | None, then: Callable[[], None] | None = None) -> None:
        """Set what happens next about new keys, and when; it replaces what was set before."""
        if self._renewal is not None and self._renewal.active():
            self._renewal.cancel()
        if delay_s is not None and then is not None:
            self._renewal = self._clock.callLater(delay_s, then)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """Decrypt with the new keys from here on."""
        if self._keying is None or self._keying.opener is None:
            raise MalformedMessage("new keys that were not agreed")
        self._packets.open_with(self._keying.opener, is_strict=self._strict)
        self._keying = None
        self._set_renewal(REKEY_S, self._renew_keys)
        super().ssh_NEWKEYS(packet)
        self._unheard = 0
        if not self.is_congested:
            self.on_writable()

    def connectionSecure(self) -> None:
        """The keys are in use; conch calls this after every key exchange."""
        if not self.is_secure:
            self.is_secure = True
            assert self._shown is not None
            self._offer = ClientOffer.of((self._shown.key_type,), is_wide=self._is_wide)
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
