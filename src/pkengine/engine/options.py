"""The command line of ``twistd pkengine``."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from twisted.application.service import IService
from twisted.python import usage

import pkengine
from pkengine.errors import PkengineError
from pkengine.extras import needs_extra

DEFAULT_STATE = "/var/lib/pkengine"
DEFAULT_HTTPS = "8443"


def _days(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise ValueError("expected a number of days, or 0 for ever")
    return int(text)


class Options(usage.Options):
    """What an administrator may say about the service."""

    synopsis = "[--state DIR] [--https PORT-OR-ENDPOINT] [--database URL] [--agent-url URL]"
    longdesc = (
        "Manages hosts, and serves their REST API below /ovirt-engine/api. What is missing in "
        "DIR is made at the first start; the password of admin@internal is then in "
        "DIR/initial-admin-password."
    )
    optFlags = [  # noqa: RUF012 - the name and form that twisted.python.usage wants
        [
            "require-direct",
            None,
            "Refuse every agent that dials in through a proxy that ends TLS. [default: only "
            "those of hosts that require it]",
        ],
    ]
    optParameters = [  # noqa: RUF012 - the name and form that twisted.python.usage wants
        ["state", "s", DEFAULT_STATE, "Folder of keys, settings and the database."],
        [
            "https",
            None,
            DEFAULT_HTTPS,
            "Port on all addresses, or an endpoint such as tcp:8443:interface=127.0.0.1; "
            "with port 0 the system chooses one. With haproxy: in front, every connection must "
            "begin with the header of the PROXY protocol.",
        ],
        [
            "trusted-proxies",
            None,
            None,
            "Addresses and networks of proxies, separated by commas, which are believed when "
            "they say where a request comes from; 'unix' for those at a UNIX socket. [default: "
            "none]",
        ],
        [
            "database",
            None,
            None,
            "Such as postgresql://USER@HOST/NAME; a URL with a password in it belongs into the "
            "environment variable PKENGINE_DATABASE. [default: SQLite in DIR/engine.db]",
        ],
        [
            "ssh-agent",
            None,
            None,
            "Socket of an ssh-agent whose keys are offered to hosts behind the engine's own, such "
            "as one with a hardware token. [default: none]",
        ],
        [
            "sshfp",
            None,
            None,
            "Believe a DNS resolver on this machine that validates DNSSEC, such as 127.0.0.53, "
            "about the SSH keys of hosts of which nothing else is known (SSHFP records). "
            "[default: DNS is not asked]",
        ],
        [
            "agent-url",
            None,
            None,
            "Where agents that dial reach this engine, such as "
            "wss://engine.example:8443/pkengine/agent; it may be a proxy's.",
        ],
        [
            "agent-server",
            None,
            None,
            "How agents know the server at --agent-url: the pin of its key, or 'authority' for "
            "a certificate that their system trusts. [default: the pin of this engine's key]",
        ],
        [
            "authorized-keys-options",
            None,
            None,
            "What limits this engine's SSH key in authorized_keys of hosts that are installed, "
            "such as 'from=\"192.0.2.0/24\",restrict'. [default: nothing]",
        ],
        [
            "connection",
            None,
            "engine-dials",
            "Which end dials the other where nothing is said of a host: engine-dials, or "
            "agent-dials, which needs --agent-url.",
        ],
        [
            "mechanism",
            None,
            "pin",
            "How both ends prove who they are where nothing is said of a host: pin, or, with "
            "agent-dials, sign, hmac or spake2plus.",
        ],
        ["keep-events", None, 90, "Keep events for so many days; 0 for ever.", _days],
        ["keep-audit", None, 730, "The same for the events that make the audit log.", _days],
        ["keep-jobs", None, 30, "The same for jobs that have ended.", _days],
    ]

    def postOptions(self) -> None:
        """Refuse what is about another option that is missing.

        Raises:
            UsageError: it is.
        """
        if self["agent-server"] is not None and self["agent-url"] is None:
            raise usage.UsageError("--agent-server is about the server at --agent-url: give both")

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"pkengine {pkengine.__version__}")
        sys.exit(0)


def makeService(options: Options) -> IService:
    """Make the service.

    Raises:
        PkengineError: something is in the way; as long as the service starts, such an error
            ends the process with its sentence on standard error instead of a traceback.
    """
    from twisted.internet import reactor

    with needs_extra("twistd pkengine", "engine,agent"):
        from pkengine.engine.hosts.agent_ways import connection_of
        from pkengine.engine.model import WayChoice
        from pkengine.engine.retention import Keep
        from pkengine.engine.service import Engine
        from pkengine.engine.state import StateFolder

    sys.excepthook = _excepthook
    engine = Engine(
        reactor,
        StateFolder(Path(options["state"])),
        https=options["https"],
        trusted_proxies=options["trusted-proxies"] or "",
        database_url=options["database"] or os.environ.get("PKENGINE_DATABASE") or None,
        terminal=_terminal(),
        ssh_agent=options["ssh-agent"],
        sshfp_resolver=options["sshfp"],
        agent_url=options["agent-url"],
        agent_server=options["agent-server"],
        authorized_keys_options=options["authorized-keys-options"],
        way=WayChoice(
            connection=connection_of(options["connection"]), mechanism=options["mechanism"]
        ),
        require_direct=bool(options["require-direct"]),
        keep=Keep(
            events_days=options["keep-events"],
            audit_days=options["keep-audit"],
            jobs_days=options["keep-jobs"],
        ),
    )
    # What is there by now stays: that the collector of cycles went through it again and again
    # would stop everything for a third of a second each time.
    engine.started.addCallbacks(lambda _: gc.freeze(), lambda _: _fail(reactor))
    return engine


def _terminal() -> TextIO | None:
    """Give the terminal of the person who starts the engine, if there is one.

    This is the process's own standard error: `sys.stderr` is the log by now.
    """
    stream = sys.__stderr__
    return stream if stream is not None and stream.isatty() else None


def _fail(reactor: Any) -> None:
    """Stop, and end the process with status 1; twistd itself has no way to say that."""
    atexit.register(_exit)
    reactor.stop()


def _exit() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if isinstance(error, PkengineError):
        print(f"pkengine: {error}", file=sys.__stderr__)  # twistd logs the other
    else:
        sys.__excepthook__(kind, error, traceback)
