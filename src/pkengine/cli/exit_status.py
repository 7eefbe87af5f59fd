"""What the commands' exit statuses mean, and the error that carries one."""

from __future__ import annotations

import enum

from pkengine.errors import PkengineError


class ExitStatus(enum.IntEnum):
    """The exit status of a command; scripts may rely on each."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_AUTHORIZED = 4
    NOT_FOUND = 5
    REFUSED = 6
    INTERRUPTED = 130


class CommandFailed(PkengineError):
    """A command ends here; the text is the one sentence that the user reads.

    Attributes:
        status: what the process exits with.
    """

    def __init__(self, message: str, status: ExitStatus = ExitStatus.FAILED) -> None:
        super().__init__(message)
        self.status = status
