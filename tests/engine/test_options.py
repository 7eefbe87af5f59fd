"""What an administrator may say to ``twistd pkengine``, and what lacks its other half."""

from __future__ import annotations

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from pkengine.engine.options import Options


class OptionsTests(SynchronousTestCase):
    def test_the_key_of_a_server_that_is_not_named_is_refused(self) -> None:
        with self.assertRaisesRegex(UsageError, "--agent-url: give both"):
            Options().parseOptions(["--agent-server", "authority"])
        Options().parseOptions(
            ["--agent-server", "authority", "--agent-url", "wss://engine.example/pkengine/agent"]
        )
