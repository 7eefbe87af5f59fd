"""Monitoring: what hosts do, what their statuses become, and how hard the engine tries."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError

from pkengine.channel.verbs import GET_CAPABILITIES, GET_STATS
from pkengine.engine.hosts.watch import Patience
from pkengine.engine.model import Host, HostChange, HostStatus
from pkengine.errors import AuthenticationError, CallRefused, CallTimeout, ChannelError
from pkengine.keys import Pin
from tests.engine.hosts.agent_answers import STATS
from tests.engine.hosts.fakes import ADMIN, AGENT_PIN, HostsTestCase


class MonitorTests(HostsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.host: Host = self.add()
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    @property
    def channel(self) -> object:
        return self.access.channels[-1]

    def lose(self, error: Exception) -> None:
        """End the connection, and let each further attempt fail."""
        self.access.connect_outcome = error
        self.access.channels[-1].lose()

    def test_statistics_are_polled_and_kept_while_connected(self) -> None:
        self.assertEqual(self.hosts.statistics(self.host.id), STATS)
        for _ in range(3):
            self.clock.advance(self.patience.poll_s)
        self.assertEqual(self.channel.calls.count(GET_STATS), 4)
        self.assertEqual(len(self.access.channels), 1)
        self.lose(ChannelError("No route."))
        self.assertIsNone(self.hosts.statistics(self.host.id))
        self.assertIsNone(self.hosts.authenticated(self.host.id))

    def test_who_answers_can_be_told(self) -> None:
        authenticated = self.hosts.authenticated(self.host.id)
        self.assertEqual(authenticated.peer.key, AGENT_PIN)
        self.assertEqual(authenticated.facts["tls_version"], "TLSv1.3")

    def test_a_lost_host_connects_for_a_while_is_then_non_responsive_and_comes_back(self) -> None:
        self.lose(ChannelError("No route to host."))
        self.assertEqual(self.status(self.host.id), HostStatus.CONNECTING)
        self.assertEqual(self.log()[-1][0], 9008)
        self.clock.pump([1.0] * int(self.patience.grace_s - 1))
        self.assertEqual(self.status(self.host.id), HostStatus.CONNECTING)
        self.clock.advance(1.0)
        host = self.now(self.hosts.get(self.host.id))
        self.assertEqual(host.status, HostStatus.NON_RESPONSIVE)
        self.assertEqual(host.status_detail, "No route to host.")
        self.assertEqual(self.log()[-1][0], 12)
        self.access.connect_outcome = None
        self.clock.pump([1.0] * int(self.patience.longest_pause_s))
        self.assertEqual(self.status(self.host.id), HostStatus.UP)
        self.assertEqual(self.log()[-1], (13, "Status of Host h1 was set to Up."))

    def test_a_host_that_comes_back_in_time_was_never_non_responsive(self) -> None:
        self.lose(ChannelError("No route."))
        self.access.connect_outcome = None
        self.clock.advance(1.0)
        self.assertEqual(self.status(self.host.id), HostStatus.UP)
        self.clock.pump([1.0] * 200)
        self.assertNotIn(12, self.codes())

    def test_each_loss_is_one_event_however_many_attempts_follow(self) -> None:
        self.lose(ChannelError("No route."))
        self.clock.pump([1.0] * 300)
        self.assertEqual(self.codes().count(9008), 1)
        self.assertEqual(self.codes().count(12), 1)

    def test_pauses_double_up_to_the_longest(self) -> None:
        self.lose(ConnectionRefusedError("refused"))
        dialled_at, dials = [], self.access.dials
        for second in range(1, 64):
            self.clock.advance(1.0)
            if self.access.dials != dials:
                dials = self.access.dials
                dialled_at.append(second)
        self.assertEqual(dialled_at, [1, 3, 7, 15, 31, 47, 63])

    def test_a_key_that_is_not_the_hosts_makes_it_non_responsive_with_the_reason(self) -> None:
        self.lose(AuthenticationError("The peer showed another key."))
        self.clock.pump([1.0] * 61)
        host = self.now(self.hosts.get(self.host.id))
        self.assertEqual(host.status, HostStatus.NON_RESPONSIVE)
        self.assertEqual(host.status_detail, "The peer showed another key.")

    def test_an_agent_that_stops_answering_calls_is_lost(self) -> None:
        self.channel.answers[GET_STATS] = CallTimeout("No answer within 30 s.")
        self.clock.advance(self.patience.poll_s)
        self.assertEqual(self.status(self.host.id), HostStatus.CONNECTING)
        self.assertFalse(self.channel.is_open)

    def test_an_agent_that_refuses_to_serve_makes_its_host_non_operational_until_it_serves(
        self,
    ) -> None:
        self.channel.answers[GET_STATS] = CallRefused("No such method.", -32601)
        self.clock.advance(self.patience.poll_s)
        self.assertEqual(self.status(self.host.id), HostStatus.NON_OPERATIONAL)
        self.clock.advance(1.0)
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    def test_capabilities_are_learnt_anew_on_each_connection(self) -> None:
        self.lose(ChannelError("Reboot."))
        self.access.connect_outcome = None
        self.clock.advance(1.0)
        self.assertEqual(self.channel.calls[0], GET_CAPABILITIES)

    def test_a_failure_of_the_engine_itself_does_not_end_the_watch(self) -> None:
        self.lose(ZeroDivisionError())
        self.clock.advance(1.0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.access.connect_outcome = None
        self.clock.advance(2.0)
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    def test_activating_a_silent_host_tries_at_once(self) -> None:
        self.lose(ChannelError("No route."))
        self.clock.pump([1.0] * 64)
        self.assertEqual(self.status(self.host.id), HostStatus.NON_RESPONSIVE)
        self.access.connect_outcome = None
        self.now(self.hosts.maintenance.activate(self.host.id, ADMIN))
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    def test_a_silent_host_is_looked_for_where_an_update_says_it_is(self) -> None:
        self.lose(ChannelError("No route."))
        self.clock.pump([1.0] * 64)
        self.access.connect_outcome = None
        self.now(self.hosts.update(self.host.id, HostChange(port=54322), ADMIN))
        self.assertEqual(self.access.dialled[-1], ("h1.example.org", 54322))
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    def test_stopping_closes_every_connection_and_leaves_no_timer(self) -> None:
        self.now(self.hosts.stop())
        self.assertFalse(self.channel.is_open)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.status(self.host.id), HostStatus.UP)

    def test_stopping_while_a_host_is_lost_leaves_no_timer(self) -> None:
        self.lose(ChannelError("No route."))
        self.now(self.hosts.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_started_engine_looks_at_its_hosts_before_it_calls_them_up(self) -> None:
        self.crash_with(Deferred())
        self.assertEqual(self.status(self.host.id), HostStatus.UNASSIGNED)
        self.access.connect_outcome.callback(None)
        self.assertEqual(self.status(self.host.id), HostStatus.UP)
        self.assertEqual(self.trust.lookup(AGENT_PIN).name, str(self.host.id))

    def crash_with(self, connect_outcome: object) -> None:
        self.now(self.hosts.stop())
        self.now(self.store.close())
        self.access.connect_outcome = connect_outcome
        self.start()

    def test_a_host_in_maintenance_is_left_alone(self) -> None:
        self.now(self.hosts.maintenance.deactivate(self.host.id, ADMIN))
        dials = self.access.dials
        self.clock.pump([1.0] * 100)
        self.assertEqual(self.access.dials, dials)


class DialTests(HostsTestCase):
    dials_at_once = 2

    def test_only_so_many_dial_at_once_and_all_get_their_turn(self) -> None:
        self.access.connect_outcome = Deferred()
        for number in range(5):
            self.access.pin = Pin(bytes([number]) * 32)
            self.add(f"h{number}")
        self.assertEqual((self.access.dials, self.access.most_dialling), (2, 2))
        waiting, self.access.connect_outcome = self.access.connect_outcome, None
        waiting.callback(None)
        statuses = {host.status for host in self.now(self.hosts.list())}
        self.assertEqual(statuses, {HostStatus.UP})


class PatienceTests(HostsTestCase):
    def test_pauses_are_spread_between_half_and_all_of_their_length(self) -> None:
        patience = Patience(first_pause_s=1.0, longest_pause_s=60.0)
        self.assertEqual(patience.pause_s(3, lambda: 0.0), 4.0)
        self.assertEqual(patience.pause_s(3, lambda: 1.0), 8.0)
        self.assertEqual(patience.pause_s(10_000, lambda: 1.0), 60.0)
