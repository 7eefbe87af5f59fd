"""The driver of authenticated connections, with a mechanism that a reader can see through.

The peer proves itself with ``me``; ``?`` is a wrong proof and ``#`` makes the mechanism fail.
Then octets stand for themselves, ``.`` is the authenticated close, ``!`` is a forgery.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IProtocol, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pkengine.auth import Authenticated, MemoryTrustStore, TrustedPeer
from pkengine.auth.connection import AuthenticatedConnection
from pkengine.auth.stream import CLOSE_TIMEOUT_S, State
from pkengine.errors import AuthenticationError, AuthenticationTimeout
from pkengine.interfaces import IAuthenticatedTransport, IExchange, IProtection
from pkengine.keys import Pin

PEER = TrustedPeer("peer", Pin(b"p" * 32), frozenset({"clear"}))
OTHER = TrustedPeer("other", Pin(b"o" * 32))


@implementer(IProtection)
class ClearProtection:
    def __init__(self, behind: bytes) -> None:
        self.is_closed = False
        self._behind = behind

    def seal(self, data: bytes) -> bytes:
        return b"<" + data + b">"

    def open(self, data: bytes) -> bytes:
        data, self._behind = self._behind + data, b""
        if b"!" in data:
            raise AuthenticationError("a forgery")
        plain, dot, _ = data.partition(b".")
        self.is_closed = self.is_closed or bool(dot)
        return plain

    def close(self) -> bytes:
        return b"."

    def pending(self) -> bytes:
        return b"alert"


@implementer(IExchange)
class ClearExchange:
    def __init__(self) -> None:
        self.outcome: Authenticated | None = None
        self._read = b""

    def start(self) -> bytes:
        return b"hello"

    def receive(self, data: bytes) -> bytes:
        self._read += data
        if b"?" in self._read:
            raise AuthenticationError("a wrong proof")
        if b"#" in self._read:
            raise ZeroDivisionError
        if len(self._read) >= 2:
            self.outcome = Authenticated(PEER, "clear")
            return b"ready"
        return b""

    def pending(self) -> bytes:
        return b"alert"

    def protection(self) -> IProtection:
        return ClearProtection(self._read[2:])


class Application(Protocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.lost: Failure | None = None
        self.pause_at_once = False

    def connectionMade(self) -> None:
        if self.pause_at_once:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason


class Wire(StringTransport):
    """A byte transport that remembers how it ended and paces a producer when told to."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()

    def sent(self) -> bytes:
        data = self.value()
        self.clear()
        return data


class Owner:
    def __init__(self) -> None:
        self.reactor = Clock()
        self.trust = MemoryTrustStore([PEER, OTHER])
        self.deadline_s: float | None = 10.0
        self.application: Application | None = Application()
        self.make_exchange: Any = ClearExchange
        self.events: list[Any] = []

    def exchange(self, channel_binding: bytes) -> IExchange:
        return self.make_exchange()

    def began(self, connection: AuthenticatedConnection) -> None:
        self.events.append("began")

    def authenticated(
        self, connection: AuthenticatedConnection, address: IAddress
    ) -> IProtocol | None:
        self.events.append("authenticated")
        return self.application

    def connected(self, connection: AuthenticatedConnection, application: IProtocol) -> None:
        self.events.append("connected")

    def refused(self, connection: AuthenticatedConnection, reason: Failure) -> None:
        self.events.append(reason.value)


class DriverTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.owner = Owner()
        self.wire = Wire()
        self.connection = AuthenticatedConnection(self.owner)
        self.application = self.owner.application
        assert self.application is not None

    def begin(self) -> None:
        self.connection.makeConnection(self.wire)

    def open(self, behind: bytes = b"") -> None:
        self.begin()
        self.connection.dataReceived(b"me" + behind)
        self.assertEqual(self.wire.sent(), b"helloready")

    def lose(self, reason: type[Exception] = ConnectionDone) -> None:
        self.connection.connectionLost(Failure(reason()))
        self.assertEqual(self.connection.state, State.CLOSED)
        self.assertEqual(self.owner.reactor.getDelayedCalls(), [], "a timer is left")

    def assert_lost(self, kind: type[Exception], text: str = "") -> None:
        assert self.application is not None
        assert self.application.lost is not None
        self.assertIsInstance(self.application.lost.value, kind)
        self.assertIn(text, str(self.application.lost.value))


