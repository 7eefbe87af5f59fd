"""Invitations: made, used once, and ended, also over a restart of the engine."""

from __future__ import annotations

import uuid
from typing import Any

from pkengine.auth.endpoints import AUTHENTICATION_TIMEOUT_S
from pkengine.auth.fields import MessageReader, decode_fields, frame
from pkengine.auth.join_code import MOST_NUMBER, JoinCode
from pkengine.engine.events import TRUST_DECISIONS, EventCode
from pkengine.engine.hosts.request import MAX_TEXT
from pkengine.engine.joining.guesses import MOST_GUESSES
from pkengine.engine.joining.invitations import (
    DEFAULT_EXPIRY_S,
    KEPT_S,
    LONGEST_EXPIRY_S,
    MOST_INVITATIONS,
    Invitations,
)
from pkengine.engine.model import Invitation, InvitationState, Severity
from pkengine.engine.store import Seal
from pkengine.engine.store import invitations as queries
from pkengine.errors import AuthenticationError, BadRequest, Conflict, KeyFileError, NotFound
from pkengine.keys import Secret
from tests.auth.exchanges import messages
from tests.engine.hosts.fakes import ADMIN, HostsTestCase
from tests.engine.hosts.keys import seal
from tests.engine.joining.codes import prover, register, wrong

HOST_ID = uuid.uuid4()


class InvitationsTestCase(HostsTestCase):
    def start(self) -> None:
        super().start()
        self.begin()

    def begin(self, seal: Seal = seal()) -> None:  # noqa: B008 - it is always the same
        self.invitations = Invitations(
            self.clock,
            store=self.store,
            events=self.events,
            registry=self.registry,
            seal=seal,
            register=register,
        )
        self.addCleanup(lambda: self.now(self.invitations.stop()))
        self.now(self.invitations.start())

    def invite(self, **wanted: Any) -> tuple[Invitation, JoinCode]:
        made: tuple[Invitation, JoinCode] = self.now(self.invitations.invite(ADMIN, **wanted))
        return made

    def prove(self, code: JoinCode) -> str:
        """Prove a code; give the name that the engine knows the prover by."""
        initiator = self.now(prover(code)).initiator()
        acceptor = self.invitations.authenticator.acceptor()
        messages(initiator, acceptor)
        assert acceptor.outcome is not None
        return acceptor.outcome.peer.name

    def guess(self, code: JoinCode) -> None:
        self.assertRaises(AuthenticationError, self.prove, code)
        self.clock.advance(0)

    def burn(self, code: JoinCode) -> None:
        for _ in range(MOST_GUESSES):
            self.guess(wrong(code))
        self.clock.advance(AUTHENTICATION_TIMEOUT_S)

    def use(self, invitation: Invitation) -> None:
        self.now(self.store.write(self.invitations.use, invitation.id, HOST_ID))
        self.invitations.used(invitation.id, HOST_ID)

    def state(self, invitation: Invitation) -> InvitationState:
        return self.invitations.get(invitation.id).state

    def refusal_to_join(self, invitation: Invitation) -> str:
        with self.assertRaises(Conflict) as caught, self.invitations.joining(invitation.id):
            pass
        return str(caught.exception)

    def severities(self, code: EventCode) -> list[Severity]:
        events = self.now(self.events.list(limit=None))
        return [event.severity for event in events if event.code == code]


class Making(InvitationsTestCase):
    def test_who_knows_the_code_proves_the_invitation(self) -> None:
        invitation, code = self.invite(host_name="h1", is_approved=True)
        self.assertEqual(self.prove(code), str(invitation.id))
        self.assertEqual(invitation.number, code.number)
        self.assertEqual((invitation.host_name, invitation.is_approved), ("h1", True))
        lasts = (invitation.expires - invitation.created).total_seconds()
        self.assertEqual(lasts, DEFAULT_EXPIRY_S)

    def test_an_event_says_who_invited_and_not_the_code(self) -> None:
        _, code = self.invite(host_name="h1")
        _, text = self.log()[-1]
        self.assertEqual(self.codes()[-1], EventCode.HOST_INVITED)
        for part in ("admin@internal", "192.0.2.9", "Host h1", "will wait for approval"):
            self.assertIn(part, text)
        for word in code.words:
            self.assertNotIn(word, text)
        self.assertIn(EventCode.HOST_INVITED, TRUST_DECISIONS)

    def test_neither_the_database_nor_a_repr_has_the_words_or_what_verifies_them(self) -> None:
        invitation, code = self.invite()
        _, record = self.now(register(code))
        stored = self.path.read_bytes() + self.path.with_name(f"{self.path.name}-wal").read_bytes()
        for secret in (*(word.encode() for word in code.words), record.secret.reveal()):
            self.assertNotIn(secret, stored)
        self.assertNotIn("sealed", repr(invitation))

    def test_what_makes_no_sense_is_refused(self) -> None:
        self.add("taken")
        for wanted, error in (
            ({"host_name": "no name"}, BadRequest),
            ({"host_name": "x" * MAX_TEXT}, BadRequest),
            ({"host_name": "taken"}, Conflict),
            ({"expires_s": 1}, BadRequest),
            ({"expires_s": LONGEST_EXPIRY_S + 1}, BadRequest),
        ):
            self.refusal(self.invitations.invite(ADMIN, **wanted), error)
        self.assertEqual(self.invitations.list(), [])

    def test_each_has_a_number_of_its_own(self) -> None:
        numbers = [self.invite()[0].number for _ in range(50)]
        self.assertEqual(len(set(numbers)), 50)
        self.assertTrue(all(1 <= number <= MOST_NUMBER for number in numbers))

    def test_there_is_an_end_to_how_many_are_open(self) -> None:
        invitations = [self.invite()[0] for _ in range(MOST_INVITATIONS)]
        text = self.refusal(self.invitations.invite(ADMIN), Conflict)
        self.assertIn("are open already", text)
        self.now(self.invitations.revoke(invitations[7].id, ADMIN))
        self.invite()
        self.assertEqual(len(self.invitations.list()), MOST_INVITATIONS)
        self.assertRaises(NotFound, self.invitations.get, invitations[7].id)


