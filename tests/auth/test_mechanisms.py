"""Authenticators of every mechanism, from who one end is and whom it trusts."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.auth.folder import TrustFolder
from pkengine.auth.mechanisms import OWN_MECHANISMS, IdentityParts
from pkengine.errors import UnknownMechanism
from tests.auth.pinned import run
from tests.auth.test_strings import make_folders


def parts_of(directory: Path) -> IdentityParts:
    """Give what is in a trust folder."""
    folder = TrustFolder(directory)
    return IdentityParts(folder.make_identity(), folder.trust, folder.secrets)


class Parts(SynchronousTestCase):
    def test_the_same_parts_serve_every_mechanism(self) -> None:
        for mechanism in OWN_MECHANISMS:
            agent, engine = make_folders(Path(self.mktemp()), mechanism)
            initiator = parts_of(agent).authenticator(mechanism).initiator("engine")
            acceptor = parts_of(engine).authenticator(mechanism).acceptor()
            run(initiator, acceptor)
            for exchange, name in ((initiator, "engine"), (acceptor, "agent")):
                self.assertEqual(exchange.outcome.peer.name, name)
                self.assertEqual(exchange.outcome.mechanism, mechanism)

    def test_a_mechanism_that_is_not_ours_is_refused_and_ours_are_named(self) -> None:
        agent, _ = make_folders(Path(self.mktemp()), "hmac")
        error = self.assertRaises(UnknownMechanism, parts_of(agent).authenticator, "password")
        for name in ("password", *OWN_MECHANISMS):
            self.assertIn(name, str(error))
