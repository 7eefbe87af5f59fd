from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pkengine.cli.exit_status import CommandFailed, ExitStatus
from pkengine.cli.login import Login, read_password, resolve_login
from pkengine.keys import Secret


class LoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        self.state.mkdir()
        (self.state / "https.url").write_text("https://localhost:1234/ovirt-engine/api\n")
        (self.state / "initial-admin-password").write_text("of-the-state\n")
        self.file = self.state / "other"
        self.file.write_text("of-the-file\n")

    def resolve(
        self,
        *,
        environ: dict[str, str] | None = None,
        ask_password: Callable[[str], str] | None = None,
        **options: str,
    ) -> Login:
        names = ("url", "user", "password_file", "ca_file", "state")
        return resolve_login(
            **{name: options.get(name) for name in names},
            environ=environ or {},
            ask_password=ask_password,
        )

    def test_a_state_folder_knows_everything(self) -> None:
        for login in (
            self.resolve(state=str(self.state)),
            self.resolve(environ={"PKENGINE_STATE": str(self.state)}),
        ):
            self.assertEqual(login.api, "https://localhost:1234/ovirt-engine/api")
            self.assertEqual(login.ca_file, self.state / "https.crt")
            self.assertEqual(login.password(), Secret("of-the-state"))

    def test_options_come_before_the_environment_and_that_before_the_state_folder(self) -> None:
        environ = {
            "PKENGINE_STATE": str(self.state),
            "PKENGINE_URL": "https://by-environment",
            "PKENGINE_PASSWORD": "by-environment",
            "PKENGINE_CA_FILE": "/by-environment",
        }
        login = self.resolve(environ=environ)
        self.assertEqual(
            (login.origin, login.ca_file, login.password()),
            ("https://by-environment", Path("/by-environment"), Secret("by-environment")),
        )
        login = self.resolve(
            environ=environ,
            url="https://by-option:8443/",
            ca_file="/by-option",
            password_file=str(self.file),
        )
        self.assertEqual(
            (login.origin, login.ca_file, login.password()),
            ("https://by-option:8443", Path("/by-option"), Secret("of-the-file")),
        )

    def test_the_first_password_is_that_of_the_first_user_only(self) -> None:
        login = self.resolve(state=str(self.state), user="jane@internal")
        error = self.assertRaises(CommandFailed, login.password)
        self.assertEqual(error.status, ExitStatus.NOT_AUTHORIZED)

    def test_a_person_is_asked_when_nothing_else_says_it(self) -> None:
        questions: list[str] = []

        def answer(question: str) -> str:
            questions.append(question)
            return "typed"

        login = self.resolve(url="https://engine.example", ask_password=answer)
        self.assertEqual(questions, [])
        self.assertEqual(login.password(), Secret("typed"))
        self.assertEqual(questions, ["Password of admin@internal at https://engine.example"])

    def test_a_folder_of_no_engine_is_named(self) -> None:
        error = self.assertRaises(CommandFailed, self.resolve, state="/nonexistent")
        self.assertIn("/nonexistent/https.url", str(error))
        self.assertEqual(error.status, ExitStatus.USAGE)

    def test_a_password_is_the_first_line_and_not_empty(self) -> None:
        self.file.write_bytes(b"  with blanks \r\nsecond\n")
        self.assertEqual(read_password(str(self.file)), Secret("  with blanks "))
        self.file.write_bytes(b"\n")
        self.assertRaises(CommandFailed, read_password, str(self.file))
        error = self.assertRaises(CommandFailed, read_password, str(self.state / "missing"))
        self.assertIn("missing", str(error))

    def test_a_login_shows_no_secret(self) -> None:
        login = self.resolve(state=str(self.state))
        self.assertNotIn("of-the-state", repr(login))