class Guessing(InvitationsTestCase):
    def test_a_few_wrong_codes_burn_it(self) -> None:
        invitation, code = self.invite()
        _, others = self.invite()
        self.burn(code)
        self.assertEqual(self.state(invitation), InvitationState.BURNT)
        self.assertEqual(self.severities(EventCode.INVITATION_BURNT), [Severity.ALERT])
        self.prove(others)

    def test_ten_thousand_guesses_get_nowhere_and_touch_no_other_invitation(self) -> None:
        guessed_at, code = self.invite(expires_s=LONGEST_EXPIRY_S)
        _, other = self.invite(expires_s=LONGEST_EXPIRY_S)
        numbers = [n for n in range(1, 60) if n not in (code.number, other.number)]
        hellos = [
            self.now(prover(JoinCode(number, wrong(code).words))).initiator().start()
            for number in (*[code.number] * 60, *numbers)
        ]
        answered = 0
        for number in range(10_000):
            acceptor = self.invitations.authenticator.acceptor()
            acceptor.start()
            acceptor.receive(hellos[number % len(hellos)])
            self.assertRaises(AuthenticationError, acceptor.receive, frame(bytes(36)))
            answered += acceptor.outcome is not None
            self.clock.advance(0.2)
        self.assertEqual(answered, 0)
        self.assertEqual(self.state(guessed_at), InvitationState.BURNT)
        self.assertEqual(len(self.severities(EventCode.INVITATION_BURNT)), 1)
        self.prove(other)

    def test_one_wrong_code_does_not(self) -> None:
        invitation, code = self.invite()
        self.guess(wrong(code))
        self.prove(code)
        self.clock.advance(AUTHENTICATION_TIMEOUT_S)
        self.assertEqual(self.state(invitation), InvitationState.OPEN)

    def test_the_count_survives_the_engine(self) -> None:
        invitation, code = self.invite()
        for _ in range(MOST_GUESSES - 2):
            self.guess(wrong(code))
        self.crash()
        # The crash may have hidden one more guess, so one is left.
        self.guess(wrong(code))
        self.guess(code)
        self.clock.advance(AUTHENTICATION_TIMEOUT_S)
        self.assertEqual(self.state(invitation), InvitationState.BURNT)

    def test_who_guesses_learns_of_no_number_whether_it_is_invited(self) -> None:
        _, code = self.invite()
        missing = next(n for n in range(1, MOST_NUMBER) if n != code.number)
        answers = []
        for guess in (wrong(code), JoinCode(missing, code.words)):
            acceptor = self.invitations.authenticator.acceptor()
            acceptor.start()
            answer = acceptor.receive(self.now(prover(guess)).initiator().start())
            message = MessageReader().feed(answer)
            assert message is not None
            protocol, mechanism, _, *names, share, binding, proof = decode_fields(message, 9)
            answers.append((protocol, mechanism, names, len(share), binding, len(proof)))
            self.assertRaises(AuthenticationError, acceptor.receive, frame(bytes(36)))
        self.assertEqual(*answers)

    def test_many_guesses_at_all_numbers_leave_nothing_behind(self) -> None:
        _, code = self.invite()
        before = len(self.clock.getDelayedCalls())
        for number in range(1, 300):
            if number != code.number:
                acceptor = self.invitations.authenticator.acceptor()
                acceptor.start()
                acceptor.receive(
                    self.now(prover(JoinCode(number, code.words))).initiator().start()
                )
        self.assertEqual(len(self.clock.getDelayedCalls()), before)
        self.assertEqual(len(self.invitations._guesses._counts), 1)
        self.prove(code)