class Authenticating(DriverTests):
    def test_the_application_does_not_exist_before_authentication_has_ended(self) -> None:
        self.begin()
        self.assertEqual(self.wire.sent(), b"hello")
        self.connection.dataReceived(b"m")
        self.assertEqual(self.owner.events, ["began"])
        self.connection.dataReceived(b"e")
        self.assertEqual(self.owner.events, ["began", "authenticated", "connected"])
        self.assertEqual(self.wire.sent(), b"ready")

    def test_the_application_sees_an_ordinary_transport_that_knows_the_peer(self) -> None:
        self.open()
        transport = self.application.transport
        for interface in (ITransport, IConsumer, IPushProducer, IAuthenticatedTransport):
            self.assertTrue(interface.providedBy(transport), interface)
        self.assertEqual(transport.authenticated.peer, PEER)
        self.assertEqual(transport.getPeer(), self.wire.getPeer())
        self.assertEqual(transport.getHost(), self.wire.getHost())

    def test_octets_pipelined_behind_the_proof_are_delivered_in_order(self) -> None:
        self.open(b"first")
        self.connection.dataReceived(b"second")
        self.assertEqual(self.application.received, [b"first", b"second"])

    def test_nothing_can_be_written_before_authentication_has_ended(self) -> None:
        self.begin()
        self.connection.write(b"early")
        self.connection.loseConnection()
        self.assertEqual(self.wire.sent(), b"hello")

    def test_a_wrong_proof_ends_the_connection_and_only_the_owner_hears_why(self) -> None:
        self.begin()
        self.connection.dataReceived(b"?")
        self.assertEqual(self.wire.sent(), b"helloalert")
        self.assertTrue(self.wire.disconnecting)
        self.connection.dataReceived(b"me")
        self.lose()
        self.assertEqual(str(self.owner.events[-1]), "a wrong proof")
        self.assertNotIn("authenticated", self.owner.events)

    def test_a_refused_peer_that_does_not_read_is_cut(self) -> None:
        self.begin()
        self.connection.dataReceived(b"?")
        self.owner.reactor.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.wire.aborted)
        self.lose(ConnectionAborted)
        self.assertEqual(str(self.owner.events[-1]), "a wrong proof")

    def test_a_mechanism_that_fails_refuses_and_is_logged(self) -> None:
        self.begin()
        self.connection.dataReceived(b"#")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.lose()
        self.assertIsInstance(self.owner.events[-1], AuthenticationError)

    def test_a_mechanism_that_cannot_begin_refuses(self) -> None:
        def fail() -> IExchange:
            raise AuthenticationError("no key")

        self.owner.make_exchange = fail
        self.begin()
        self.assertEqual(self.wire.sent(), b"")
        self.lose()
        self.assertEqual(str(self.owner.events[-1]), "no key")

    def test_a_peer_that_leaves_is_refused(self) -> None:
        self.begin()
        self.lose()
        self.assertRegex(str(self.owner.events[-1]), "closed the connection before")

    def test_a_peer_that_does_not_finish_in_time_is_cut(self) -> None:
        self.begin()
        self.owner.reactor.advance(9.9)
        self.connection.dataReceived(b"m")
        self.assertFalse(self.wire.aborted)
        self.owner.reactor.advance(0.1)
        self.assertTrue(self.wire.aborted)
        self.lose(ConnectionAborted)
        self.assertIsInstance(self.owner.events[-1], AuthenticationTimeout)
        self.assertIn("within 10 s", str(self.owner.events[-1]))

    def test_an_owner_may_keep_the_time_itself(self) -> None:
        self.owner.deadline_s = None
        self.begin()
        self.assertEqual(self.owner.reactor.getDelayedCalls(), [])

    def test_an_application_that_takes_nobody_closes_the_connection(self) -> None:
        self.owner.application = None
        self.open()
        self.assertTrue(self.wire.disconnecting)
        self.lose()
        self.assertIn("takes no connection", str(self.owner.events[-1]))

    def test_tls_below_that_reports_its_handshake_twice_begins_once(self) -> None:
        self.begin()
        self.connection._begin(b"")
        self.assertEqual(self.wire.sent(), b"hello")


