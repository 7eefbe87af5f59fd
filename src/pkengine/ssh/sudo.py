"""Become root with sudo; the dialogue with it, without any IO.

sudo is asked to prompt with a mark that nobody can guess, and the shell that it starts first
writes another one.  So what comes on standard error tells where the dialogue stands: the
password goes out only after the first mark, and the command's own input only after the
second.  Without that a sudo that needs no password would pass the password on to the command.
"""

from __future__ import annotations

import enum
import re
import shlex

from pkengine.errors import SudoNotAllowed, SudoRefused
from pkengine.keys import Secret
from pkengine.ssh.wire import readable

#: What sudo says, in the C locale, and what that means.
_MEANINGS: tuple[tuple[str, type[SudoRefused], str], ...] = (
    (
        r"not in the sudoers file",
        SudoNotAllowed,
        "the user {user} is not in the host's sudoers file",
    ),
    (
        r"is not allowed to (execute|run)|may not run sudo",
        SudoNotAllowed,
        "the host's sudoers file does not allow {user} to run commands as root",
    ),
    (
        r"must have a tty",
        SudoRefused,
        "the host's sudoers file has 'requiretty', and no terminal is used here; add "
        "'Defaults:{user} !requiretty'",
    ),
    (
        r"account.*(expired|locked)|password.*expired",
        SudoRefused,
        "the account of {user} is not usable",
    ),
    (
        r"sudo\W*\s(command )?not found|No such file or directory.*sudo|sudo.*No such file",
        SudoNotAllowed,
        "sudo is not installed there",
    ),
)
_MAX_SAYINGS = 16 * 1024


class SudoState(enum.Enum):
    """Where the dialogue stands."""

    ASKED = "asked"
    PASSWORD_SENT = "password sent"  # noqa: S105
    STARTED = "started"


class SudoDialogue:
    """Runs one command as root.

    Args:
        command: what the shell runs as root.
        user: the user on the host, and `where` the host, as error texts name them.
        password: what sudo may ask for.
        mark: a text that nobody can guess, made of letters and digits.

    Attributes:
        command_line: what the user's own shell is to run.
    """

    def __init__(
        self, command: str, *, user: str, where: str, password: Secret | None, mark: str
    ) -> None:
        self._prompt = f"[pkengine {mark} password]".encode("ascii")
        self._start = f"[pkengine {mark} started]".encode("ascii")
        # The mark is put together by printf: where sudo quotes the command that it refuses,
        # the mark must not be part of it.
        script = f"printf '[pkengine %s started]' {mark} >&2\n{command}"
        sudo = ("sudo", "-S", "-p", self._prompt.decode(), "--", "/bin/sh", "-c", script)
        self.command_line = shlex.join(("env", "LC_ALL=C", *sudo))
        self._user = user
        self._where = where
        self._password = password
        self._said = b""
        self.state = SudoState.ASKED

    def receive(self, stderr: bytes) -> tuple[bytes, bytes]:
        """Take what came on standard error.

        Returns:
            What is to be written to standard input now, and what is the command's own
            standard error.

        Raises:
            SudoRefused: sudo wants a password again, or one that was not given.
        """
        if self.state is SudoState.STARTED:
            return b"", stderr
        self._said += stderr
        before, mark, after = self._said.partition(self._start)
        if mark:
            self._said = before
            self.state = SudoState.STARTED
            return b"", after
        if self._prompt in self._said:
            self._said = self._said.replace(self._prompt, b"", 1)
            return self._answer(), b""
        if len(self._said) > _MAX_SAYINGS:
            raise self._refused("it writes without end and does not start the command")
        return b"", b""

    def _answer(self) -> bytes:
        if self.state is SudoState.PASSWORD_SENT:
            raise self._refused("it does not accept the password")
        if self._password is None:
            raise self._refused("it asks for a password, and none was given")
        if b"\n" in self._password.reveal():
            raise self._refused("a password with a line break cannot be given to it")
        self.state = SudoState.PASSWORD_SENT
        return self._password.reveal() + b"\n"

    def refusal(self, how: str) -> SudoRefused:
        """Compose the error for a command that ended, or did not begin, as root.

        Args:
            how: what became of it, such as "it ended with exit status 1".
        """
        said = self._said.decode("utf-8", "replace")
        for pattern, kind, meaning in _MEANINGS:
            if re.search(pattern, said, re.IGNORECASE):
                return self._refused(meaning.format(user=self._user), kind)
        return self._refused(how)

    def _refused(self, why: str, kind: type[SudoRefused] = SudoRefused) -> SudoRefused:
        said = readable(self._said)
        words = f" It says: '{said}'." if said else ""
        return kind(f"sudo on {self._where} does not let {self._user} become root: {why}.{words}")
