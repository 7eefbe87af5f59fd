"""What many connections may take of a turn of the reactor, and who waits."""

from __future__ import annotations

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.paced_connections import PacedConnection, PacedConnections, hasten

PEER = IPv4Address("TCP", "192.0.2.7", 40000)
TURN_S = 0.5
#: What one connection takes for whatever it does: two fit into a turn.
WORK_S = 0.25


class Transport(StringTransport):
    is_aborted = False

    def abortConnection(self) -> None:
        self.is_aborted = True


class PacedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        #: What was done in the turns so far, as (number of the connection, what).
        self.done: list[tuple[int, object]] = []
        self.paced = PacedConnections(
            Factory.forProtocol(lambda: Slow(self)), self.clock, turn_s=TURN_S
        )
        self.transports: list[Transport] = []

    def connect(self) -> PacedConnection:
        connection = self.paced.buildProtocol(PEER)
        assert isinstance(connection, PacedConnection)
        connection.wrappedProtocol.number = len(self.transports)
        transport = Transport(peerAddress=PEER)
        self.transports.append(transport)
        connection.makeConnection(transport)
        return connection

    def connected(self, count: int) -> list[PacedConnection]:
        """Give connections that have begun, in a new turn."""
        connections = [self.connect() for _ in range(count)]
        while self.clock.getDelayedCalls():
            self.turn()
        self.done.clear()
        return connections

    def turn(self) -> list[tuple[int, object]]:
        """Let a turn of the reactor go by; give what was done in it."""
        before = len(self.done)
        for call in list(self.clock.getDelayedCalls()):
            begin = call.func
            call.cancel()
            begin()  # `advance` would also call what this calls later
        return self.done[before:]

    def reads(self, number: int) -> bool:
        return self.transports[number].producerState == "producing"


