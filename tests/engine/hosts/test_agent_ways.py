"""Which end dials, and by which mechanism: what is chosen, by default, and what is refused."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.mechanisms import OWN_MECHANISMS
from pkengine.engine.hosts.agent_ways import AgentWays, check_way, connection_of, is_other_way
from pkengine.engine.model import Host, HostConnection, HostStatus, SshLogin, WayChoice
from pkengine.errors import BadRequest
from tests.engine.hosts.fakes import ADMIN, HostsTestCase
from tests.engine.hosts.test_trust import HOST

AGENT_DIALS, ENGINE_DIALS = HostConnection.AGENT_DIALS, HostConnection.ENGINE_DIALS
NOTHING = WayChoice()


def way(host: Host) -> tuple[HostConnection, str]:
    return host.connection, host.mechanism


class ChoiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ways = AgentWays(NOTHING, is_dialled=True)

    def new(self, choice: WayChoice) -> tuple[HostConnection, str]:
        return way(self.ways.applied(HOST, choice, is_new=True))

    def test_an_agent_that_dials_may_use_each_mechanism(self) -> None:
        for mechanism in OWN_MECHANISMS:
            choice = WayChoice(connection=AGENT_DIALS, mechanism=mechanism)
            self.assertEqual(self.new(choice), (AGENT_DIALS, mechanism))

    def test_an_engine_dials_by_mutual_tls_alone(self) -> None:
        self.assertEqual(self.new(NOTHING), (ENGINE_DIALS, "pin"))
        for mechanism in ("sign", "hmac", "spake2plus"):
            with self.assertRaisesRegex(BadRequest, f"'{mechanism}' needs .* 'agent-dials'"):
                self.new(WayChoice(mechanism=mechanism))

    def test_the_engines_default_holds_for_new_hosts_of_which_nothing_is_said(self) -> None:
        self.ways = AgentWays(
            WayChoice(connection=AGENT_DIALS, mechanism="spake2plus"), is_dialled=True
        )
        self.assertEqual(self.new(NOTHING), (AGENT_DIALS, "spake2plus"))
        self.assertEqual(self.new(WayChoice(mechanism="sign")), (AGENT_DIALS, "sign"))
        self.assertEqual(self.new(WayChoice(connection=ENGINE_DIALS)), (ENGINE_DIALS, "pin"))
        self.assertEqual(way(self.ways.applied(HOST, NOTHING)), (ENGINE_DIALS, "pin"))

    def test_a_known_host_keeps_what_is_left_open(self) -> None:
        host = replace(HOST, connection=AGENT_DIALS, mechanism="hmac")
        self.assertEqual(way(self.ways.applied(host, NOTHING)), (AGENT_DIALS, "hmac"))
        choice = WayChoice(mechanism="sign")
        self.assertEqual(way(self.ways.applied(host, choice)), (AGENT_DIALS, "sign"))
        choice = WayChoice(connection=ENGINE_DIALS)
        self.assertEqual(way(self.ways.applied(host, choice)), (ENGINE_DIALS, "pin"))

    def test_nobody_is_told_to_dial_an_engine_that_is_reached_nowhere(self) -> None:
        self.ways = AgentWays(NOTHING, is_dialled=False)
        with self.assertRaisesRegex(BadRequest, "--agent-url"):
            self.new(WayChoice(connection=AGENT_DIALS))
        with self.assertRaisesRegex(BadRequest, "--agent-url"):
            AgentWays(WayChoice(connection=AGENT_DIALS), is_dialled=False)

    def test_words_that_mean_nothing_are_answered_with_those_that_do(self) -> None:
        with self.assertRaisesRegex(BadRequest, "expected engine-dials or agent-dials"):
            connection_of("both")
        with self.assertRaisesRegex(BadRequest, "pin, sign, hmac, spake2plus"):
            check_way(WayChoice(mechanism="magic"))

    def test_only_another_way_is_another_way(self) -> None:
        self.assertFalse(is_other_way(HOST, NOTHING))
        self.assertFalse(is_other_way(HOST, WayChoice(connection=ENGINE_DIALS, mechanism="pin")))
        self.assertTrue(is_other_way(HOST, WayChoice(connection=AGENT_DIALS)))
        self.assertTrue(is_other_way(HOST, WayChoice(mechanism="sign")))


class InstallationTests(HostsTestCase):
    def test_an_installation_that_is_refused_leaves_the_way_as_it_was(self) -> None:
        host = self.add(activate=False)
        choice = WayChoice(mechanism="hmac")
        self.refusal(
            self.hosts.admission.install(host.id, SshLogin(), ADMIN, way=choice), BadRequest
        )
        self.assertEqual(len(self.access.logins), 1)
        self.assertEqual(way(self.now(self.hosts.get(host.id))), (ENGINE_DIALS, "pin"))

    def test_the_key_that_an_installation_brings_is_for_the_mechanism_that_was_chosen(
        self,
    ) -> None:
        host = self.add(activate=False)
        choice = WayChoice(connection=AGENT_DIALS, mechanism="sign")
        self.now(self.hosts.admission.install(host.id, SshLogin(), ADMIN, way=choice))
        host = self.now(self.hosts.get(host.id))
        self.assertEqual(way(host), (AGENT_DIALS, "sign"))
        self.assertEqual([key.mechanism for key in host.keys], ["sign"])
        self.assertEqual(self.trust.lookup(self.access.pin).mechanisms, {"sign"})
        self.assertIs(host.status, HostStatus.MAINTENANCE)