class Open(DriverTests):
    def test_what_is_written_is_protected(self) -> None:
        self.open()
        self.connection.write(b"data")
        self.connection.write(b"")
        self.connection.writeSequence([b"a", b"b"])
        self.assertEqual(self.wire.sent(), b"<data><ab>")

    def test_a_forgery_ends_the_connection_and_is_logged(self) -> None:
        self.open()
        with capturedLogs() as events:
            self.connection.dataReceived(b"da!ta")
        self.assertEqual([event["reason"] for event in events if "reason" in event], ["a forgery"])
        self.assertEqual(self.wire.sent(), b"alert")
        self.connection.dataReceived(b"more")
        self.connection.write(b"more")
        self.assertEqual(self.wire.sent(), b"")
        self.lose()
        self.assertEqual(self.application.received, [])
        self.assert_lost(AuthenticationError, "a forgery")

    def test_an_end_without_an_authenticated_close_is_reported_as_such(self) -> None:
        self.open()
        self.lose(ConnectionDone)
        self.assert_lost(ConnectionLost, "without an authenticated close")

    def test_a_lost_connection_is_reported_as_such(self) -> None:
        self.open()
        self.lose(ConnectionLost)
        self.assert_lost(ConnectionLost)

    def test_the_close_of_the_peer_is_answered_and_clean(self) -> None:
        self.open()
        self.connection.dataReceived(b"last.")
        self.assertEqual(self.application.received, [b"last"])
        self.assertEqual(self.wire.sent(), b".")
        self.assertTrue(self.wire.disconnecting)
        self.lose()
        self.assert_lost(ConnectionDone)

    def test_a_peer_that_closed_and_does_not_go_is_cut(self) -> None:
        self.open()
        self.connection.dataReceived(b".")
        self.owner.reactor.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.wire.aborted)

    def test_removing_the_key_of_the_peer_cuts_the_connection_at_once(self) -> None:
        self.open()
        self.owner.trust.remove(OTHER.key)
        self.assertFalse(self.wire.aborted)
        self.owner.trust.remove(PEER.key)
        self.assertTrue(self.wire.aborted)
        self.connection.dataReceived(b"more")
        self.connection.write(b"more")
        self.lose(ConnectionAborted)
        self.assertEqual(self.application.received, [])
        self.assertEqual(self.wire.sent(), b"")
        self.assert_lost(AuthenticationError, "is not trusted any more")

    def test_a_connection_stays_while_its_own_mechanism_is_among_those_that_are_left(self) -> None:
        self.open()
        self.owner.trust.add(replace(PEER, mechanisms=frozenset({"clear", "sign"})))
        self.owner.trust.add(PEER)
        self.assertFalse(self.wire.aborted)
        self.owner.trust.add(replace(PEER, mechanisms=frozenset({"sign"})))
        self.assertTrue(self.wire.aborted)
        self.lose(ConnectionAborted)
        self.assert_lost(AuthenticationError, "is not trusted any more")

    def test_another_name_for_the_key_of_the_peer_cuts_the_connection(self) -> None:
        self.open()
        self.owner.trust.add(replace(PEER, name="else"))
        self.assertTrue(self.wire.aborted)

    def test_a_connection_that_has_ended_does_not_watch_trust(self) -> None:
        self.open()
        self.assertEqual(len(self.owner.trust._watchers), 1)
        self.lose()
        self.assertEqual(len(self.owner.trust._watchers), 0)

    def test_an_application_may_close_while_it_is_connected(self) -> None:
        self.application.connectionMade = lambda: self.application.transport.loseConnection()
        self.open_closing()

    def open_closing(self) -> None:
        self.begin()
        self.connection.dataReceived(b"mebehind")
        self.assertEqual(self.wire.sent(), b"helloready.")
        self.assertEqual(self.application.received, [])


