"""Relays to the ssh-agents of administrators, without a network."""

from __future__ import annotations

import uuid
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from pkengine.engine.hosts.agent_relays import (
    LONGEST_POLL_S,
    MOST_KEYS,
    MOST_RELAYS,
    AgentRelay,
    SignatureRequest,
)
from pkengine.engine.model import JumpHost, JumpLogin, NewHost, Origin, SshLogin
from pkengine.errors import BadRequest, Conflict, KeyAgentError, NotFound
from pkengine.keys import Secret
from pkengine.ssh.login_signature import SessionBinding
from tests.engine.hosts.fakes import ADMIN, HOST_KEY, HostsTestCase
from tests.engine.hosts.test_key_changes import NEW_KEY, OTHER

BINDING = SessionBinding(HOST_KEY, b"session", b"signature")


class RelayTests(HostsTestCase):
    def open(self) -> AgentRelay:
        return self.relays.open([NEW_KEY], ADMIN)

    def sign(self, relay: AgentRelay) -> Deferred[bytes]:
        return relay.sign(NEW_KEY, b"login", "ssh-ed25519", BINDING)

    def poll(self, relay: AgentRelay) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.relays.next_request(relay.id, ADMIN))

    def test_what_is_asked_for_reaches_the_client_and_its_signature_comes_back(self) -> None:
        relay = self.open()
        polled = self.poll(relay)
        self.assertNoResult(polled)
        signature = self.sign(relay)
        request: SignatureRequest = self.successResultOf(polled)
        self.assertEqual((request.key, request.signed), (NEW_KEY, b"login"))
        self.assertEqual(request.binding, BINDING)
        self.assertNoResult(signature)
        relay.answer(request.id, b"signed")
        self.assertEqual(self.successResultOf(signature), b"signed")
        with self.assertRaises(NotFound):
            relay.answer(request.id, b"again")

    def test_what_came_before_the_question_is_not_lost_and_given_once(self) -> None:
        relay = self.open()
        first, second = self.sign(relay), self.sign(relay)
        self.successResultOf(self.poll(relay))
        request = self.successResultOf(self.poll(relay))
        relay.answer(request.id, None)
        self.failureResultOf(second, KeyAgentError)
        self.assertNoResult(first)
        self.assertNoResult(self.poll(relay))
        relay.close()
        self.failureResultOf(first, KeyAgentError)

    def test_a_question_ends_after_a_while_without_an_answer(self) -> None:
        polled = self.poll(self.open())
        self.clock.advance(LONGEST_POLL_S)
        self.assertIsNone(self.successResultOf(polled))

    def test_who_gives_up_withdraws_what_was_to_be_signed(self) -> None:
        relay = self.open()
        signature = self.sign(relay)
        signature.cancel()
        self.failureResultOf(signature, CancelledError)
        self.assertNoResult(self.poll(relay))

    def test_it_ends_when_its_client_is_silent(self) -> None:
        relay = self.open()
        signature = self.sign(relay)
        self.clock.advance(59)
        self.relays.get(relay.id, ADMIN)
        self.clock.advance(59)
        self.assertNoResult(signature)
        self.clock.advance(1)
        self.failureResultOf(signature, KeyAgentError)
        with self.assertRaises(NotFound):
            self.relays.get(relay.id, ADMIN)

    def test_it_belongs_to_who_opened_it(self) -> None:
        relay = self.open()
        for work in (self.relays.get, self.relays.close):
            with self.assertRaises(NotFound):
                work(relay.id, OTHER)
        new = NewHost(name="h1", address="h1", ssh=SshLogin(key_agent=relay.id))
        self.refusal(self.hosts.admission.add(new, OTHER), NotFound)
        self.assertEqual(self.access.logins, [])

    def test_there_is_an_end_to_keys_and_relays(self) -> None:
        for keys in ([], [NEW_KEY] * (MOST_KEYS + 1)):
            with self.assertRaises(BadRequest):
                self.relays.open(keys, ADMIN)
        for number in range(MOST_RELAYS):
            self.relays.open([NEW_KEY], Origin(user=f"user-{number}"))
        with self.assertRaises(Conflict):
            self.open()
        self.relays.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_login_by_it_takes_no_key_of_the_engine_and_a_password_for_sudo_alone(self) -> None:
        relay = self.open()
        jumps = (
            JumpLogin(host=JumpHost("b")),
            JumpLogin(host=JumpHost("c"), password=Secret("c")),
        )
        ssh = SshLogin(user="ops", key_agent=relay.id, password=Secret("sudo"), jumps=jumps)
        self.now(self.hosts.admission.add(NewHost(name="h1", address="h1", ssh=ssh), ADMIN))
        self.assertEqual(self.access.agents, [relay, None, relay])
        self.assertEqual([login[3] for login in self.access.logins], [True, False, False])

    def test_one_that_is_not_there_is_told(self) -> None:
        new = NewHost(name="h1", address="h1", ssh=SshLogin(key_agent=uuid.uuid4()))
        self.assertIn("no relay", self.refusal(self.hosts.admission.add(new, ADMIN), NotFound))
