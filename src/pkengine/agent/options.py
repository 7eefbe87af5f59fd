"""The command line of ``twistd pkagent``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.application.service import IService, MultiService
from twisted.logger import Logger
from twisted.python import usage

import pkengine
from pkengine.agent.state import default_directory
from pkengine.errors import PkengineError
from pkengine.extras import needs_extra
from pkengine.listening import AGENT_PORT


class Options(usage.Options):
    """What an administrator may say about the service."""

    synopsis = "[--state DIR] [--listen PORT-OR-ENDPOINT] [--listen-on-demand]"
    longdesc = "Answers the engines whose keys stand in DIR/authorized_engines."
    optParameters = [  # noqa: RUF012 - the name and form that twisted.python.usage wants
        ["state", "s", None, "Folder of keys and settings [default: /var/lib/pkagent]."],
        [
            "listen",
            "l",
            str(AGENT_PORT),
            "Port on all addresses, an endpoint such as tcp:54321:interface=127.0.0.1, or none "
            "where the agent only dials engines.",
        ],
    ]
    optFlags = [  # noqa: RUF012
        [
            "listen-on-demand",
            None,
            "Listen there only while an engine is accepted that this agent does not dial.",
        ],
    ]

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"pkagent {pkengine.__version__}")
        sys.exit(0)

    def postOptions(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UsageError: it does.
        """
        if self["listen"] == "none" and self["listen-on-demand"]:
            raise usage.UsageError("--listen-on-demand wants a port: --listen none has none")


def makeService(options: Options) -> IService:
    """Make the service, or end the process with one sentence on what is in the way."""
    from twisted.internet import reactor

    with needs_extra("twistd pkagent", "agent"):
        from pkengine.agent.service import AgentService

    directory = Path(options["state"]) if options["state"] else default_directory()
    try:
        return _EndsWithASentence(
            AgentService(
                reactor,
                directory,
                options["listen"],
                is_on_demand=bool(options["listen-on-demand"]),
            )
        )
    except PkengineError as error:
        sys.exit(f"pkagent: {error}")


class _EndsWithASentence(MultiService):
    """Ends the process with status 1 and one line in the log where the agent cannot start."""

    _log = Logger()

    def __init__(self, agent: IService) -> None:
        MultiService.__init__(self)
        MultiService.addService(self, agent)

    def privilegedStartService(self) -> None:
        """Start what may need root."""
        with self._refusal():
            MultiService.privilegedStartService(self)

    def startService(self) -> None:
        """Start the rest."""
        with self._refusal():
            MultiService.startService(self)

    @contextlib.contextmanager
    def _refusal(self) -> Iterator[None]:
        try:
            yield
        except PkengineError as error:
            self._log.critical("{reason}", reason=str(error))
            # twistd has to see the error: it removes its PID file, and the daemon tells the
            # process that waits for it.  It raises it again then, and all is said already.
            sys.excepthook = lambda *_: None
            raise