class Closing(DriverTests):
    def test_a_close_says_so_and_awaits_the_close_of_the_peer(self) -> None:
        self.open()
        self.connection.write(b"last")
        self.connection.loseConnection()
        self.assertEqual(self.wire.sent(), b"<last>.")
        self.assertFalse(self.wire.disconnecting)
        self.connection.dataReceived(b"more")
        self.connection.dataReceived(b".")
        self.assertTrue(self.wire.disconnecting)
        self.lose()
        self.assertEqual(self.application.received, [], "nothing is delivered behind our close")
        self.assert_lost(ConnectionDone)

    def test_the_byte_transport_waits_for_no_producer_of_ours_when_it_ends(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.connection.dataReceived(b".")
        self.assertTrue(self.wire.disconnecting)
        self.assertIsNone(self.wire.producer)
        self.lose()

    def test_closing_twice_or_writing_afterwards_does_nothing(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.connection.loseConnection()
        self.connection.write(b"late")
        self.assertEqual(self.wire.sent(), b".")

    def test_stopping_is_closing(self) -> None:
        self.open()
        self.connection.stopProducing()
        self.assertEqual(self.connection.state, State.CLOSING)

    def test_a_peer_that_does_not_answer_our_close_is_cut(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.owner.reactor.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.wire.aborted)
        self.lose(ConnectionAborted)
        self.assert_lost(ConnectionDone)

    def test_a_slow_peer_has_all_the_time_it_needs_to_take_what_was_written(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.wire.producer.pauseProducing()
        self.owner.reactor.advance(1000)
        self.assertFalse(self.wire.aborted)
        self.wire.producer.resumeProducing()
        self.owner.reactor.advance(CLOSE_TIMEOUT_S)
        self.assertTrue(self.wire.aborted)
        self.wire.producer.resumeProducing()
        self.lose(ConnectionAborted)
        self.wire.producer.stopProducing()
        self.wire.producer.pauseProducing()

    def test_a_forgery_behind_our_close_changes_nothing(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.connection.dataReceived(b"!")
        self.assertTrue(self.wire.disconnecting)
        self.lose()
        self.assert_lost(ConnectionDone)

    def test_an_abort_sends_nothing_and_is_reported_as_such(self) -> None:
        self.open()
        self.connection.abortConnection()
        self.connection.abortConnection()
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.wire.sent(), b"")
        self.lose(ConnectionAborted)
        self.assert_lost(ConnectionAborted)

    def test_a_close_may_be_cut_short(self) -> None:
        self.open()
        self.connection.loseConnection()
        self.connection.abortConnection()
        self.assertTrue(self.wire.aborted)
        self.lose(ConnectionAborted)

    def test_a_close_waits_for_the_producer(self) -> None:
        self.open()
        producer = object()
        self.connection.registerProducer(producer, True)
        self.assertIs(self.wire.producer, producer)
        self.connection.loseConnection()
        self.connection.write(b"data")
        self.assertEqual(self.wire.sent(), b"<data>")
        self.connection.unregisterProducer()
        self.assertEqual(self.wire.sent(), b".")
        self.connection.unregisterProducer()

    def test_a_stream_tells_its_protocol_that_it_is_closing(self) -> None:
        self.open()
        self.assertFalse(self.connection.disconnecting)
        self.connection.registerProducer(object(), True)
        self.connection.loseConnection()
        self.assertTrue(self.connection.disconnecting)
        self.connection.unregisterProducer()
        self.assertTrue(self.connection.disconnecting)

    def test_unregistering_a_producer_closes_nothing_that_was_not_to_be_closed(self) -> None:
        self.open()
        self.connection.registerProducer(object(), False)
        self.assertFalse(self.wire.streaming)
        self.connection.unregisterProducer()
        self.assertEqual(self.connection.state, State.OPEN)


class BackPressure(DriverTests):
    def test_a_pause_reaches_the_byte_transport(self) -> None:
        self.open()
        self.connection.pauseProducing()
        self.assertEqual(self.wire.producerState, "paused")
        self.connection.resumeProducing()
        self.assertEqual(self.wire.producerState, "producing")

    def test_octets_pipelined_to_a_paused_application_come_when_it_resumes(
        self,
    ) -> None:
        self.application.pause_at_once = True
        self.open(b"first")
        self.connection.dataReceived(b"second")
        self.assertEqual(self.application.received, [])
        self.connection.resumeProducing()
        self.assertEqual(self.application.received, [], "not before the application returns")
        self.connection.pauseProducing()
        self.owner.reactor.advance(0)
        self.assertEqual(self.application.received, [])
        self.connection.resumeProducing()
        self.owner.reactor.advance(0)
        self.assertEqual(self.application.received, [b"firstsecond"])
        self.assertEqual(self.wire.producerState, "producing")
        self.connection.dataReceived(b"third")
        self.assertEqual(self.application.received[1:], [b"third"])

    def test_resuming_twice_delivers_once(self) -> None:
        self.application.pause_at_once = True
        self.open(b"first")
        self.connection.resumeProducing()
        self.connection.resumeProducing()
        self.owner.reactor.advance(0)
        self.assertEqual(self.application.received, [b"first"])

    def test_a_close_behind_held_octets_is_met_after_them(self) -> None:
        self.application.pause_at_once = True
        self.open(b"last.")
        self.assertEqual(self.wire.sent(), b"")
        self.connection.resumeProducing()
        self.owner.reactor.advance(0)
        self.assertEqual(self.application.received, [b"last"])
        self.assertEqual(self.wire.sent(), b".")

    def test_an_application_that_closes_when_it_gets_held_octets_is_closed_once(self) -> None:
        self.application.pause_at_once = True
        self.open(b"last.")
        self.application.dataReceived = lambda _: self.connection.loseConnection()
        self.connection.resumeProducing()
        self.owner.reactor.advance(0)
        self.assertEqual(self.wire.sent(), b".")
        self.assertEqual(self.connection.state, State.CLOSED)

    def test_held_octets_of_a_connection_that_has_ended_are_dropped(self) -> None:
        self.application.pause_at_once = True
        self.open(b"first")
        self.connection.resumeProducing()
        self.connection.abortConnection()
        self.owner.reactor.advance(0)
        self.assertEqual(self.application.received, [])