class Slow(Protocol):
    """Takes its time for whatever it does."""

    number = -1

    def __init__(self, case: PacedCase) -> None:
        self.case = case

    def work(self, what: object) -> None:
        self.case.done.append((self.number, what))
        # Time that goes by within a turn calls nothing.
        self.case.clock.rightNow += WORK_S

    def connectionMade(self) -> None:
        self.work("begun")

    def dataReceived(self, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("bad")
        self.work(data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.case.done.append((self.number, "lost"))


class Crowds(PacedCase):
    def test_a_turn_begins_no_more_connections_than_it_has_time_for(self) -> None:
        for _ in range(5):
            self.connect()
        self.assertEqual(self.done, [(0, "begun"), (1, "begun")])
        self.assertEqual([self.reads(number) for number in range(5)], [True, True, *[False] * 3])
        self.assertEqual(self.turn(), [(2, "begun"), (3, "begun")])
        self.assertEqual(self.turn(), [(4, "begun")])
        self.assertTrue(all(self.reads(number) for number in range(5)))
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_comes_is_passed_on_in_the_order_in_which_it_came(self) -> None:
        connections = self.connected(4)
        for connection in reversed(connections):
            connection.dataReceived(b"x")
        self.assertEqual(self.done, [(3, b"x"), (2, b"x")])
        self.assertFalse(self.reads(1))
        self.assertEqual(self.turn(), [(1, b"x"), (0, b"x")])
        self.assertTrue(self.reads(1))

    def test_who_has_just_been_served_waits_behind_those_who_were_not(self) -> None:
        connections = self.connected(4)
        for connection in connections:
            connection.dataReceived(b"1")
        connections[0].dataReceived(b"2")
        self.assertEqual(self.turn(), [(2, b"1"), (3, b"1")])
        self.assertEqual(self.turn(), [(0, b"2")])

    def test_octets_that_come_while_one_waits_come_in_one_piece(self) -> None:
        connections = self.connected(3)
        for connection in connections:
            connection.dataReceived(b"a")
        connections[2].dataReceived(b"b")
        self.assertEqual(self.turn(), [(2, b"ab")])

    def test_what_came_before_its_connection_has_begun_comes_after(self) -> None:
        connections = [self.connect() for _ in range(3)]
        connections[2].dataReceived(b"early")
        self.assertEqual(self.turn(), [(2, "begun"), (2, b"early")])

    def test_a_connection_that_fails_in_its_turn_is_ended_and_holds_up_nobody(self) -> None:
        connections = self.connected(4)
        for connection, data in zip(connections, (b"a", b"b", b"bad", b"d"), strict=True):
            connection.dataReceived(data)
        self.assertEqual(self.turn(), [(3, b"d")])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        aborted = [number for number in range(4) if self.transports[number].is_aborted]
        self.assertEqual(aborted, [2])

    def test_a_clock_that_is_set_back_gives_no_turn_more_time(self) -> None:
        connections = self.connected(5)
        for number, connection in enumerate(connections):
            connection.dataReceived(b"x")
            if number == 0:
                self.clock.rightNow -= 3600
        self.assertEqual(len(self.done), 2)


class Quiet(PacedCase):
    def test_nobody_waits_where_there_is_no_crowd(self) -> None:
        (connection,) = self.connected(1)
        connection.dataReceived(b"x")
        self.assertEqual(self.done, [(0, b"x")])
        self.assertTrue(self.reads(0))

    def test_who_says_nothing_takes_no_place(self) -> None:
        *_, last = self.connected(1000)
        last.dataReceived(b"x")
        self.assertEqual(self.done, [(999, b"x")])

    def test_who_goes_while_it_waits_is_forgotten(self) -> None:
        begun = self.connected(2)
        for connection in begun:
            connection.dataReceived(b"x")
        begun[0].dataReceived(b"y")
        never = self.connect()
        gone = Failure(ConnectionDone())
        begun[0].connectionLost(gone)
        never.connectionLost(gone)
        self.turn()
        self.assertEqual(self.done, [(0, b"x"), (1, b"x"), (0, "lost")])


class Hastened(PacedCase):
    def test_who_was_answered_waits_for_nobody(self) -> None:
        connections = self.connected(4)
        hasten(connections[3])
        for connection in connections:
            connection.dataReceived(b"x")
        self.assertEqual(self.done, [(0, b"x"), (1, b"x"), (3, b"x")])

    def test_the_order_of_what_waits_already_stays(self) -> None:
        connections = self.connected(3)
        for connection in connections:
            connection.dataReceived(b"1")
        hasten(connections[2])
        connections[2].dataReceived(b"2")
        self.assertEqual(self.turn(), [(2, b"12")])

    def test_it_is_found_below_whatever_is_on_top(self) -> None:
        connections = self.connected(3)
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        wrapper.makeConnection(connections[2])
        hasten(wrapper)
        for connection in connections:
            connection.dataReceived(b"x")
        self.assertEqual(len(self.done), 3)

    def test_a_transport_of_another_kind_stays_as_it_is(self) -> None:
        transport = StringTransport()
        hasten(transport)
        self.assertEqual(transport.producerState, "producing")


class BackPressure(PacedCase):
    def test_what_waits_stays_while_it_is_not_wanted(self) -> None:
        connections = self.connected(3)
        for connection in connections:
            connection.dataReceived(b"x")
        connections[2].pauseProducing()
        self.assertEqual(self.turn(), [])
        self.assertFalse(self.reads(2))
        connections[2].resumeProducing()
        self.assertEqual(self.done[-1], (2, b"x"))
        self.assertTrue(self.reads(2))

    def test_wanting_more_does_not_jump_the_queue(self) -> None:
        connections = self.connected(3)
        connections[2].pauseProducing()
        for connection in connections:
            connection.dataReceived(b"x")
        connections[2].resumeProducing()
        self.assertFalse(self.reads(2))
        self.assertEqual(self.turn(), [(2, b"x")])
        self.assertTrue(self.reads(2))
