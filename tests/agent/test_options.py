"""What an administrator may say to ``twistd pkagent``, and what contradicts itself."""

from __future__ import annotations

import contextlib
import io

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

import pkengine
from pkengine.agent.options import Options


class OptionsTests(SynchronousTestCase):
    def test_an_agent_that_never_listens_cannot_listen_on_demand(self) -> None:
        with self.assertRaisesRegex(UsageError, "--listen-on-demand wants a port"):
            Options().parseOptions(["--listen", "none", "--listen-on-demand"])

    def test_the_version_is_that_of_pkengine(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as out, self.assertRaises(SystemExit):
            Options().parseOptions(["--version"])
        self.assertEqual(out.getvalue(), f"pkagent {pkengine.__version__}\n")