class Ending(InvitationsTestCase):
    def test_it_expires(self) -> None:
        invitation, code = self.invite(expires_s=600)
        self.clock.advance(599)
        self.prove(code)
        self.clock.advance(1)
        self.assertEqual(self.state(invitation), InvitationState.EXPIRED)
        self.assertEqual(self.codes()[-1], EventCode.INVITATION_EXPIRED)

    def test_it_expires_while_the_engine_is_away(self) -> None:
        invitation, _ = self.invite(expires_s=600)
        self.now(self.invitations.stop())
        self.clock.advance(700)
        self.crash()
        self.clock.advance(0)
        self.assertEqual(self.state(invitation), InvitationState.EXPIRED)

    def test_it_is_revoked_once(self) -> None:
        invitation, _ = self.invite()
        revoked = self.now(self.invitations.revoke(invitation.id, ADMIN))
        self.assertEqual(revoked.state, InvitationState.REVOKED)
        self.assertIn("revoked by admin@internal from 192.0.2.9", self.log()[-1][1])
        text = self.refusal(self.invitations.revoke(invitation.id, ADMIN), Conflict)
        self.assertIn("was revoked at", text)
        self.refusal(self.invitations.revoke(uuid.uuid4(), ADMIN), NotFound)

    def test_it_is_used_once(self) -> None:
        invitation, _ = self.invite()
        self.use(invitation)
        self.assertEqual(self.state(invitation), InvitationState.USED)
        self.refusal(self.store.write(self.invitations.use, invitation.id, HOST_ID), Conflict)

    def test_who_knows_the_code_is_told_what_became_of_it(self) -> None:
        invitation, code = self.invite()
        self.use(invitation)
        self.assertEqual(self.prove(code), str(invitation.id))
        self.assertIn("This code was used at", self.refusal_to_join(invitation))
        revoked, code = self.invite()
        self.now(self.invitations.revoke(revoked.id, ADMIN))
        self.prove(code)
        self.assertIn("This code was revoked at", self.refusal_to_join(revoked))
        burnt, code = self.invite()
        self.burn(code)
        self.prove(code)
        self.assertIn("This code was burnt at", self.refusal_to_join(burnt))
        expired, code = self.invite(expires_s=60)
        self.clock.advance(60)
        self.prove(code)
        self.assertIn("This code has expired at", self.refusal_to_join(expired))

    def test_an_hour_later_nothing_of_it_is_left(self) -> None:
        invitation, code = self.invite()
        self.use(invitation)
        self.clock.advance(KEPT_S)
        self.assertEqual(self.invitations.list(), [])
        self.assertEqual(self.now(self.store.read(queries.all_invitations)), [])
        self.guess(code)
        self.assertIn("ended long ago", self.refusal_to_join(invitation))

    def test_what_ended_stays_ended_over_a_restart(self) -> None:
        invitation, code = self.invite()
        self.use(invitation)
        self.crash()
        self.assertEqual(self.invitations.get(invitation.id).host_id, HOST_ID)
        self.prove(code)
        self.assertIn("was used", self.refusal_to_join(invitation))

    def test_one_that_was_used_in_vain_is_good_again(self) -> None:
        invitation, code = self.invite()
        self.use(invitation)
        self.now(self.invitations.reopen(invitation.id))
        self.assertEqual(self.state(invitation), InvitationState.OPEN)
        self.prove(code)
        self.burn(code)
        self.assertEqual(self.state(invitation), InvitationState.BURNT)


class JoiningByIt(InvitationsTestCase):
    def test_one_host_at_a_time_joins(self) -> None:
        invitation, _ = self.invite()
        with self.invitations.joining(invitation.id):
            self.assertIn("Another host is joining", self.refusal_to_join(invitation))
        with self.invitations.joining(invitation.id):
            pass

    def test_it_does_not_expire_while_a_host_joins(self) -> None:
        invitation, _ = self.invite(expires_s=60)
        with self.invitations.joining(invitation.id):
            self.clock.advance(61)
            self.assertEqual(self.state(invitation), InvitationState.OPEN)
        self.clock.advance(0)
        self.assertEqual(self.state(invitation), InvitationState.EXPIRED)

    def test_one_that_is_revoked_while_a_host_joins_is_not_used(self) -> None:
        invitation, _ = self.invite()
        with self.invitations.joining(invitation.id):
            self.now(self.invitations.revoke(invitation.id, ADMIN))
            text = self.refusal(
                self.store.write(self.invitations.use, invitation.id, HOST_ID), Conflict
            )
        self.assertIn("ended while this host was joining", text)

    def test_a_database_of_another_key_file_is_noticed(self) -> None:
        self.invite()
        self.now(self.invitations.stop())
        other = Invitations(
            self.clock,
            store=self.store,
            events=self.events,
            registry=self.registry,
            seal=Seal(Secret(b"x" * 32), "secrets.key"),
        )
        self.refusal(other.start(), KeyFileError)
