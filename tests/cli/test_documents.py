"""That the README's example is the one that is tested, and that it runs as it says there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

_ROOT = Path(__file__).parents[2]
_EXAMPLE = _ROOT / "docs" / "examples" / "pinned_echo.py"


class ExampleTests(SynchronousTestCase):
    def test_the_readme_shows_the_example_as_it_is(self) -> None:
        readme = (_ROOT / "README.md").read_text("utf-8")
        (shown,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        self.assertEqual(shown, _EXAMPLE.read_text("utf-8"))

    def test_the_embedding_page_includes_it(self) -> None:
        page = (_ROOT / "docs" / "embedding.md").read_text("utf-8")
        self.assertIn(f"{{literalinclude}} examples/{_EXAMPLE.name}\n", page)


class PinnedEchoTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(mode=0o700)
        self.environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
        }

    def auth(self, *arguments: str) -> str:
        program = "import sys; from pkengine.cli.auth import main; sys.exit(main())"
        return self.run_python("-c", program, *arguments).stdout.strip()

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def serve(self) -> tuple[subprocess.Popen[str], str]:
        server = subprocess.Popen(
            [sys.executable, str(_EXAMPLE), "serve", "server", "tcp:0:interface=127.0.0.1"],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        line = server.stdout.readline()
        return server, line.removeprefix("listening on port ").strip()

    def test_two_ends_that_trust_each_other_talk_and_a_stranger_is_refused(self) -> None:
        for name in ("server", "client", "stranger"):
            self.auth("keygen", name)
        self.auth("trust", "add", "server", self.auth("pin", "client", "--line", "client"))
        for name in ("client", "stranger"):
            self.auth("trust", "add", name, self.auth("pin", "server", "--line", "server"))
        server, port = self.serve()
        where = f"tcp:127.0.0.1:{port}"
        greeted = self.run_python(str(_EXAMPLE), "greet", "client", where)
        self.assertEqual(greeted.stdout, "server echoes 'hello'\n", greeted.stderr)
        assert server.stdout is not None
        self.assertEqual(server.stdout.readline(), "client says 'hello'\n")
        refused = self.run_python(str(_EXAMPLE), "greet", "stranger", where)
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("AuthenticationError", refused.stderr)
